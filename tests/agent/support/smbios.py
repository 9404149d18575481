# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes SMBIOS tables (DMTF DSP0134): by hand, and from the text that dmidecode makes of real servers' tables."""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Iterator

ENTRY_POINT_3 = b"_SM3_\x00\x18\x03\x03\x00" + bytes(14)


def structure(kind: int, body: bytes, *strings: str) -> bytes:
    """One structure; ``body`` begins after the four header bytes."""
    text = b"".join(item.encode() + b"\0" for item in strings) or b"\0"
    return struct.pack("<BBH", kind, 4 + len(body), 0) + body + text + b"\0"


def system(vendor: str, product: str, serial: str, identity: uuid.UUID) -> bytes:
    """Type 1."""
    return structure(1, bytes([1, 2, 0, 3]) + identity.bytes_le + bytes(3), vendor, product, serial)


def processor(
    *, populated: bool = True, central: bool = True, count: tuple[int, int, int] | None = None, status: int = 1
) -> bytes:
    """Type 4: up to the status byte (SMBIOS 2.0), or to the 16-bit counts (3.0) of cores, enabled cores and threads."""
    body = bytearray(0x1A - 4 if count is None else 0x30 - 4)
    body[5 - 4] = 3 if central else 4
    body[0x18 - 4] = (0x40 if populated else 0x00) | status
    for place, number in enumerate(count or ()):
        body[0x23 - 4 + place] = min(number, 0xFF)
        struct.pack_into("<H", body, 0x2A - 4 + 2 * place, number)
    return structure(4, bytes(body))


def memory_device(
    size_mib: int | None, kind: int = 0x1A, technology: int = 3, kib: int = 0, detail: int = 0x80
) -> bytes:
    """Type 17 of SMBIOS 3.3; None is an empty slot, ``kib`` a size below 1 MiB."""
    body = bytearray(0x54 - 4)
    extended = 0
    if size_mib is None:
        size = 0
    elif kib:
        size = 0x8000 | kib
    elif size_mib >= 0x7FFF:
        size, extended = 0x7FFF, size_mib
    else:
        size = size_mib
    struct.pack_into("<H", body, 0x0C - 4, size)
    body[0x12 - 4] = kind
    struct.pack_into("<H", body, 0x13 - 4, detail)
    struct.pack_into("<I", body, 0x1C - 4, extended)
    body[0x28 - 4] = technology
    return structure(17, bytes(body))


END = structure(127, b"")

_TYPES = {"flash": 0x09, "logical non-volatile device": 0x1F}
_TECHNOLOGIES = {"nvdimm-n": 4, "nvdimm-f": 5, "nvdimm-p": 6, "intel optane persistent memory": 7}


def _blocks(dump: str) -> Iterator[tuple[int, dict[str, str]]]:
    for block in dump.split("\n\n"):
        found = re.search(r"DMI type (\d+),", block)
        if found:
            fields = dict(re.findall(r"^\t([^\t:]+): (.*)$", block, re.MULTILINE))
            yield int(found[1]), fields


def encode_dump(dump: str) -> bytes:
    """The tables of a dmidecode text, as far as types 1, 4 and 17 go."""
    table = b""
    for kind, fields in _blocks(dump):
        if kind == 1:
            table += system(fields.get("Manufacturer", ""), fields.get("Product Name", ""), "--", uuid.UUID(int=0))
        elif kind == 4:
            central = fields.get("Type", "") == "Central Processor"
            numbers = [int(fields.get(name, "0")) for name in ("Core Count", "Core Enabled", "Thread Count")]
            count = (numbers[0], numbers[1], numbers[2])
            table += processor(populated=fields.get("Status", "").startswith("Populated"), central=central, count=count)
        elif kind == 17:
            size = re.match(r"(\d+) (kB|MB|GB|TB)$", fields.get("Size", ""))
            units = {"MB": 1, "GB": 1024, "TB": 1 << 20}
            memory_type = _TYPES.get(fields.get("Type", "").lower(), 0x1A)
            technology = _TECHNOLOGIES.get(fields.get("Memory Technology", "").lower(), 3)
            detail = 1 << 12 if "Non-Volatile" in fields.get("Type Detail", "") else 0x80
            if size is None:
                table += memory_device(None)
            elif size[2] == "kB":
                table += memory_device(0, memory_type, technology, kib=int(size[1]), detail=detail)
            else:
                table += memory_device(int(size[1]) * units[size[2]], memory_type, technology, detail=detail)
    return table + END
