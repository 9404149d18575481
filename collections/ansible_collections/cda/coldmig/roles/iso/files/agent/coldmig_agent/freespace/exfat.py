# SPDX-License-Identifier: GPL-3.0-or-later
"""exFAT: partclone's map, when the volume's flags say that it was left cleanly and our own count of its bitmap agrees.

Layout: Microsoft's "exFAT file system specification", revision 1.00.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from coldmig_agent.freespace import partclone
from coldmig_agent.freespace.area import Area, Doubt, Ranges, Unclean

_READ_BYTES = 1 << 20
_ACTIVE_FAT, _DIRTY, _FAILED, _CLEAR_TO_ZERO = 0x1, 0x2, 0x4, 0x8
_BITMAP_ENTRY = 0x81
_ADVICE = "unmount it or shut the machine down properly, then boot this ISO again"


@dataclass(frozen=True, slots=True)
class Layout:
    """What the boot sector says; offsets and sizes in bytes."""

    cluster_bytes: int
    clusters: int
    data_offset: int
    fat_offset: int
    root_cluster: int

    def offset_of(self, cluster: int) -> int:
        """Where a cluster lies; the first one has number 2. Raises Doubt."""
        if not 2 <= cluster < self.clusters + 2:
            raise Doubt(f"it refers to cluster {cluster} of {self.clusters}")
        return self.data_offset + (cluster - 2) * self.cluster_bytes


def _checksum(region: bytes) -> int:
    """Of the first eleven sectors; the bytes that change while it is mounted do not count."""
    total = 0
    for index, byte in enumerate(region):
        if index not in {106, 107, 112}:
            total = ((total >> 1) | (total << 31 & 0xFFFFFFFF)) + byte & 0xFFFFFFFF
    return total


def check_boot_sector(sector: bytes, area_bytes: int) -> Layout:
    """The layout that a boot sector describes. Raises Doubt, Unclean where it is marked as dirty."""
    length, fat_offset, fat_length, heap, clusters, root = struct.unpack_from("<QIIIII", sector, 72)
    revision, flags = struct.unpack_from("<HH", sector, 104)
    shift, cluster_shift, fats = sector[108], sector[109], sector[110]
    if sector[3:11] != b"EXFAT   " or sector[510:512] != b"\x55\xaa" or any(sector[11:64]):
        raise Doubt("it has no exFAT boot sector")
    if revision != 0x100 or fats != 1:
        raise Doubt(f"revision {revision:#x} with {fats} FATs: must be 0x100 with one")
    if flags & (_DIRTY | _FAILED):
        raise Unclean("it is marked as dirty or damaged: it was not unmounted", _ADVICE)
    if flags & ~_CLEAR_TO_ZERO:
        raise Doubt(f"unknown flags {flags:#x}")
    if not 9 <= shift <= 12 or cluster_shift > 25 - shift:
        raise Doubt(f"sectors of 2^{shift} bytes, 2^{cluster_shift} in a cluster: no sizes of exFAT")
    if length << shift > area_bytes or not heap < length or clusters > (length - heap) >> cluster_shift:
        raise Doubt(f"{length} sectors of 2^{shift} bytes, {clusters} clusters: the partition has {area_bytes} bytes")
    if fat_length << shift < (clusters + 2) * 4 or fat_offset + fat_length > heap:
        raise Doubt(f"its FAT is too small for {clusters} clusters")
    return Layout(1 << shift + cluster_shift, clusters, heap << shift, fat_offset << shift, root)


def check_boot_region(area: Area) -> None:
    """Raises Doubt unless the checksum of the boot region is right."""
    size = 1 << area.read_exactly(0, 512)[108]
    region = area.read_exactly(0, 12 * size)
    if region[11 * size :] != struct.pack("<I", _checksum(region[: 11 * size])) * (size // 4):
        raise Doubt("the checksum of its boot region is wrong")


def find_bitmap(area: Area, layout: Layout) -> tuple[int, int]:
    """First cluster and size of the allocation bitmap, which mkfs writes into the root directory. Raises Doubt."""
    root = area.read_exactly(layout.offset_of(layout.root_cluster), min(layout.cluster_bytes, _READ_BYTES))
    for start in range(0, len(root), 32):
        kind, flags = root[start], root[start + 1]
        if kind == 0:
            break
        if kind == _BITMAP_ENTRY:
            cluster, size = struct.unpack_from("<IQ", root, start + 20)
            if flags & 1 or size != -(-layout.clusters // 8):
                raise Doubt(f"its allocation bitmap has {size} bytes for {layout.clusters} clusters")
            return cluster, size
    raise Doubt("its allocation bitmap is not where it must be")


def count_free(area: Area, layout: Layout) -> int:
    """Free clusters: the zero bits of the allocation bitmap. Raises Doubt unless it is in one piece."""
    cluster, size = find_bitmap(area, layout)
    pieces = -(-size // layout.cluster_bytes)
    offset = layout.offset_of(cluster)
    layout.offset_of(cluster + pieces - 1)
    chain = area.read_exactly(layout.fat_offset + cluster * 4, pieces * 4)
    following = struct.unpack(f"<{pieces}I", chain)
    if any(after != cluster + index + 1 for index, after in enumerate(following[:-1])) or following[-1] < 0xFFFFFFF8:
        raise Doubt("its allocation bitmap is not in one piece")
    used, bits_left = 0, layout.clusters
    for start in range(0, size, _READ_BYTES):
        number = int.from_bytes(area.read_exactly(offset + start, min(_READ_BYTES, size - start)), "little")
        used += (number & ((1 << min(bits_left, _READ_BYTES * 8)) - 1)).bit_count()
        bits_left -= min(bits_left, _READ_BYTES * 8)
    return layout.clusters - used


def free_ranges(area: Area) -> Ranges:
    """Free bytes of an exFAT. Raises Doubt, Unclean, ToolError."""
    layout = check_boot_sector(area.read_exactly(0, 512), area.size_bytes)
    check_boot_region(area)
    expected = count_free(area, layout)
    end = layout.data_offset + layout.clusters * layout.cluster_bytes
    found = 0
    for start, stop in partclone.free_ranges(area, "exfat"):
        inside = min(stop, end)
        if inside <= start:
            continue
        offset, size = start - layout.data_offset, inside - start
        if offset < 0 or offset % layout.cluster_bytes or size % layout.cluster_bytes:
            raise Doubt(f"partclone's map has free bytes {start}-{stop}: not whole clusters of {layout.cluster_bytes}")
        found += size // layout.cluster_bytes
        yield start, inside
    if found != expected:
        raise Doubt(f"its allocation bitmap has {expected} free clusters, partclone's map {found}")
