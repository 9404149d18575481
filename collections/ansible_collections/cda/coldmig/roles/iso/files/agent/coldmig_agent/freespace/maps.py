# SPDX-License-Identifier: GPL-3.0-or-later
"""The free ranges of a disk, kept compactly: 16 bytes a range, and never more than :data:`MAX_RANGES` of them.

A disk that is too fragmented loses its smallest free ranges, which are then copied like everything that is not known to
be free.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from blake3 import blake3

from coldmig_agent.machine import FreeArea, FreeSpace
from coldmig_wire.geometry import CHUNK, chunk_count, chunk_length

#: 8 MiB for a disk; as much again while the smallest ranges are dropped.
MAX_RANGES = 1 << 19
#: No range is smaller than this, and all are multiples of it.
SECTOR = 512
_DIGEST_PIECE = 4096


class FreeRanges:
    """Collects free ranges in ascending order."""

    def __init__(self, max_ranges: int = MAX_RANGES) -> None:
        self.starts = array("Q")
        self.stops = array("Q")
        self.dropped_bytes = 0
        self._max_ranges = max_ranges
        self._minimum = SECTOR

    def add(self, start: int, stop: int) -> None:
        """Add the bytes from ``start`` to ``stop``. Raises ValueError unless they lie behind all others."""
        last = self.stops[-1] if self.stops else 0
        if not last <= start < stop or start % SECTOR or stop % SECTOR:
            raise ValueError(f"free range {start} to {stop}: must be whole sectors behind byte {last}")
        if self.stops and start == last:
            self.stops[-1] = stop
            return
        if len(self.starts) >= self._max_ranges:
            self._drop_small()
        self.starts.append(start)
        self.stops.append(stop)

    def _drop_small(self) -> None:
        """Make room: half of the ranges at least go away, the smallest ones."""
        while len(self.starts) > self._max_ranges // 2:
            starts, stops = array("Q"), array("Q")
            for start, stop in zip(self.starts, self.stops, strict=True):
                if stop - start >= self._minimum:
                    starts.append(start)
                    stops.append(stop)
                else:
                    self.dropped_bytes += stop - start
            self.starts, self.stops = starts, stops
            if len(starts) > self._max_ranges // 2:
                self._minimum *= 2

    def forget_from(self, position: int) -> None:
        """Take back every range that begins at byte ``position`` or behind it."""
        keep = len(self.starts)
        while keep and self.starts[keep - 1] >= position:
            keep -= 1
        del self.starts[keep:], self.stops[keep:]


class FreeMap:
    """What of disk number ``disk`` is free. It never changes, so that several threads may ask it at once.

    ``ranges`` are (start, stop) in bytes of the disk, ascending and disjoint; ``areas`` say how they were found.
    Without ranges everything is copied. Raises ValueError for ranges that are out of order or outside the disk.
    """

    def __init__(
        self,
        disk: int,
        size_bytes: int,
        ranges: Iterable[tuple[int, int]] | FreeRanges = (),
        areas: Sequence[FreeArea] = (),
    ) -> None:
        if not isinstance(ranges, FreeRanges):
            collected = FreeRanges()
            for start, stop in ranges:
                collected.add(start, stop)
            ranges = collected
        self.disk = disk
        self.size_bytes = size_bytes
        self.areas = tuple(areas)
        self._starts = ranges.starts
        self._stops = ranges.stops
        if self._stops and self._stops[-1] > size_bytes:
            raise ValueError(f"disk {disk}: free range up to byte {self._stops[-1]} of {size_bytes}")
        self.free_bytes = sum(self._stops) - sum(self._starts)

    @property
    def used_bytes(self) -> int:
        """What has to be copied."""
        return self.size_bytes - self.free_bytes

    @property
    def count(self) -> int:
        """Number of free ranges."""
        return len(self._starts)

    def ranges(self) -> Iterable[tuple[int, int]]:
        """All free ranges: (start, stop) in bytes of the disk, ascending."""
        return zip(self._starts, self._stops, strict=True)

    def free_run(self, chunk: int, stop: int) -> int:
        """How many chunks from ``chunk`` on are free as a whole, none of them beyond ``stop``. 0: ``chunk`` is not."""
        start = chunk * CHUNK
        at = bisect_right(self._starts, start) - 1
        if at < 0 or self._stops[at] <= start:
            return 0
        end = self._stops[at]
        last = chunk_count(self.size_bytes) if end == self.size_bytes else end // CHUNK
        return max(0, min(stop, last) - chunk)

    def chunk_is_free(self, chunk: int) -> bool:
        """Whether no byte of the chunk has to be copied."""
        return self.free_run(chunk, chunk + 1) == 1

    def free_ranges_in(self, chunk: int) -> Sequence[tuple[int, int]]:
        """The free parts of a chunk: (start, stop) as offsets inside it, ascending."""
        base = chunk * CHUNK
        end = base + chunk_length(chunk, self.size_bytes)
        at = max(0, bisect_right(self._starts, base) - 1)
        found: list[tuple[int, int]] = []
        while at < len(self._starts) and self._starts[at] < end:
            start, stop = max(self._starts[at], base), min(self._stops[at], end)
            if start < stop:
                found.append((start - base, stop - base))
            at += 1
        return found

    @property
    def digest(self) -> str:
        """BLAKE3-256 in hexadecimal of size and ranges (little-endian 64-bit numbers): names the map in the record."""
        state = blake3(self.size_bytes.to_bytes(8, "little"))
        for first in range(0, len(self._starts), _DIGEST_PIECE):
            piece = array("Q", bytes(16 * len(self._starts[first : first + _DIGEST_PIECE])))
            piece[0::2] = self._starts[first : first + _DIGEST_PIECE]
            piece[1::2] = self._stops[first : first + _DIGEST_PIECE]
            if sys.byteorder == "big":
                piece.byteswap()
            state.update(piece.tobytes())
        return state.hexdigest()

    def describe(self) -> FreeSpace:
        """What is told to the site."""
        return FreeSpace(self.digest, self.areas)
