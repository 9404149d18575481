# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what can be read of a damaged chunk: large pieces first, then sector by sector, bad sectors again later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

#: A piece that reads as a whole needs no look at its sectors.
PIECE = 64 << 10
#: Waits before the further tries of all sectors of a disk that failed; heads settle, drives retry differently.
PAUSES: Final = (0.5, 2.0, 5.0)
#: The further tries of one disk end when they have taken this long: a dead area must not take days.
PATIENCE_SECONDS: Final = 1800.0

ReadInto = Callable[[int, int], bool]
Ranges = Sequence[tuple[int, int]]


def first_tries(read: ReadInto, length: int, sector: int, unwanted: Ranges) -> list[tuple[int, int]]:
    """The ranges ``(offset, length)`` of a chunk of ``length`` bytes that could not be read, in whole sectors.

    ``read(offset, length)`` fills that part of the chunk and says whether it could. Sectors that lie in ``unwanted``,
    ascending ranges ``(start, stop)``, are not read at all.
    """
    bad: list[tuple[int, int]] = []
    for start in range(0, length, PIECE):
        size = min(PIECE, length - start)
        if not _touches(start, start + size, unwanted):
            if not read(start, size):
                bad += retry(read, [(start, size)], sector)
            continue
        wanted = [
            (offset, min(sector, length - offset))
            for offset in range(start, start + size, sector)
            if not _within(offset, min(offset + sector, length), unwanted)
        ]
        for offset, count in joined(wanted):
            if not read(offset, count):
                bad += retry(read, [(offset, count)], sector)
    return joined(bad)


def retry(read: ReadInto, ranges: Ranges, sector: int) -> list[tuple[int, int]]:
    """What of ``ranges`` (offset, length) cannot be read, sector by sector."""
    return joined([(offset, size) for offset, size in sectors(ranges, sector) if not read(offset, size)])


def sectors(ranges: Ranges, sector: int) -> Iterator[tuple[int, int]]:
    """The sectors (offset, length) of ranges that begin at one."""
    for start, size in ranges:
        for offset in range(start, start + size, sector):
            yield offset, min(sector, start + size - offset)


def _touches(start: int, end: int, unwanted: Ranges) -> bool:
    return any(first < end and start < stop for first, stop in unwanted)


def _within(start: int, end: int, unwanted: Ranges) -> bool:
    return any(first <= start and end <= stop for first, stop in unwanted)


def joined(ranges: Ranges) -> list[tuple[int, int]]:
    """Ascending ranges ``(start, length)`` with those that touch made one."""
    found: list[tuple[int, int]] = []
    for start, size in ranges:
        if found and found[-1][0] + found[-1][1] == start:
            found[-1] = (found[-1][0], found[-1][1] + size)
        else:
            found.append((start, size))
    return found
