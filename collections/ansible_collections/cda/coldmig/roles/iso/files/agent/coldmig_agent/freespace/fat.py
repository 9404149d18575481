# SPDX-License-Identifier: GPL-3.0-or-later
"""FAT16 and FAT32: partclone's map, when the marks of a clean shutdown are set and our own count of the FAT agrees.

Layout: Microsoft's "FAT: General Overview of On-Disk Format". FAT12 has no such marks and is tiny: it is copied whole.
"""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass

from coldmig_agent.freespace import partclone
from coldmig_agent.freespace.area import Area, Doubt, Ranges, Unclean

_READ_BYTES = 1 << 20
_FAT12_CLUSTERS, _FAT16_CLUSTERS = 4085, 65525
_ADVICE = "unmount it or shut the machine down properly, then boot this ISO again"


@dataclass(frozen=True, slots=True)
class Layout:
    """What the boot sector says; offsets and sizes in bytes. ``entry_bytes`` is 2 (FAT16) or 4 (FAT32)."""

    cluster_bytes: int
    clusters: int
    entry_bytes: int
    fat_offset: int
    fat_bytes: int
    fats: int
    data_offset: int


def check_boot_sector(sector: bytes, area_bytes: int) -> Layout:
    """The layout that a boot sector describes. Raises Doubt."""
    sector_bytes, per_cluster, reserved, fats, root_entries, small_total = struct.unpack_from("<HBHBHH", sector, 11)
    small_fat, total32, fat32, flags, version = (
        struct.unpack_from("<H", sector, 22)[0],
        struct.unpack_from("<I", sector, 32)[0],
        *struct.unpack_from("<IHH", sector, 36),
    )
    if sector_bytes not in {512, 1024, 2048, 4096} or per_cluster not in {1 << n for n in range(8)}:
        raise Doubt(f"sectors of {sector_bytes} bytes, {per_cluster} in a cluster: no sizes of FAT")
    total, fat_sectors = small_total or total32, small_fat or fat32
    root_sectors = -(-root_entries * 32 // sector_bytes)
    data = reserved + fats * fat_sectors + root_sectors
    if not reserved or fats not in {1, 2} or not fat_sectors or not data < total <= area_bytes // sector_bytes:
        raise Doubt(f"{total} sectors of {sector_bytes} bytes, data from {data}: the partition has {area_bytes} bytes")
    clusters = (total - data) // per_cluster
    if clusters < _FAT12_CLUSTERS:
        raise Doubt("it is a FAT12, which does not say whether it was left cleanly")
    entry_bytes = 2 if clusters < _FAT16_CLUSTERS else 4
    if (entry_bytes == 4) != (small_fat == 0):
        raise Doubt("it is neither a FAT16 nor a FAT32")
    if entry_bytes == 4 and (flags & 0x80 or version):
        raise Doubt("its FATs are not mirrored, or its version is not known")
    if fat_sectors * sector_bytes < (clusters + 2) * entry_bytes:
        raise Doubt(f"its FAT is too small for {clusters} clusters")
    if sector[65 if entry_bytes == 4 else 37] & 0x3:
        raise Unclean("it is marked as dirty: it was not unmounted", _ADVICE)
    return Layout(
        per_cluster * sector_bytes, clusters, entry_bytes,
        reserved * sector_bytes, fat_sectors * sector_bytes, fats, data * sector_bytes,
    )  # fmt: skip


def count_free(area: Area, layout: Layout) -> int:
    """Free clusters: the zero entries of the FAT. Raises Doubt, Unclean where the FAT says so."""
    kind = "H" if layout.entry_bytes == 2 else "I"
    length = (layout.clusters + 2) * layout.entry_bytes
    free = 0
    for start in range(0, length, _READ_BYTES):
        size = min(_READ_BYTES, length - start)
        piece = area.read_exactly(layout.fat_offset + start, size)
        if layout.fats == 2 and area.read_exactly(layout.fat_offset + layout.fat_bytes + start, size) != piece:
            raise Doubt("its two FATs differ")
        entries = array(kind, piece)
        if sys.byteorder == "big":
            entries.byteswap()
        if start == 0:
            _check_marks(entries[1], layout.entry_bytes)
            entries = entries[2:]
        # The highest four bits of a FAT32 entry are reserved: an entry with only those set is free, and rare.
        free += entries.count(0)
        if kind == "I":
            free += sum(entries.count(high << 28) for high in range(1, 16))
    return free


def _check_marks(entry: int, entry_bytes: int) -> None:
    clean, healthy = (0x8000, 0x4000) if entry_bytes == 2 else (0x08000000, 0x04000000)
    if not entry & clean or not entry & healthy:
        raise Unclean("it is marked as dirty or damaged: it was not unmounted", _ADVICE)


def free_ranges(area: Area) -> Ranges:
    """Free bytes of a FAT16 or FAT32. Raises Doubt, Unclean, ToolError."""
    layout = check_boot_sector(area.read_exactly(0, 512), area.size_bytes)
    expected = count_free(area, layout)
    end = layout.data_offset + layout.clusters * layout.cluster_bytes
    found = 0
    for start, stop in partclone.free_ranges(area, "fat"):
        # partclone counts the sectors behind the last whole cluster as free; they belong to no file.
        inside = min(stop, end)
        if inside <= start:
            continue
        offset, size = start - layout.data_offset, inside - start
        if offset < 0 or offset % layout.cluster_bytes or size % layout.cluster_bytes:
            raise Doubt(f"partclone's map has free bytes {start}-{stop}: not whole clusters of {layout.cluster_bytes}")
        found += size // layout.cluster_bytes
        yield start, inside
    if found != expected:
        raise Doubt(f"its FAT has {expected} free clusters, partclone's map {found}")
