# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a source: what is skipped, what is zeroed, what is damaged, what lies, and what has gone."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image

from coldmig_agent.copying import device as device_module
from coldmig_agent.copying import salvage
from coldmig_agent.copying import sample as sample_module
from coldmig_agent.copying.channel import Channel, Closed
from coldmig_agent.copying.device import MediumError, SourceDevice, SourceLostError
from coldmig_agent.copying.items import DataChunk, Item, Run
from coldmig_agent.copying.known import WINDOW, KnownChunks
from coldmig_agent.copying.pool import Pool
from coldmig_agent.copying.progress import DiskProgress
from coldmig_agent.copying.reader import DiskReader, Line, Sampled, UnstableError
from coldmig_agent.copying.runs import FREE_LIMIT, RUN_LIMIT, RunMerger
from coldmig_agent.copying.salvage import PAUSES
from coldmig_agent.copying.sample import Reservoir
from coldmig_agent.copying.unreadable import MAX_RANGES, TooManyError, Unreadable
from coldmig_agent.copying.walker import EXTENT, Extent, Skip, walk
from coldmig_agent.freespace.maps import FreeMap
from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import CHUNK
from coldmig_wire.geometry import chunk_count

TIB = 1 << 40


@dataclass
class Desk:
    """A pass over one disk, whose items are digested at once and kept."""

    size: int
    pool: Pool = field(default_factory=lambda: Pool(64))
    items: Channel[Item] = field(default_factory=lambda: Channel(8))
    unreadable: Unreadable = field(default_factory=Unreadable)
    sample: Reservoir = field(default_factory=Reservoir)
    halt: threading.Event = field(default_factory=threading.Event)
    sampled: list[Sampled] = field(default_factory=list)
    found: list[Item] = field(default_factory=list)
    content: bytearray = field(init=False)
    depth: int = 1

    def __post_init__(self) -> None:
        self.content = bytearray(b"\xee" * self.size)
        self.progress = DiskProgress(0, self.size, chunk_count(self.size))

    def take(self) -> None:
        """Everything that comes, until the end."""
        while True:
            try:
                item = self.items.get(60)
            except Closed:
                return
            assert item is not None
            self.found.append(item)
            start = item.chunk * CHUNK
            if isinstance(item, Run):
                end = min(self.size, start + item.run * CHUNK)
                self.content[start:end] = bytes(end - start)
                continue
            self.content[start : start + item.length] = item.raw
            self.sample.offer(item.chunk, chunk_digest(item.raw), usable=not item.unreadable)
            self.pool.give(item.buffer)

    def read(self, path: Path, missing: Sequence[range] | None = None, free: FreeMap | None = None) -> DiskReader:
        """Read the disk as a pass does."""
        taker = threading.Thread(target=self.take)
        taker.start()
        try:
            source = SourceDevice(path, self.size)
            line = Line(self.pool, self.items, self.unreadable, lambda: self.depth, self.halt, self.sampled.append)
            reader = DiskReader(0, source, line, self.progress, self.sample, free)
            holes = source.hole_until if source.is_file else None
            ranges = [range(chunk_count(self.size))] if missing is None else missing
            reader.read_all(walk(ranges, self.size, free, None, holes))
            return reader
        finally:
            self.items.end()
            taker.join()

    @property
    def runs(self) -> list[tuple[str, int, int]]:
        """Runs as (kind, chunk, run), data as ("data", chunk, length), ascending."""
        return sorted(
            (
                (("free" if item.free else "zero"), item.chunk, item.run)
                if isinstance(item, Run)
                else ("data", item.chunk, item.length)
                for item in self.found
            ),
            key=lambda row: row[1],
        )


def noise(path: Path, size: int, seed: int = 1) -> bytes:
    content = random.Random(seed).randbytes(size)
    path.write_bytes(content)
    return content


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [512, 4096, MIB - 512, MIB, MIB + 512, 9 * MIB + 3 * 512])
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "buffered"])
def test_every_byte_of_a_disk_of_any_size_is_read(
    tmp_path: Path, size: int, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not direct:
        monkeypatch.setattr(device_module, "_refuses", lambda *_: True)
    content = noise(tmp_path / "disk.img", size)
    desk = Desk(size)
    reader = desk.read(tmp_path / "disk.img")
    assert reader.device.direct is direct
    assert desk.content == content
    assert desk.progress.view().read_bytes == size
    assert desk.pool.free == desk.pool.count


def test_sixteen_tebibytes_of_nothing_are_a_few_frames_and_no_reading(tmp_path: Path) -> None:
    image = empty_image(tmp_path / "disk.img", 8 * TIB)  # as much as one file may have on ext4, twice over in chunks
    with image.open("r+b") as file:
        file.seek(5 * TIB + 12345)
        file.write(b"x")
    steps = list(walk([range(8 << 20)], 8 * TIB, None, None, SourceDevice(image, 8 * TIB).hole_until))
    read = [step for step in steps if isinstance(step, Extent)]
    assert sum(step.count for step in read) == EXTENT
    assert sum(step.run for step in steps if isinstance(step, Skip)) == (8 << 20) - EXTENT
    emitted: list[tuple[int, int, bool]] = []
    merger = RunMerger(lambda *run: emitted.append(run), now=lambda: 0.0)
    merger.add(0, 16 << 20, free=True)
    merger.flush()
    assert len(emitted) == (16 << 20) // FREE_LIMIT


def test_a_free_map_of_sixteen_tebibytes_is_walked_by_ranges() -> None:
    size = 16 * TIB
    free = FreeMap(0, size, [(GAP, size // 2), (size // 2 + GAP, size)])
    steps = list(walk([range(16 << 20)], size, free, None, None))
    assert [step for step in steps if isinstance(step, Skip)] == [
        Skip(1, (8 << 20) - 1, free=True),
        Skip((8 << 20) + 1, (8 << 20) - 1, free=True),
    ]
    assert [(step.chunk, step.count) for step in steps if isinstance(step, Extent)] == [(0, 1), (8 << 20, 1)]


GAP = MIB

# --- zeros, free space, what is missing -------------------------------------------------------------------------------


def test_zero_chunks_are_merged_to_runs_within_what_is_missing(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    content = bytearray(20 * MIB + 512)
    content[5 * MIB + 77] = 1
    image.write_bytes(content)
    desk = Desk(len(content))
    desk.read(image, [range(10), range(12, 21)])
    assert desk.runs == [("zero", 0, 5), ("data", 5, MIB), ("zero", 6, 4), ("zero", 12, 9)]


def test_free_chunks_are_never_read_and_free_ranges_count_as_zeros(tmp_path: Path) -> None:
    content = bytearray(noise(tmp_path / "disk.img", 8 * MIB + 512))
    ranges = [(MIB + 4096, 4 * MIB), (6 * MIB - 512, 6 * MIB + 1024), (8 * MIB, 8 * MIB + 512)]
    desk = Desk(len(content))
    desk.read(tmp_path / "disk.img", free=FreeMap(0, len(content), ranges))
    for start, stop in ranges:
        content[start:stop] = bytes(stop - start)
    assert desk.content == content
    assert ("free", 2, 2) in desk.runs
    assert ("free", 8, 1) in desk.runs
    view = desk.progress.view()
    assert view.read_bytes == 6 * MIB
    assert view.skipped_bytes == sum(stop - start for start, stop in ranges)


def test_a_chunk_whose_used_part_is_zeros_is_a_zero_chunk(tmp_path: Path) -> None:
    content = bytearray(noise(tmp_path / "disk.img", 2 * MIB))
    content[:4096] = bytes(4096)
    (tmp_path / "disk.img").write_bytes(content)
    desk = Desk(2 * MIB)
    desk.read(tmp_path / "disk.img", free=FreeMap(0, 2 * MIB, [(4096, MIB)]))
    assert desk.runs == [("zero", 0, 1), ("data", 1, MIB)]


def test_what_overtakes_is_put_together_again(tmp_path: Path) -> None:
    content = bytearray(noise(tmp_path / "disk.img", 40 * MIB))
    for chunk in (3, 4, 5, 17, 18, 19, 20, 21, 33):
        content[chunk * MIB : (chunk + 1) * MIB] = bytes(MIB)
    (tmp_path / "disk.img").write_bytes(content)
    desk = Desk(40 * MIB, depth=4)
    desk.read(tmp_path / "disk.img")
    assert desk.content == content
    assert sum(run for kind, _chunk, run in desk.runs if kind == "zero") == 9


def test_runs_are_joined_in_any_order_and_given_out_in_pieces() -> None:
    chance = random.Random(4)
    emitted: list[tuple[int, int, bool]] = []
    merger = RunMerger(lambda *run: emitted.append(run), now=lambda: 0.0)
    for _round in range(50):
        emitted.clear()
        chunks = [chunk for chunk in range(300) if chance.random() < 0.9]
        free = {chunk for chunk in chunks if chunk % 40 < 10}
        chance.shuffle(chunks)
        for chunk in chunks:
            merger.add(chunk, 1, free=chunk in free)
        merger.flush()
        told = [(chunk, kind) for start, run, kind in emitted for chunk in range(start, start + run)]
        assert sorted(told) == sorted((chunk, chunk in free) for chunk in chunks)
    emitted.clear()
    for start in range(0, 3 * RUN_LIMIT, 64):
        merger.add(start, 64)
    assert [run for _start, run, _free in emitted] == [RUN_LIMIT] * 3


def test_a_gap_that_is_filled_late_makes_one_run() -> None:
    emitted: list[tuple[int, int, bool]] = []
    merger = RunMerger(lambda *run: emitted.append(run), now=lambda: 0.0)
    for chunk in (4, 0, 2, 3, 1):
        merger.add(chunk, 1)
    merger.add(5, 1, free=True)
    merger.flush()
    assert emitted == [(0, 5, False), (5, 1, True)]


def test_a_run_does_not_wait_long_on_a_slow_disk() -> None:
    now = [0.0]
    emitted: list[tuple[int, int, bool]] = []
    merger = RunMerger(lambda *run: emitted.append(run), now=lambda: now[0])
    merger.add(0, 1)
    now[0] = 5.0
    merger.add(1, 1)
    assert emitted == [(0, 2, False)]


# --- what the site knows ----------------------------------------------------------------------------------------------


def test_known_digests_are_fetched_window_by_window_and_zeros_mean_nothing() -> None:
    asked: list[tuple[int, int]] = []

    def fetch(first: int, count: int) -> bytes:
        asked.append((first, count))
        return b"".join((chunk + 1 if chunk % 2 else 0).to_bytes(8, "big") for chunk in range(first, first + count))

    known = KnownChunks(fetch, WINDOW + 10)
    steps = list(walk([range(2, 6), range(WINDOW - 2, WINDOW + 10)], (WINDOW + 10) * CHUNK, None, known, None))
    for step in steps:
        assert isinstance(step, Extent)
        for chunk, prefix in enumerate(step.known, step.chunk):
            assert prefix == ((chunk + 1).to_bytes(8, "big") if chunk % 2 else None)
    assert asked == [(0, WINDOW), (WINDOW, 10)]


def test_without_an_earlier_attempt_the_site_is_asked_once() -> None:
    asked: list[int] = []
    known = KnownChunks(lambda first, _count: asked.append(first), 3 * WINDOW)
    assert known.prefixes(0, 4) == [None] * 4
    assert known.prefixes(WINDOW, 2) == [None] * 2
    assert asked == [0]


# --- damage -----------------------------------------------------------------------------------------------------------


Preadv = Callable[[int, Sequence[memoryview], int], int]


def failing(
    monkeypatch: pytest.MonkeyPatch, bad: Callable[[int, int], int], calls: list[tuple[int, int]] | None = None
) -> None:
    """Reads of which ``bad(offset, length)`` is an errno fail with it."""
    real: Preadv = os.preadv

    def read(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        length = sum(map(len, buffers))
        if calls is not None:
            calls.append((offset, length))
        if code := bad(offset, length):
            raise OSError(code, os.strerror(code))
        return real(fd, buffers, offset)

    monkeypatch.setattr(device_module.os, "preadv", read)


def bad_sectors(*sectors: int) -> Callable[[int, int], int]:
    def bad(offset: int, length: int) -> int:
        return (
            errno.EIO
            if any(offset < sector * 512 + 512 and sector * 512 < offset + length for sector in sectors)
            else 0
        )

    return bad


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []

    def pause(_reader: DiskReader, seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(DiskReader, "_pause", pause)
    return pauses


def test_only_the_bad_sectors_are_lost_and_their_addresses_are_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pauses: list[float]
) -> None:
    content = bytearray(noise(tmp_path / "disk.img", 6 * MIB))
    lost = (2 * 2048 + 5, 2 * 2048 + 6, 3 * 2048 - 1, 3 * 2048)
    failing(monkeypatch, bad_sectors(*lost))
    desk = Desk(6 * MIB)
    desk.read(tmp_path / "disk.img")
    for sector in lost:
        content[sector * 512 : sector * 512 + 512] = bytes(512)
    assert desk.content == content
    assert desk.unreadable.ranges_of(0) == [(lost[0] * 512, 1024), (lost[2] * 512, 1024)]
    assert desk.unreadable.bytes_of(0) == 2048
    assert {item.chunk: item.unreadable for item in desk.found if isinstance(item, DataChunk) and item.unreadable} == {
        2: 1536,
        3: 512,
    }
    # The damaged chunks come last: they hold up nothing.
    assert [item.chunk for item in desk.found][-2:] == [2, 3]
    # One pause for all damaged chunks of the disk.
    assert [seconds for seconds in no_pauses if seconds] == [*PAUSES]
    _version, report = desk.unreadable.report()
    assert report == [{"index": 0, "bytes": 2048, "ranges": [[lost[0] * 512, 1024], [lost[2] * 512, 1024]]}]


def test_a_damaged_chunk_is_never_taken_for_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pauses: list[float]
) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(MIB) + b"x" * MIB)
    failing(monkeypatch, bad_sectors(9))
    desk = Desk(2 * MIB)
    desk.read(tmp_path / "disk.img")
    assert sorted(desk.runs) == [("data", 0, MIB), ("data", 1, MIB)]
    assert desk.unreadable.ranges_of(0) == [(9 * 512, 512)]
    assert any(seconds > 0 for seconds in no_pauses)


def test_a_sector_that_reads_at_the_third_try_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pauses: list[float]
) -> None:
    content = noise(tmp_path / "disk.img", 2 * MIB)
    tries: list[tuple[int, int]] = []

    def bad(offset: int, length: int) -> int:
        covers = offset <= 7 * 512 < offset + length
        return errno.EIO if covers and sum(found == (7 * 512, 512) for found in tries) < 3 else 0

    failing(monkeypatch, bad, tries)
    desk = Desk(2 * MIB)
    desk.read(tmp_path / "disk.img")
    assert desk.content == content
    assert desk.unreadable.report() == (0, [])
    assert sum(seconds > 0 for seconds in no_pauses) == 2


def test_bad_sectors_in_free_space_are_not_even_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pauses: list[float]
) -> None:
    content = bytearray(noise(tmp_path / "disk.img", 2 * MIB))
    calls: list[tuple[int, int]] = []
    failing(monkeypatch, bad_sectors(2048 + 300), calls)
    free = FreeMap(0, 2 * MIB, [(MIB + 256 * 512, MIB + 512 * 512)])
    desk = Desk(2 * MIB)
    desk.read(tmp_path / "disk.img", free=free)
    content[MIB + 256 * 512 : MIB + 512 * 512] = bytes(256 * 512)
    assert desk.content == content
    assert desk.unreadable.bytes_of(0) == 0
    assert (MIB + 300 * 512, 512) not in calls
    assert not any(no_pauses)


def test_a_dead_area_does_not_take_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pauses: list[float]
) -> None:
    monkeypatch.setattr(salvage, "PATIENCE_SECONDS", -1.0)
    noise(tmp_path / "disk.img", 4 * MIB)
    calls: list[tuple[int, int]] = []
    failing(monkeypatch, lambda offset, length: errno.EIO if offset + length > 3 * MIB else 0, calls)
    desk = Desk(4 * MIB)
    desk.read(tmp_path / "disk.img")
    assert desk.unreadable.ranges_of(0) == [(3 * MIB, MIB)]
    assert sum(length == 512 and offset >= 3 * MIB for offset, length in calls) == 2048
    assert sum(seconds > 0 for seconds in no_pauses) == 1


def test_a_sector_that_reads_only_once_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pauses: list[float]
) -> None:
    content = noise(tmp_path / "disk.img", 2 * MIB)
    singly: list[int] = []

    def bad(offset: int, length: int) -> int:
        if not offset <= 7 * 512 < offset + length:
            return 0
        if length == 512:
            singly.append(offset)
        return 0 if length == 512 and len(singly) == 3 else errno.EIO

    failing(monkeypatch, bad)
    # The second look would see the sector fail again, which is no lie.
    desk = Desk(2 * MIB)
    desk.read(tmp_path / "disk.img")
    assert desk.content == content
    assert desk.unreadable.bytes_of(0) == 0
    assert sum(seconds > 0 for seconds in no_pauses) == 2


def test_bad_sectors_at_both_ends_and_in_the_middle_are_no_lost_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pauses: list[float]
) -> None:
    noise(tmp_path / "disk.img", 6 * MIB)
    failing(monkeypatch, bad_sectors(0, 3 * 2048, 6 * 2048 - 1))
    desk = Desk(6 * MIB)
    desk.read(tmp_path / "disk.img")
    assert desk.unreadable.bytes_of(0) == 3 * 512
    assert any(seconds > 0 for seconds in no_pauses)


def test_a_disk_of_one_chunk_is_looked_at_twice(tmp_path: Path) -> None:
    noise(tmp_path / "disk.img", MIB)
    desk = Desk(MIB)
    desk.read(tmp_path / "disk.img")
    assert desk.sampled == [Sampled(1, 0)]


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ENXIO])
def test_a_disk_that_vanishes_is_lost_and_not_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    noise(tmp_path / "disk.img", 12 * MIB)
    failing(monkeypatch, lambda offset, _length: code if offset >= 6 * MIB else 0)
    desk = Desk(12 * MIB)
    with pytest.raises(SourceLostError, match="does not answer any more"):
        desk.read(tmp_path / "disk.img")
    assert all(item.chunk < 8 for item in desk.found)


def test_a_disk_on_which_nothing_can_be_read_any_more_has_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(tmp_path / "disk.img", 12 * MIB)
    gone = threading.Event()

    def bad(offset: int, _length: int) -> int:
        if offset >= 4 * MIB:
            gone.set()
        return errno.EIO if gone.is_set() else 0

    failing(monkeypatch, bad)
    desk = Desk(12 * MIB)
    with pytest.raises(SourceLostError, match="does not answer any more"):
        desk.read(tmp_path / "disk.img")
    assert desk.unreadable.report() == (0, [])


def test_a_disk_that_has_become_shorter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "disk.img"
    noise(image, 2 * MIB)
    with pytest.raises(SourceLostError, match="has 2097152 bytes now; it had 3145728"):
        SourceDevice(image, 3 * MIB)
    source = SourceDevice(image, 2 * MIB)
    with image.open("r+b") as file:
        file.truncate(MIB)
    (buffer, other) = Pool(2).take(2)
    with pytest.raises(SourceLostError, match="ends at byte 1048576"):
        source.read([buffer, other], 0, 2 * MIB)
    monkeypatch.undo()


def test_a_place_that_takes_long_is_visible_and_holds_up_no_other_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = noise(tmp_path / "disk.img", 40 * MIB)
    stuck, others = threading.Event(), threading.Event()
    desk = Desk(40 * MIB, depth=2)

    def bad(offset: int, length: int) -> int:
        if (offset, length) == (0, EXTENT * MIB):
            stuck.set()
            assert others.wait(30)
        elif offset == 36 * MIB:
            assert stuck.wait(30)
            others.set()
        return 0

    failing(monkeypatch, bad)
    desk.read(tmp_path / "disk.img")
    assert desk.content == content


def test_reports_are_bounded_and_a_chunk_that_reads_at_last_is_taken_out() -> None:
    unreadable = Unreadable()
    for chunk in range(MAX_RANGES + 5):
        unreadable.note(3, chunk, [(chunk * CHUNK, 512)])
    _version, (disk,) = unreadable.report()
    assert disk["bytes"] == (MAX_RANGES + 5) * 512
    assert len(disk["ranges"]) == MAX_RANGES  # type: ignore[arg-type]
    before = unreadable.version
    for chunk in range(MAX_RANGES + 5):
        unreadable.note(3, chunk, [])
    assert unreadable.version > before
    assert unreadable.report()[1] == [{"index": 3, "bytes": 0, "ranges": []}]


def test_a_dying_disk_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldmig_agent.copying.unreadable.MAX_CHUNKS", 3)
    unreadable = Unreadable()
    for chunk in range(3):
        unreadable.note(0, chunk, [(chunk * CHUNK, 512)])
    with pytest.raises(TooManyError, match="more than 3 places"):
        unreadable.note(0, 7, [(7 * CHUNK, 512)])


def test_errors_of_the_medium_and_of_the_device_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(tmp_path / "disk.img", MIB)
    source = SourceDevice(tmp_path / "disk.img", MIB)
    buffers = Pool(1).take()
    for code, kind in ((errno.EIO, MediumError), (errno.ENODATA, MediumError), (errno.ENODEV, SourceLostError)):
        failing(monkeypatch, lambda _offset, _length, code=code: code)
        with pytest.raises(kind):
            source.read(buffers, 0, MIB)
        monkeypatch.undo()


# --- the second look --------------------------------------------------------------------------------------------------


def test_a_disk_that_gives_other_data_the_second_time_is_found_out_before_its_last_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(tmp_path / "disk.img", 20 * MIB)
    desk = Desk(20 * MIB)
    real = desk.sample.drawn

    def change() -> list[tuple[int, bytes]]:
        noise(tmp_path / "disk.img", 20 * MIB, seed=2)
        assert len(desk.found) <= 19
        return real()

    monkeypatch.setattr(desk.sample, "drawn", change)
    with pytest.raises(UnstableError, match=r"9 of 9 samples differ, at bytes \d+ to \d+"):
        desk.read(tmp_path / "disk.img")
    assert desk.sampled == [Sampled(9, 9)]
    assert len(desk.found) == 19


def test_a_steady_disk_passes_the_second_look_with_its_free_ranges(tmp_path: Path) -> None:
    noise(tmp_path / "disk.img", 20 * MIB)
    free = FreeMap(0, 20 * MIB, [(chunk * MIB + 512, chunk * MIB + 4096) for chunk in range(20)])
    desk = Desk(20 * MIB)
    desk.read(tmp_path / "disk.img", free=free)
    assert desk.sampled == [Sampled(9, 0)]
    assert len(desk.found) == 20


def test_the_sample_is_uniform_and_bounded() -> None:
    counts = [0] * 2000
    for seed in range(60):
        reservoir = Reservoir(random.Random(seed))
        for chunk in range(2000):
            reservoir.expect()
            reservoir.offer(chunk, b"")
        drawn = reservoir.drawn()
        assert len(drawn) == 2000 // sample_module.SHARE
        for chunk, _digest in drawn:
            counts[chunk] += 1
    halves = sum(counts[:1000]), sum(counts[1000:])
    assert 0.8 < halves[0] / halves[1] < 1.25
    big = Reservoir(random.Random(1))
    for chunk in range(20_000):
        big.expect()
        big.offer(chunk, b"")
    assert len(big.drawn()) == sample_module.MAX_SAMPLE


def test_the_sample_waits_for_what_is_still_being_digested() -> None:
    reservoir = Reservoir()
    reservoir.expect()
    timer = threading.Timer(0.2, reservoir.offer, (7, b"d"))
    timer.start()
    assert reservoir.drawn() == [(7, b"d")]
    reservoir.expect()
    reservoir.abort()
    assert reservoir.drawn() == []
