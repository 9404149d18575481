# SPDX-License-Identifier: GPL-3.0-or-later
"""Registry hives and logs made from nothing, after the regf specification: small ones, with what a test says."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from coldmig_agent.guest.windows.marvin32 import marvin32
from coldmig_agent.guest.windows.regf import checksum

#: A key: names to keys or to values (int: REG_DWORD, str: REG_SZ, list: REG_MULTI_SZ, bytes: REG_BINARY, or a pair of
#: type and bytes).
Key = Mapping[str, object]

PAGE = 4096
_ROOT_KEY, _ASCII_NAME = 0x000C, 0x0020
_NOTHING = 0xFFFFFFFF


def hive(root: Key, *, sequence: int = 7, room: int = 0) -> bytes:
    """A clean hive. ``room`` adds empty bytes for what later versions of it hold."""
    cells = _Cells()
    place = cells.key("ROOT", root, _NOTHING, _ROOT_KEY)
    return base_block(place, cells.size(room), sequence, sequence) + cells.bins(room)


def base_block(root: int, bins_size: int, first: int, second: int, *, file_type: int = 0, written: int = 0) -> bytes:
    """The first 4096 bytes of a hive (or, cut to 512, of a log)."""
    block = bytearray(PAGE)
    struct.pack_into("<4sIIQIIIIIII", block, 0, b"regf", first, second, written, 1, 5, file_type, 1, root, bins_size, 1)
    block[48 : 48 + 12] = "SYSTEM".encode("utf-16-le")
    return resealed(bytes(block))


def resealed(block: bytes) -> bytes:
    """With the right checksum for its content."""
    return (
        block[:508] + struct.pack("<I", checksum(block[:508] + bytes(4))) + block[512:] if len(block) >= 512 else block
    )


def dirty(old: bytes, first: int = 8, second: int = 7) -> bytes:
    """The hive as a crash leaves it: its sequence numbers differ."""
    return resealed(old[:4] + struct.pack("<II", first, second) + old[12:PAGE]) + old[PAGE:]


def entry(sequence: int, bins_size: int, pages: Sequence[tuple[int, bytes]], flags: int = 0) -> bytes:
    """A log entry (HvLE); ``pages``: offset in the bins and content."""
    references = b"".join(struct.pack("<II", offset, len(data)) for offset, data in pages)
    body = references + b"".join(data for _offset, data in pages)
    body += bytes(-(40 + len(body)) % 512)
    head = struct.pack("<4sIIIII", b"HvLE", 40 + len(body), flags, sequence, bins_size, len(pages))
    head += struct.pack("<Q", marvin32(body))
    return head + struct.pack("<Q", marvin32(head)) + body


def new_log(sequence: int, bins_size: int, entries: Sequence[bytes]) -> bytes:
    """LOG1 or LOG2 of Windows 8.1 and later, which begins with the entry ``sequence``."""
    return base_block(32, bins_size, sequence, sequence, file_type=6)[:512] + b"".join(entries)


def log_of(old: bytes, new: bytes, sequence: int) -> bytes:
    """A log with one entry that makes ``new`` of ``old`` (both hives of the same or growing size)."""
    bins = new[PAGE:]
    return new_log(sequence, len(bins), [entry(sequence, len(bins), changed(old, new))])


def changed(old: bytes, new: bytes) -> list[tuple[int, bytes]]:
    """Pages of the bins that differ."""
    first, second = old[PAGE:], new[PAGE:]
    starts = range(0, len(second), PAGE)
    return [(at, second[at : at + PAGE]) for at in starts if first[at : at + PAGE] != second[at : at + PAGE]]


def old_log(old: bytes, new: bytes, sequence: int, *, written: int = 0) -> bytes:
    """A log with a bitmap of dirty pages, as it was up to Windows 8."""
    bins_size = len(new) - PAGE
    bitmap = bytearray(bins_size // 512 // 8)
    pages = b""
    for at in range(0, bins_size, 512):
        page = new[PAGE + at : PAGE + at + 512]
        if page != old[PAGE + at : PAGE + at + 512]:
            bitmap[at // 512 // 8] |= 1 << at // 512 % 8
            pages += page
    vector = b"DIRT" + bytes(bitmap)
    head = base_block(32, bins_size, sequence, sequence, file_type=1, written=written)[:512]
    return head + vector + bytes(-len(vector) % 512) + pages


class _Cells:
    """The cells of one hive bin."""

    def __init__(self) -> None:
        self._data = bytearray(32)

    def size(self, room: int) -> int:
        return -(-(len(self._data) + 8 + room) // PAGE) * PAGE

    def bins(self, room: int) -> bytes:
        size = self.size(room)
        struct.pack_into("<4sII", self._data, 0, b"hbin", 0, size)
        rest = size - len(self._data)
        return bytes(self._data) + struct.pack("<i", rest) + bytes(rest - 4)

    def _cell(self, content: bytes) -> int:
        place = len(self._data)
        length = -(-(len(content) + 4) // 8) * 8
        self._data += struct.pack("<i", -length) + content + bytes(length - 4 - len(content))
        return place

    def key(self, name: str, content: Key, parent: int, flags: int = 0) -> int:
        raw = name.encode("latin-1")
        place = self._cell(bytes(76) + raw)
        children = sorted(
            (item for item in content.items() if isinstance(item[1], Mapping)), key=lambda i: i[0].upper()
        )
        values = [(label, value) for label, value in content.items() if not isinstance(value, Mapping)]
        subkeys = [(label, self.key(label, value, place)) for label, value in children if isinstance(value, Mapping)]
        list_at = value_at = _NOTHING
        if subkeys:
            items = b"".join(struct.pack("<I4s", at, label[:4].encode("latin-1")) for label, at in subkeys)
            list_at = self._cell(struct.pack("<2sH", b"lf", len(subkeys)) + items)
        if values:
            places = [self._value(label, value) for label, value in values]
            value_at = self._cell(struct.pack(f"<{len(places)}I", *places))
        node = struct.pack(
            "<2sHQIIIIIIIIIIIIIIIHH",
            b"nk", flags | _ASCII_NAME, 0, 0, parent, len(subkeys), 0, list_at, _NOTHING, len(values), value_at,
            _NOTHING, _NOTHING, 64, 0, 64, 1024, 0, len(raw), 0,
        )  # fmt: skip
        self._data[place + 4 : place + 4 + len(node)] = node
        return place

    def _value(self, name: str, value: object) -> int:
        kind, data = _typed(value)
        raw = name.encode("latin-1")
        if len(data) <= 4:
            size, at = len(data) | 0x80000000, int.from_bytes(data, "little")
        else:
            size, at = len(data), self._cell(data)
        return self._cell(struct.pack("<2sHIIIHH", b"vk", len(raw), size, at, kind, 1 if raw else 0, 0) + raw)


def _typed(value: object) -> tuple[int, bytes]:
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, str):
        return 1, f"{value}\0".encode("utf-16-le")
    if isinstance(value, bytes):
        return 3, value
    if isinstance(value, list):
        return 7, "".join(f"{item}\0" for item in [*value, ""]).encode("utf-16-le")
    assert isinstance(value, tuple)
    kind, data = value
    return int(kind), bytes(data)


def nested(values: Mapping[str, object]) -> dict[str, object]:
    """A tree of keys out of paths: ``{"Select\\\\Current": 1}`` → ``{"Select": {"Current": 1}}``."""
    root: dict[str, object] = {}
    for path, value in values.items():
        *keys, name = path.split("\\")
        node = root
        for key in keys:
            below = node.setdefault(key, {})
            assert isinstance(below, dict)
            node = below
        node[name] = value
    return root


def pe_file(machine: int = 0x8664, version: tuple[int, int, int, int] | None = None) -> bytes:
    """The beginning of a Windows program, with a version resource where one is asked for."""
    head = bytearray(512)
    head[:2] = b"MZ"
    struct.pack_into("<I", head, 0x3C, 0x80)
    struct.pack_into("<4sH", head, 0x80, b"PE\0\0", machine)
    if version is None:
        return bytes(head)
    high, low = version[0] << 16 | version[1], version[2] << 16 | version[3]
    fixed = struct.pack("<6I", 0xFEEF04BD, 0x00010000, high, low, high, low)
    return bytes(head) + bytes(4096) + "VS_VERSION_INFO".encode("utf-16-le") + bytes(2) + fixed + bytes(64)


CURRENT_VERSION = "Microsoft\\Windows NT\\CurrentVersion"


def software(values: Mapping[str, object]) -> bytes:
    """A SOFTWARE hive with these values of CurrentVersion."""
    return hive(nested({f"{CURRENT_VERSION}\\{name}": value for name, value in values.items()}))


def write_windows(
    volume: Path,
    system: bytes,
    software_hive: bytes,
    files: Mapping[str, bytes] | None = None,
    *,
    root: str = "Windows",
) -> Path:
    """A Windows as its files lie on a volume, in the mixed case that they really have."""
    config = volume / root / "System32" / "config"
    config.mkdir(parents=True, exist_ok=True)
    (volume / root / "System32" / "cmd.exe").write_bytes(pe_file())
    (config / "SYSTEM").write_bytes(system)
    (config / "SOFTWARE").write_bytes(software_hive)
    for name, content in (files or {}).items():
        place = volume / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return volume
