# SPDX-License-Identifier: GPL-3.0-or-later
"""Btrfs: partclone's map, when there is one device, no log tree, and only features that partclone was tried with.

Layout: "On-disk format" of the Btrfs documentation.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from coldmig_agent.freespace import partclone
from coldmig_agent.freespace.area import Area, Doubt, Ranges, Unclean
from coldmig_agent.freespace.crc32c import crc32c

#: The superblock and its copies, where the device is large enough.
COPIES = (64 << 10, 64 << 20, 256 << 30)
SIZE = 4096
_MAGIC = b"_BHRfS_M"
_COMPAT_RO = {0x1: "free_space_tree", 0x2: "free_space_tree_valid"}
_INCOMPAT = {
    0x1: "mixed_backref", 0x2: "default_subvol", 0x4: "mixed_groups", 0x8: "compress_lzo", 0x10: "compress_zstd",
    0x20: "big_metadata", 0x40: "extended_iref", 0x100: "skinny_metadata", 0x200: "no_holes",
}  # fmt: skip
_WRITTEN = 0x1
_ADVICE = "start the machine, shut it down properly, and boot this ISO again if its free space should not be copied"


@dataclass(frozen=True, slots=True)
class Layout:
    """What the newest superblock says, in bytes."""

    total_bytes: int
    used_bytes: int
    sector_bytes: int


def check_superblock(block: bytes, area_bytes: int) -> Layout:
    """The layout that a superblock (4096 bytes) describes. Raises Doubt, Unclean where a log waits to be replayed."""
    flags = struct.unpack_from("<Q", block, 56)[0]
    log_root = struct.unpack_from("<Q", block, 96)[0]
    total, used, _directory, devices = struct.unpack_from("<QQQQ", block, 112)
    sector = struct.unpack_from("<I", block, 144)[0]
    compat, compat_ro, incompat, checksum = struct.unpack_from("<QQQH", block, 172)
    device_id, device_total = struct.unpack_from("<QQ", block, 201)
    if log_root:
        raise Unclean("its log holds changes: it was not unmounted cleanly", _ADVICE)
    if flags & ~_WRITTEN:
        raise Doubt(f"unknown flags {flags:#x}")
    if devices != 1 or device_id != 1:
        raise Doubt(f"it has {devices} devices, this is number {device_id}: must be one")
    if checksum:
        raise Doubt(f"checksums of type {checksum}: must be CRC-32C")
    for name, bits, known in (
        ("compatible", compat, {}),
        ("read-only compatible", compat_ro, _COMPAT_RO),
        ("incompatible", incompat, _INCOMPAT),
    ):
        if bits & ~sum(known):
            raise Doubt(f"unknown {name} features {bits & ~sum(known):#x}")
    if sector not in {1 << n for n in range(12, 17)} or total != device_total or not used <= total <= area_bytes:
        raise Doubt(f"{used} of {total} bytes in sectors of {sector}: the partition has {area_bytes} bytes")
    return Layout(total, used, sector)


def newest_superblock(area: Area) -> bytes:
    """The superblock with the highest generation, which must be the first. Raises Doubt for a damaged one."""
    found: list[tuple[int, bytes]] = []
    for offset in COPIES:
        if offset + SIZE > area.size_bytes:
            break
        block = area.read_exactly(offset, SIZE)
        address, magic, generation = struct.unpack_from("<Q8x8sQ", block, 48)
        if magic != _MAGIC or address != offset:
            raise Doubt(f"the superblock at {offset} is damaged")
        if struct.unpack_from("<H", block, 196)[0] == 0 and struct.unpack_from("<I", block)[0] != crc32c(block[32:]):
            raise Doubt(f"the checksum of the superblock at {offset} is wrong")
        found.append((generation, block))
    if not found:
        raise Doubt("it has no superblock")
    newest = max(generation for generation, _block in found)
    if found[0][0] != newest:
        raise Doubt(f"its first superblock has generation {found[0][0]}, a copy {newest}")
    return found[0][1]


def free_ranges(area: Area) -> Ranges:
    """Free bytes of a Btrfs. Raises Doubt, Unclean, ToolError."""
    layout = check_superblock(newest_superblock(area), area.size_bytes)
    found = 0
    for start, stop in partclone.free_ranges(area, "btrfs"):
        if start % layout.sector_bytes or stop % layout.sector_bytes or stop > layout.total_bytes:
            raise Doubt(f"partclone's map has free bytes {start}-{stop}: not whole sectors of {layout.sector_bytes}")
        found += stop - start
        yield start, stop
    if layout.total_bytes - found < layout.used_bytes:
        raise Doubt(f"it counts {layout.used_bytes} bytes in use, partclone's map {layout.total_bytes - found}")
