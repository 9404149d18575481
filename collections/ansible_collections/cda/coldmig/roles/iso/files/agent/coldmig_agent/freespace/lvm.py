# SPDX-License-Identifier: GPL-3.0-or-later
"""LVM without LVM: where the linear logical volumes of a physical volume lie, from the metadata text on the disk.

Nothing is activated, because LVM's own tools may write when they do that. Only a volume group that consists of one
physical volume and of linear volumes is understood; snapshots, thin pools, caches and RAID keep data in places that
their file systems do not know of. Layout: lib/format_text/layout.h and lib/label/label.h of LVM2.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from coldmig_agent.discovery.tables import ReadAt
from coldmig_agent.freespace.area import Doubt
from coldmig_agent.text import clean

_SECTOR = 512
_LABEL_SECTORS = 4
_INITIAL_CRC = 0xF597A6CF
_MDA_MAGIC = b" LVM2 x[5A%r0N*>"
_IGNORED = 1
MAX_METADATA = 4 << 20
MAX_VOLUMES = 256
_MAX_AREAS = 16
_MAX_DEPTH = 6

_VG_STATUS = frozenset({"RESIZEABLE", "READ", "WRITE"})
_PV_STATUS = frozenset({"ALLOCATABLE"})
_LV_STATUS = frozenset({"READ", "WRITE", "VISIBLE"})
_SEGMENT_KEYS = frozenset({"start_extent", "extent_count", "type", "stripe_count", "stripes"})

_TOKEN = re.compile(
    r"(?:\s|#[^\n]*)*(?:(?P<name>[A-Za-z0-9_.+-]+)|\"(?P<text>(?:[^\"\\]|\\.)*)\"|(?P<mark>[{}=\[\],])|(?P<end>\Z))"
)

Value = int | str | list["Value"] | dict[str, "Value"]
Section = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """A linear volume: bytes of the physical volume. ``pieces`` is 1 where it lies in one place."""

    name: str
    start_bytes: int
    size_bytes: int
    pieces: int


def _crc(data: bytes) -> int:
    return zlib.crc32(data, _INITIAL_CRC ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


class _Parser:
    """The text format: ``name { … }``, ``name = value``; values are numbers, strings and lists of them."""

    def __init__(self, text: str) -> None:
        self._tokens = self._split(text)
        self._next = next(self._tokens)

    @staticmethod
    def _split(text: str) -> Iterator[tuple[str, str]]:
        position = 0
        while True:
            found = _TOKEN.match(text, position)
            if found is None or found.lastgroup is None:
                raise Doubt("the metadata of LVM cannot be read")
            yield found.lastgroup, found[found.lastgroup]
            if found.lastgroup == "end":
                return
            position = found.end()

    def _take(self) -> tuple[str, str]:
        token = self._next
        self._next = next(self._tokens, ("end", ""))
        return token

    def _expect(self, kind: str, value: str | None = None) -> str:
        found, text = self._take()
        if found != kind or (value is not None and text != value):
            raise Doubt("the metadata of LVM cannot be read")
        return text

    def document(self) -> Section:
        """The whole text."""
        found = self.section()
        self._expect("end")  # a brace too many, otherwise
        return found

    def section(self, depth: int = 0) -> Section:
        """Everything up to the closing brace, or to the end of the text."""
        if depth > _MAX_DEPTH:
            raise Doubt("the metadata of LVM cannot be read")
        found: dict[str, Value] = {}
        while self._next not in {("mark", "}"), ("end", "")}:
            name = self._expect("name")
            if name in found:
                raise Doubt(f"the metadata of LVM has {clean(name, 64)} twice")
            mark = self._expect("mark")
            if mark == "{":
                found[name] = dict(self.section(depth + 1))
                self._expect("mark", "}")
            elif mark == "=":
                found[name] = self._value()
            else:
                raise Doubt("the metadata of LVM cannot be read")
        return found

    def _value(self) -> Value:
        kind, text = self._take()
        if kind == "text":
            return text
        if kind == "name" and text.isdigit() and len(text) < 20:
            return int(text)
        if (kind, text) != ("mark", "["):
            raise Doubt("the metadata of LVM cannot be read")
        found: list[Value] = []
        while self._next != ("mark", "]"):
            found.append(self._value())
            if self._next == ("mark", ","):
                self._take()
        self._take()
        return found


def parse(text: str) -> Section:
    """The sections of a metadata text. Raises Doubt."""
    return _Parser(text).document()


def _read(read: ReadAt, offset: int, length: int) -> bytes:
    data = read(offset, length)
    if len(data) != length:
        raise Doubt(f"{length} bytes at {offset} cannot be read")
    return data


def _label(read: ReadAt) -> bytes:
    """The sector with the label. Raises Doubt unless there is exactly one."""
    head = _read(read, 0, _LABEL_SECTORS * _SECTOR)
    sectors = [head[start : start + _SECTOR] for start in range(0, len(head), _SECTOR)]
    found = [(number, sector) for number, sector in enumerate(sectors) if sector[:8] == b"LABELONE"]
    if len(found) != 1:
        raise Doubt(f"it has {len(found)} labels of LVM: must be one")
    number, sector = found[0]
    if struct.unpack_from("<Q", sector, 8)[0] != number or struct.unpack_from("<I", sector, 16)[0] != _crc(sector[20:]):
        raise Doubt("its label of LVM is damaged")
    return sector


def _locations(sector: bytes, position: int) -> tuple[list[tuple[int, int]], int]:
    """A list of (offset, size) that ends with zeros, and what follows it."""
    found: list[tuple[int, int]] = []
    while position + 16 <= len(sector) and len(found) < _MAX_AREAS:
        offset, size = struct.unpack_from("<QQ", sector, position)
        position += 16
        if not offset:
            return found, position
        found.append((offset, size))
    raise Doubt("its label of LVM is damaged")


def _metadata(read: ReadAt, start: int, size: int) -> str:
    """The committed text of a metadata area. Raises Doubt."""
    header = _read(read, start, _SECTOR)
    crc, magic, version, own_start, own_size = struct.unpack_from("<I16sIQQ", header)
    first = struct.unpack_from("<QQII", header, 40)
    second = struct.unpack_from("<QQII", header, 64)
    if crc != _crc(header[4:]) or (magic, version, own_start, own_size) != (_MDA_MAGIC, 1, start, size):
        raise Doubt("the header of LVM's metadata is damaged")
    offset, length, text_crc, flags = first
    if second[0] or flags & _IGNORED:
        raise Doubt("LVM's metadata is being changed, or is kept elsewhere")
    if not _SECTOR <= offset < size or not 0 < length <= min(size - _SECTOR, MAX_METADATA):
        raise Doubt(f"LVM's metadata: {length} bytes at {offset} of {size}")
    whole = _read(read, start + offset, min(length, size - offset))
    if len(whole) < length:  # the area is a ring
        whole += _read(read, start + _SECTOR, length - len(whole))
    if text_crc != _crc(whole):
        raise Doubt("the checksum of LVM's metadata is wrong")
    try:
        return whole.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        raise Doubt("the metadata of LVM cannot be read") from None


def _section(parent: Section, name: str) -> Section:
    found = parent.get(name, {})
    if not isinstance(found, dict):
        raise Doubt(f"the metadata of LVM has no section {name}")
    return found


def _number(section: Section, name: str) -> int:
    found = section.get(name)
    if not isinstance(found, int):
        raise Doubt(f"the metadata of LVM has no number {name}")
    return found


def _only(section: Section, what: str, allowed: frozenset[str]) -> None:
    """Raises Doubt for a status or flag that is not known."""
    status, flags = section.get("status"), section.get("flags", [])
    if not isinstance(status, list) or not all(word in allowed for word in status) or flags != []:
        raise Doubt(f"LVM: {what} has status {clean(str(status), 80)}, flags {clean(str(flags), 80)}")


def linear_volumes(read: ReadAt, size_bytes: int) -> list[LogicalVolume]:
    """The logical volumes of a physical volume, ascending. Raises Doubt unless all of them are plain linear ones."""
    sector = _label(read)
    header = struct.unpack_from("<I", sector, 20)[0]
    if not 32 <= header <= 128:
        raise Doubt("its label of LVM is damaged")
    identity = sector[header : header + 32].decode("ascii", "replace")
    _data, position = _locations(sector, header + 40)
    places, _position = _locations(sector, position)
    texts = {_metadata(read, start, size) for start, size in places if start + size <= size_bytes}
    if len(texts) != 1 or not places:
        raise Doubt("it has no metadata of LVM, or copies that differ")
    document = parse(texts.pop())
    groups = [(name, value) for name, value in document.items() if isinstance(value, dict)]
    if len(groups) != 1 or document.get("contents") != "Text Format Volume Group" or document.get("version") != 1:
        raise Doubt("the metadata of LVM is not that of a volume group")
    return _volumes(groups[0][0], groups[0][1], identity, size_bytes)


def _volumes(name: str, group: Section, identity: str, size_bytes: int) -> list[LogicalVolume]:
    _only(group, "the volume group", _VG_STATUS)
    if group.get("lock_type", "none") != "none" or group.get("format", "lvm2") != "lvm2":
        raise Doubt("LVM: the volume group is shared, or of an old format")
    physical = _section(group, "physical_volumes")
    if len(physical) != 1:
        raise Doubt(f"LVM: the volume group spreads over {len(physical)} physical volumes")
    (pv_name,) = physical
    pv = _section(physical, pv_name)
    _only(pv, "the physical volume", _PV_STATUS)
    if str(pv.get("id")).replace("-", "") != identity:
        raise Doubt("LVM: the metadata is that of another physical volume")
    extent, start, count = _number(group, "extent_size"), _number(pv, "pe_start"), _number(pv, "pe_count")
    if not extent or (start + count * extent) * _SECTOR > size_bytes:
        raise Doubt(f"LVM: {count} extents of {extent} sectors: the partition has {size_bytes} bytes")
    logical = _section(group, "logical_volumes")
    if len(logical) > MAX_VOLUMES:
        raise Doubt(f"LVM: {len(logical)} logical volumes: {MAX_VOLUMES} at most are looked at")
    found: list[LogicalVolume] = []
    taken: list[tuple[int, int]] = []
    for lv_name in logical:
        runs = _runs(_section(logical, lv_name), clean(lv_name, 64), pv_name, count)
        taken += runs
        first = start + runs[0][0] * extent
        size = sum(length for _first, length in runs) * extent
        label = clean(f"{name}/{lv_name}", 128)
        found.append(LogicalVolume(label, first * _SECTOR, size * _SECTOR, len(runs)))
    taken.sort()
    if any(first + length > after for (first, length), (after, _length) in pairwise(taken)):
        raise Doubt("LVM: logical volumes overlap")
    return sorted(found, key=lambda volume: volume.start_bytes)


def _runs(volume: Section, name: str, pv_name: str, extents: int) -> list[tuple[int, int]]:
    """Where a volume lies: (first extent, number of extents), joined where they touch. Raises Doubt."""
    _only(volume, f"volume {name}", _LV_STATUS)
    count = _number(volume, "segment_count")
    if "VISIBLE" not in volume.get("status", []) or not 0 < count <= extents:  # type: ignore[operator]
        raise Doubt(f"LVM: volume {name} is hidden, or has {count} segments")
    runs: list[tuple[int, int]] = []
    done = 0
    for number in range(1, count + 1):
        segment = _section(volume, f"segment{number}")
        stripes = segment.get("stripes")
        if (
            segment.get("type") not in {"striped", "linear"}
            or segment.get("stripe_count") != 1
            or not isinstance(stripes, list)
            or len(stripes) != 2
            or stripes[0] != pv_name
            or not _SEGMENT_KEYS.issuperset(segment)
        ):
            raise Doubt(f"LVM: volume {name} is not a plain linear one ({clean(str(segment.get('type')), 40)})")
        length, place = _number(segment, "extent_count"), stripes[1]
        if not isinstance(place, int) or _number(segment, "start_extent") != done or not 0 < length <= extents - place:
            raise Doubt(f"LVM: segment {number} of volume {name} does not fit")
        done += length
        if runs and sum(runs[-1]) == place:
            runs[-1] = (runs[-1][0], runs[-1][1] + length)
        else:
            runs.append((place, length))
    return runs
