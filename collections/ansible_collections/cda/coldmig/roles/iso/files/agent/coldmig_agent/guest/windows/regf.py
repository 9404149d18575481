# SPDX-License-Identifier: GPL-3.0-or-later
"""The base block of a registry hive and of its logs (regf specification, "Base block")."""

from __future__ import annotations

import struct
from dataclasses import dataclass

BASE_BLOCK = 4096
SECTOR = 512
PRIMARY, OLD_LOG, OLDEST_LOG, NEW_LOG = 0, 1, 2, 6
_CHECKSUM_AT = 508


class RegfError(ValueError):
    """The file is not a hive, or cannot be made whole; the text says why."""


@dataclass(frozen=True, slots=True)
class BaseBlock:
    """What the first sector of a hive or log says. ``written`` is a FILETIME, ``bins_size`` bytes."""

    primary_sequence: int
    secondary_sequence: int
    written: int
    file_type: int
    bins_size: int
    clustering: int
    intact: bool

    @property
    def dirty(self) -> bool:
        """Whether a hive with this base block is not whole without its logs."""
        return not self.intact or self.primary_sequence != self.secondary_sequence


def checksum(sector: bytes) -> int:
    """XOR of the first 508 bytes' words; 0 and all ones have substitutes."""
    value = 0
    for word in struct.unpack_from("<127I", sector):
        value ^= word
    return {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(value, value)


def parse(sector: bytes) -> BaseBlock:
    """Read the first 512 bytes. Raises RegfError where they are none of a hive or log."""
    if len(sector) < SECTOR:
        raise RegfError(f"it has {len(sector)} bytes, fewer than the {SECTOR} of a hive's first sector")
    if sector[:4] != b"regf":
        raise RegfError(f"it begins with {sector[:4].hex()}, not with 'regf'")
    first, second, written = struct.unpack_from("<IIQ", sector, 4)
    file_type = struct.unpack_from("<I", sector, 28)[0]
    bins_size, clustering = struct.unpack_from("<II", sector, 40)
    intact = struct.unpack_from("<I", sector, _CHECKSUM_AT)[0] == checksum(sector)
    return BaseBlock(first, second, written, file_type, bins_size, clustering, intact)


def made_whole(sector: bytes, *, sequence: int, bins_size: int, flags: int | None = None) -> bytes:
    """The first sector of the hive after recovery: both sequence numbers equal, the checksum right.

    ``flags``: of the last log entry; only their lowest bit counts.
    """
    block = bytearray(sector[:SECTOR])
    struct.pack_into("<II", block, 4, sequence, sequence)
    struct.pack_into("<I", block, 28, PRIMARY)
    struct.pack_into("<I", block, 40, bins_size)
    if flags is not None:
        struct.pack_into("<I", block, 144, struct.unpack_from("<I", block, 144)[0] & ~1 | flags & 1)
    struct.pack_into("<I", block, _CHECKSUM_AT, checksum(bytes(block)))
    return bytes(block)
