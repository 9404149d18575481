# SPDX-License-Identifier: GPL-3.0-or-later
"""NTFS: partclone's map, when ntfs-3g.probe would mount it for writing and our own look at $Volume and $Bitmap agrees.

Structures: ntfs-3g's documentation (layout.h) and libyal's "NTFS format" and "Volume Shadow Snapshot format".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from coldmig_agent.freespace import partclone
from coldmig_agent.freespace.area import Area, Doubt, Hibernated, Ranges, Unclean

_VOLUME, _BITMAP = 3, 6
_VOLUME_INFORMATION, _DATA, _END = 0x70, 0x80, 0xFFFFFFFF
_ATTRIBUTE_LIST = 0x20
_DIRTY = 0x1
#: Flags of $VOLUME_INFORMATION that say nothing about the free clusters: set by newer Windows, "changed by chkdsk".
_HARMLESS_FLAGS = 0x80 | 0x8000
_SHADOW_COPIES = 0x1E00
_SHADOW_CATALOG = 48
_READ_BYTES = 1 << 20
_MAX_RUNS = 1 << 16
_ADVICE = "start Windows and shut it down completely (shutdown /s /t 0), then boot this ISO again"

_PROBED_HIBERNATED, _PROBED_UNCLEAN = 14, 15


@dataclass(frozen=True, slots=True)
class Layout:
    """What the boot sector says, in bytes; ``clusters`` counts them."""

    cluster_bytes: int
    clusters: int
    record_bytes: int
    mft_offset: int


@dataclass(frozen=True, slots=True)
class Bitmap:
    """Where $Bitmap lies: (offset, length) in bytes of the area, and its size."""

    runs: tuple[tuple[int, int], ...]
    size_bytes: int


def check_boot_sector(sector: bytes, area_bytes: int) -> Layout:
    """The layout that a boot sector describes. Raises Doubt."""
    sector_bytes, per_cluster = struct.unpack_from("<HB", sector, 11)
    total, mft = struct.unpack_from("<QQ", sector, 40)
    record = struct.unpack_from("<b", sector, 64)[0]
    if sector[3:11] != b"NTFS    " or sector[510:512] != b"\x55\xaa":
        raise Doubt("it has no NTFS boot sector")
    if per_cluster > 0x80:
        per_cluster = 1 << min(256 - per_cluster, 31)
    cluster_bytes = sector_bytes * per_cluster
    if sector_bytes not in {512, 1024, 2048, 4096} or not 512 <= cluster_bytes <= 2 << 20:
        raise Doubt(f"sectors of {sector_bytes} bytes, clusters of {cluster_bytes}: no sizes of NTFS")
    if cluster_bytes & (cluster_bytes - 1):
        raise Doubt(f"clusters of {cluster_bytes} bytes: must be a power of two")
    record_bytes = record * cluster_bytes if record > 0 else 1 << min(-record, 31)
    if record_bytes not in {512, 1024, 2048, 4096}:
        raise Doubt(f"file records of {record_bytes} bytes: no size of NTFS")
    if not total or total > area_bytes // sector_bytes or mft * cluster_bytes >= area_bytes:
        raise Doubt(
            f"{total} sectors of {sector_bytes} bytes, MFT in cluster {mft}: the partition has {area_bytes} bytes"
        )
    return Layout(cluster_bytes, total // per_cluster, record_bytes, mft * cluster_bytes)


def _record(area: Area, layout: Layout, number: int) -> bytes:
    """A file record of the MFT's beginning, which is never fragmented, with its fixups undone. Raises Doubt."""
    raw = bytearray(area.read_exactly(layout.mft_offset + number * layout.record_bytes, layout.record_bytes))
    fixups, count = struct.unpack_from("<HH", raw, 4)
    flags, used = struct.unpack_from("<HI", raw, 22)
    base = struct.unpack_from("<Q", raw, 32)[0]
    if raw[:4] != b"FILE" or count != layout.record_bytes // 512 + 1 or not 42 <= fixups <= 512 - 2 * count:
        raise Doubt(f"file record {number} is damaged")
    if not flags & 1 or base or not 64 <= used <= len(raw):
        raise Doubt(f"file record {number} is not in use")
    mark = raw[fixups : fixups + 2]
    for sector in range(1, count):
        end = sector * 512
        if raw[end - 2 : end] != mark:
            raise Doubt(f"file record {number} was not written completely")
        raw[end - 2 : end] = raw[fixups + 2 * sector : fixups + 2 * sector + 2]
    return bytes(raw[:used])


def _attributes(record: bytes, kind: int) -> list[bytes]:
    """The unnamed attributes of a kind. Raises Doubt where they may lie in other records too."""
    found: list[bytes] = []
    offset = struct.unpack_from("<H", record, 20)[0]
    while offset + 8 <= len(record):
        this, length = struct.unpack_from("<II", record, offset)
        if this == _END:
            return found
        if length < 24 or length % 8 or offset + length > len(record):
            break
        if this == _ATTRIBUTE_LIST:
            raise Doubt("a system file is spread over several records")
        if this == kind and not record[offset + 9]:
            found.append(record[offset : offset + length])
        offset += length
    raise Doubt("a system file's attributes are damaged")


def check_volume(area: Area, layout: Layout) -> None:
    """Raises Unclean where Windows has marked the volume as dirty, Doubt for versions and flags that are not known."""
    found = _attributes(_record(area, layout, _VOLUME), _VOLUME_INFORMATION)
    if len(found) != 1 or found[0][8]:
        raise Doubt("it has no volume information")
    offset = struct.unpack_from("<H", found[0], 20)[0]
    if offset + 12 > len(found[0]):
        raise Doubt("its volume information is damaged")
    major, minor, flags = struct.unpack_from("<8xBBH", found[0], offset)
    if flags & _DIRTY:
        raise Unclean("it is marked as dirty: Windows was not shut down properly, or wants to check it", _ADVICE)
    if (major, minor) not in {(3, 0), (3, 1)} or flags & ~_HARMLESS_FLAGS:
        raise Doubt(f"NTFS version {major}.{minor}, flags {flags:#x}: not known")


def check_shadow_copies(area: Area) -> None:
    """Raises Doubt where there are shadow copies: they lie in part in clusters that are free now."""
    header = area.read_exactly(_SHADOW_COPIES, 512)
    if struct.unpack_from("<Q", header, _SHADOW_CATALOG)[0]:
        raise Doubt("it holds shadow copies (previous versions), which need clusters that are free now")


def find_bitmap(area: Area, layout: Layout) -> Bitmap:
    """Where the cluster bitmap lies. Raises Doubt."""
    found = _attributes(_record(area, layout, _BITMAP), _DATA)
    if len(found) != 1 or not found[0][8] or len(found[0]) < 64:
        raise Doubt("its cluster bitmap is not where it must be")
    attribute = found[0]
    flags = struct.unpack_from("<H", attribute, 12)[0]
    first, _last, runs_offset = struct.unpack_from("<QQH", attribute, 16)
    _allocated, size, initialized = struct.unpack_from("<QQQ", attribute, 40)
    if flags or first or size != initialized or size < -(-layout.clusters // 8) or size > layout.clusters // 8 + 4096:
        raise Doubt(f"its cluster bitmap has {size} bytes for {layout.clusters} clusters")
    runs = tuple(_runs(attribute, runs_offset, layout))
    if sum(length for _offset, length in runs) < size:
        raise Doubt("its cluster bitmap ends early")
    return Bitmap(runs, size)


def _runs(attribute: bytes, position: int, layout: Layout) -> Iterator[tuple[int, int]]:
    """The mapping pairs of a non-resident attribute as bytes of the area. Raises Doubt."""
    cluster = 0
    for _count in range(_MAX_RUNS):
        if position >= len(attribute):
            break
        head = attribute[position]
        if head == 0:
            return
        lengths, offsets = head & 0xF, head >> 4
        end = position + 1 + lengths + offsets
        if not 0 < lengths <= 8 or not 0 < offsets <= 8 or end > len(attribute):
            break
        length = int.from_bytes(attribute[position + 1 : position + 1 + lengths], "little")
        cluster += int.from_bytes(attribute[position + 1 + lengths : end], "little", signed=True)
        if not length or cluster < 0 or cluster + length > layout.clusters:
            break
        yield cluster * layout.cluster_bytes, length * layout.cluster_bytes
        position = end
    raise Doubt("its cluster bitmap lies outside of it")


def count_free(area: Area, layout: Layout, bitmap: Bitmap) -> int:
    """Free clusters: the zero bits of the bitmap. Raises Doubt where it cannot be read."""
    bits_left = layout.clusters
    used = 0
    for offset, length in bitmap.runs:
        for start in range(0, length, _READ_BYTES):
            if not bits_left:
                break
            piece = area.read_exactly(offset + start, min(_READ_BYTES, length - start))
            number = int.from_bytes(piece, "little")
            if bits_left < len(piece) * 8:
                number &= (1 << bits_left) - 1
            used += number.bit_count()
            bits_left -= min(bits_left, len(piece) * 8)
    return layout.clusters - used


def check_probe(returncode: int | None, failure: str) -> None:
    """Judge ntfs-3g.probe. Raises Hibernated, Unclean or Doubt."""
    if returncode == _PROBED_HIBERNATED:
        raise Hibernated("a hibernated or fast-started Windows keeps it open", _ADVICE)
    if returncode == _PROBED_UNCLEAN:
        raise Unclean("its journal holds changes: Windows was not shut down properly", _ADVICE)
    if returncode != 0:
        raise Doubt(failure)


def free_ranges(area: Area) -> Ranges:
    """Free bytes of an NTFS. Raises Doubt, Unclean, ToolError."""
    layout = check_boot_sector(area.read_exactly(0, 512), area.size_bytes)
    with area.sandbox.run("ntfs-3g.probe", "--readwrite", "{}") as tool:
        tool.output()
        check_probe(tool.returncode, tool.failure())
    check_volume(area, layout)
    check_shadow_copies(area)
    expected = count_free(area, layout, find_bitmap(area, layout))
    found = 0
    for start, stop in partclone.free_ranges(area, "ntfs"):
        if start % layout.cluster_bytes or stop % layout.cluster_bytes or stop > layout.clusters * layout.cluster_bytes:
            raise Doubt(f"partclone's map has free bytes {start}-{stop}: not whole clusters of {layout.cluster_bytes}")
        found += (stop - start) // layout.cluster_bytes
        yield start, stop
    if found != expected:
        raise Doubt(f"its cluster bitmap has {expected} free clusters, partclone's map {found}")
