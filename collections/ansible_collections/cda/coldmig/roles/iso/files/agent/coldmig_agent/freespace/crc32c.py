# SPDX-License-Identifier: GPL-3.0-or-later
"""CRC-32C (Castagnoli), byte by byte: for superblocks, not for data."""

from __future__ import annotations


def _entry(value: int) -> int:
    for _bit in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_TABLE = tuple(_entry(index) for index in range(256))


def crc32c(data: bytes) -> int:
    """The checksum as iSCSI and Btrfs have it."""
    state = 0xFFFFFFFF
    for byte in data:
        state = state >> 8 ^ _TABLE[(state ^ byte) & 0xFF]
    return state ^ 0xFFFFFFFF
