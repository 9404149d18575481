# SPDX-License-Identifier: GPL-3.0-or-later
"""Marvin32, the keyed checksum with which Windows protects the entries of a registry log."""

from __future__ import annotations

import struct

#: The key of registry logs, low word and high word. The regf specification ("Log entries", note 3) gives its bytes
#: with the highest first.
REGISTRY_SEED = (0x7A4E55C5, 0x82EF4D88)
_WORDS_AT_ONCE = 1 << 14
_MASK = 0xFFFFFFFF


def marvin32(data: bytes | memoryview, seed: tuple[int, int] = REGISTRY_SEED) -> int:
    """The 64-bit checksum of ``data``; its low word comes first on a disk."""
    low, high = seed
    whole = len(data) // 4 * 4
    tail = bytes(data[whole:]) + b"\x80"
    view = memoryview(data)
    for start in range(0, whole, 4 * _WORDS_AT_ONCE):
        part = view[start : min(whole, start + 4 * _WORDS_AT_ONCE)]
        low, high = _mix(low, high, struct.unpack(f"<{len(part) // 4}I", part))
    low, high = _mix(low, high, (int.from_bytes(tail, "little"), 0))
    return high << 32 | low


def _mix(low: int, high: int, words: tuple[int, ...]) -> tuple[int, int]:
    for word in words:
        low = low + word & _MASK
        high ^= low
        low = ((low << 20 | low >> 12) + high) & _MASK
        high = (high << 9 | high >> 23) & _MASK ^ low
        low = ((low << 27 | low >> 5) + high) & _MASK
        high = (high << 19 | high >> 13) & _MASK
    return low, high
