# SPDX-License-Identifier: GPL-3.0-or-later
"""NTFS: the zero bits of $Bitmap, when ntfs-3g.probe would mount the volume for writing and $Volume says it is clean.

partclone would say the same (tests compare them), but sleeps two seconds after it, and needs 64 MiB for each TiB.

Structures: ntfs-3g's documentation (layout.h) and libyal's "NTFS format" and "Volume Shadow Snapshot format".
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from coldmig_agent.freespace.area import Area, Doubt, Hibernated, Ranges, Unclean

_VOLUME, _BITMAP = 3, 6
#: File records that every volume has, in one piece at the MFT's beginning.
_RECORDS = 16
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

#: Bytes of a bitmap that say the same for all of their clusters, or one that does not.
_STRETCHES = re.compile(rb"\x00+|\xff+|[^\x00\xff]", re.DOTALL)


def _zero_runs(byte: int) -> tuple[tuple[int, int], ...]:
    """The runs of zero bits in a byte: (first, one behind the last), from the lowest bit on."""
    edges = [bit for bit in range(9) if (byte << 1 | 1 | 1 << 9) >> bit & 3 in {1, 2}]
    return tuple(zip(edges[0::2], edges[1::2], strict=True))


_ZERO_RUNS = tuple(_zero_runs(byte) for byte in range(256))


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


def _pieces(area: Area, layout: Layout, bitmap: Bitmap) -> Iterator[tuple[int, bytes]]:
    """The bitmap's bytes in order, each piece with the number of its first cluster; bits behind the last cluster are
    set. Raises Doubt where it cannot be read, or not in time.
    """
    cluster = 0
    for offset, length in bitmap.runs:
        for start in range(0, length, _READ_BYTES):
            left = layout.clusters - cluster
            if left <= 0:
                return
            if time.monotonic() > area.sandbox.deadline:
                raise Doubt("reading its cluster bitmap took too long")
            size = min(_READ_BYTES, length - start, -(-left // 8))
            piece = area.read_exactly(offset + start, size)
            if left < size * 8 and left % 8:
                piece = piece[:-1] + bytes([piece[-1] | 0xFF << left % 8 & 0xFF])
            yield cluster, piece
            cluster += size * 8


def free_clusters(area: Area, layout: Layout, bitmap: Bitmap) -> Iterator[tuple[int, int]]:
    """Runs of free clusters: (first, one behind the last), ascending; two may touch. Raises Doubt."""
    for base, piece in _pieces(area, layout, bitmap):
        found = 0
        for stretch in _STRETCHES.finditer(piece):
            at = stretch.start()
            first = base + at * 8
            value = piece[at]
            if not value:
                stop = base + stretch.end() * 8
                found += stop - first
                yield first, stop
            elif value != 0xFF:
                for low, high in _ZERO_RUNS[value]:
                    found += high - low
                    yield first + low, first + high
        # Counted in another way: what is called free by mistake is lost.
        if found != len(piece) * 8 - int.from_bytes(piece, "little").bit_count():
            raise Doubt(f"the free clusters from {base} on were not counted right")


def _always_used(layout: Layout, bitmap: Bitmap) -> Iterator[tuple[int, int]]:
    """What no right bitmap calls free: the clusters of the boot sector, of the first file records, and of the bitmap
    itself; ascending and disjoint.
    """
    size = layout.cluster_bytes
    places = [(0, 512), (layout.mft_offset, _RECORDS * layout.record_bytes), *bitmap.runs]
    end = 0
    for offset, length in sorted(places):
        first, last = max(end, offset // size), -(-(offset + length) // size)
        if first < last:
            yield first, last
            end = last


def checked(free: Iterator[tuple[int, int]], used: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The free runs, those that touch as one. Raises Doubt where one lies in a used run; both ascend."""
    low, high = next(used, (0, 0))
    begin = end = 0
    for first, last in free:
        while high <= first and (following := next(used, None)) is not None:
            low, high = following
        if low < last and first < high:
            raise Doubt(f"its cluster bitmap calls cluster {max(low, first)} free, which NTFS itself uses")
        if first == end:
            end = last
            continue
        if begin < end:
            yield begin, end
        begin, end = first, last
    if begin < end:
        yield begin, end


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
    bitmap = find_bitmap(area, layout)
    free = checked(free_clusters(area, layout, bitmap), _always_used(layout, bitmap))
    for first, last in free:
        yield first * layout.cluster_bytes, last * layout.cluster_bytes
