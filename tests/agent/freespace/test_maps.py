# SPDX-License-Identifier: GPL-3.0-or-later
"""The free ranges of a disk: what they say of chunks, and that they stay small."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from coldmig_agent.freespace.maps import MAX_RANGES, FreeMap, FreeRanges
from coldmig_wire.geometry import CHUNK, chunk_count

MIB = 1 << 20
Pair = tuple[int, int]


def test_without_ranges_nothing_is_free() -> None:
    empty = FreeMap(0, 10 * MIB)
    assert (empty.free_bytes, empty.used_bytes, empty.count) == (0, 10 * MIB, 0)
    assert empty.free_run(0, 10) == 0
    assert empty.free_ranges_in(3) == []


def test_chunks_against_a_plain_bitmap() -> None:
    """Every answer about random maps equals that of a list with one entry for each sector."""
    chance = random.Random(3)
    for _round in range(30):
        sectors = chance.randrange(1, 3 * 2048)
        size = sectors * 512
        free = [False] * sectors
        for _run in range(chance.randrange(12)):
            start = chance.randrange(sectors)
            stop = min(sectors, start + chance.choice([1, 7, 300, 2048, 5000]))
            free[start:stop] = [True] * (stop - start)
        subject = FreeMap(0, size, runs(free))
        chunks = chunk_count(size)
        whole = [all(free[chunk * 2048 : (chunk + 1) * 2048]) for chunk in range(chunks)]
        assert subject.free_bytes == 512 * sum(free)
        for chunk in range(chunks):
            expected = 0
            while chunk + expected < chunks and whole[chunk + expected]:
                expected += 1
            assert subject.free_run(chunk, chunks) == expected
            assert subject.free_run(chunk, chunk + 1) == min(expected, 1)
            assert subject.chunk_is_free(chunk) == whole[chunk]
            assert list(subject.free_ranges_in(chunk)) == list(runs(free[chunk * 2048 : (chunk + 1) * 2048]))


def runs(free: list[bool]) -> Iterator[Pair]:
    start = 0
    while start < len(free):
        stop = start
        while stop < len(free) and free[stop] == free[start]:
            stop += 1
        if free[start]:
            yield start * 512, stop * 512
        start = stop


@pytest.mark.parametrize(
    "ranges",
    [[(1024, 1024)], [(2048, 1024)], [(100, 1024)], [(512, 1000)], [(4096, 8192), (0, 512)], [(0, 8192), (4096, 9216)]],
)
def test_ranges_that_make_no_sense_are_refused(ranges: list[Pair]) -> None:
    with pytest.raises(ValueError, match="free range"):
        FreeMap(0, MIB, ranges)


def test_a_range_beyond_the_disk_is_refused() -> None:
    with pytest.raises(ValueError, match="of 1048576"):
        FreeMap(0, MIB, [(0, MIB + 512)])


def test_ranges_that_touch_become_one() -> None:
    assert list(FreeMap(0, MIB, [(0, 512), (512, 1024), (2048, 4096)]).ranges()) == [(0, 1024), (2048, 4096)]


def test_the_digest_is_that_of_the_ranges() -> None:
    first = FreeMap(0, MIB, [(0, 512)])
    assert first.digest == FreeMap(7, MIB, [(0, 512)]).digest
    assert len({first.digest, FreeMap(0, 2 * MIB, [(0, 512)]).digest, FreeMap(0, MIB, [(0, 1024)]).digest}) == 3
    many = FreeMap(0, 1 << 30, ((index * 1024, index * 1024 + 512) for index in range(10_000)))
    assert len(many.digest) == 64


def test_a_fragmented_disk_loses_its_smallest_ranges() -> None:
    ranges = FreeRanges(max_ranges=100)
    for index in range(1000):
        start = index * MIB
        ranges.add(start, start + (512 if index % 50 else 65536))
    subject = FreeMap(0, 1000 * MIB, ranges)
    assert subject.count <= 100
    assert sum(1 for start, stop in subject.ranges() if stop - start == 65536) == 20
    assert ranges.dropped_bytes + subject.free_bytes == 980 * 512 + 20 * 65536


def test_a_map_is_never_larger_than_16_mib() -> None:
    ranges = FreeRanges()
    largest = 0
    for index in range(MAX_RANGES + 5000):
        ranges.add(index * 8192, index * 8192 + 4096)
        if not index % 4096:
            largest = max(largest, len(ranges.starts) * 2 * ranges.starts.itemsize)
    assert largest <= 8 * MIB
    assert len(ranges.starts) <= MAX_RANGES


def test_taking_back_leaves_what_lies_before() -> None:
    ranges = FreeRanges()
    for start in (0, 4096, 8192, 16384):
        ranges.add(start, start + 512)
    ranges.forget_from(8192)
    assert list(zip(ranges.starts, ranges.stops, strict=True)) == [(0, 512), (4096, 4608)]
    ranges.add(8192, 8704)


def test_a_whole_disk_that_is_free() -> None:
    size = 5 * CHUNK + 512
    assert FreeMap(0, size, [(0, size)]).free_run(0, 99) == 6
    assert FreeMap(0, size, [(0, size - 512)]).free_run(0, 99) == 5
