# SPDX-License-Identifier: GPL-3.0-or-later
"""One bit per chunk, bit i of byte i // 8 counted from the least significant: 128 KiB for a disk of 1 TiB."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_Change = Callable[[int, int], int]
_OCCUPIED = re.compile(rb"[^\0]")


class Bitmap:
    """A fixed number of bits with fast ranges. Not thread-safe: its owner locks."""

    __slots__ = ("_bits", "_count", "size")

    def __init__(self, size: int, content: bytes | None = None) -> None:
        """``content`` must have exactly ``bytes_for(size)`` bytes, with the unused bits of the last one 0."""
        self.size = size
        self._bits = bytearray(self.bytes_for(size)) if content is None else bytearray(content)
        if len(self._bits) != self.bytes_for(size):
            raise ValueError(f"content: {len(self._bits)} bytes, must be {self.bytes_for(size)} for {size} bits")
        self._count = int.from_bytes(self._bits, "little").bit_count()

    @staticmethod
    def bytes_for(size: int) -> int:
        """Length in bytes of a bitmap of ``size`` bits."""
        return -(-size // 8)

    @property
    def count(self) -> int:
        """Number of bits that are set."""
        return self._count

    def __getitem__(self, bit: int) -> bool:
        return bool(self._bits[bit >> 3] >> (bit & 7) & 1)

    def __bytes__(self) -> bytes:
        return bytes(self._bits)

    def set_range(self, start: int, end: int) -> None:
        """Sets the bits ``start`` to ``end - 1``."""
        self._change(start, end, lambda bits, mask: bits | mask)

    def clear_range(self, start: int, end: int) -> None:
        """Clears the bits ``start`` to ``end - 1``."""
        self._change(start, end, lambda bits, mask: bits & ~mask)

    def keep_where(self, other: Bitmap, start: int, end: int) -> None:
        """Clears those of the bits ``start`` to ``end - 1`` that are not set in ``other``."""
        other_bits = int.from_bytes(other._bits[start >> 3 : (end + 7) >> 3], "little")
        self._change(start, end, lambda bits, mask: bits & (other_bits | ~mask))

    def without(self, other: Bitmap) -> Bitmap:
        """The bits that are set here and not in ``other``, which has the same size."""
        here, there = int.from_bytes(self._bits, "little"), int.from_bytes(other._bits, "little")
        return Bitmap(self.size, (here & ~there).to_bytes(len(self._bits), "little"))

    def all_set(self, start: int, end: int) -> bool:
        """True if all bits ``start`` to ``end - 1`` are set."""
        mask = ((1 << (end - start)) - 1) << (start & 7)
        return int.from_bytes(self._bits[start >> 3 : (end + 7) >> 3], "little") & mask == mask

    def window(self, start: int, count: int) -> list[bool]:
        """The ``count`` bits from ``start`` on, one by one."""
        bits = int.from_bytes(self._bits[start >> 3 : (start + count + 7) >> 3], "little") >> (start & 7)
        return [bit == "1" for bit in f"{bits & ((1 << count) - 1):0{count}b}"[::-1]]

    def indices(self) -> Iterator[int]:
        """The numbers of the bits that are set, ascending; empty stretches cost next to nothing."""
        for match in _OCCUPIED.finditer(bytes(self._bits)):
            byte = match.group()[0]
            yield from (match.start() * 8 + bit for bit in range(8) if byte >> bit & 1)

    def _change(self, start: int, end: int, change: _Change) -> None:
        if not 0 <= start < end <= self.size:
            raise ValueError(f"range {start} to {end}: must lie in 0 to {self.size} and not be empty")
        first, last = start >> 3, (end + 7) >> 3
        before = int.from_bytes(self._bits[first:last], "little")
        after = change(before, ((1 << (end - start)) - 1) << (start & 7))
        self._bits[first:last] = after.to_bytes(last - first, "little")
        self._count += after.bit_count() - before.bit_count()
