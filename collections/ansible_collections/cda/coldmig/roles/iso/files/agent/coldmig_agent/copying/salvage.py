# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what can be read of a damaged chunk: large pieces first, then sector by sector, bad sectors several times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

#: A piece that reads as a whole needs no look at its sectors.
PIECE = 64 << 10
#: Waits before the second, third and fourth try of the sectors that failed; heads settle, drives retry differently.
PAUSES: Final = (0.5, 2.0, 5.0)
#: Tries after the first end when they have cost this long: a dead area must not take days.
PATIENCE_SECONDS: Final = 120.0

ReadInto = Callable[[int, int], bool]


def salvage(  # noqa: PLR0917 - what it is given to do its work
    read: ReadInto,
    length: int,
    sector: int,
    free: Sequence[tuple[int, int]],
    pause: Callable[[float], None],
    now: Callable[[], float],
) -> list[tuple[int, int]]:
    """The ranges ``(offset, length)`` of a chunk of ``length`` bytes that stay unreadable, in whole sectors.

    ``read(offset, length)`` fills that part of the chunk and says whether it could. Parts in ``free`` (start, stop)
    are not wanted, so sectors that lie in them are not read at all.
    """
    bad: list[int] = []
    for start in range(0, length, PIECE):
        size = min(PIECE, length - start)
        if _within(start, start + size, free) or read(start, size):
            continue
        for offset in range(start, start + size, sector):
            end = min(offset + sector, length)
            if not _within(offset, end, free) and not read(offset, end - offset):
                bad.append(offset)
    began = now()
    for seconds in PAUSES:
        if not bad or now() - began > PATIENCE_SECONDS:
            break
        pause(seconds)
        bad = [
            offset
            for offset in bad
            if now() - began > PATIENCE_SECONDS or not read(offset, min(sector, length - offset))
        ]
    return joined([(offset, min(sector, length - offset)) for offset in bad])


def _within(start: int, end: int, free: Sequence[tuple[int, int]]) -> bool:
    return any(first <= start and end <= stop for first, stop in free)


def joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ascending ranges ``(start, length)`` with those that touch made one."""
    found: list[tuple[int, int]] = []
    for start, size in ranges:
        if found and found[-1][0] + found[-1][1] == start:
            found[-1] = (found[-1][0], found[-1][1] + size)
        else:
            found.append((start, size))
    return found
