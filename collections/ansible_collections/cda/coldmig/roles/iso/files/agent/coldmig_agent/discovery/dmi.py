# SPDX-License-Identifier: GPL-3.0-or-later
"""SMBIOS tables as the kernel gives them in ``/sys/firmware/dmi/tables`` (DMTF DSP0134).

Firmware is hostile input here: lengths are checked, strings cleaned, and the table's size is bounded.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from coldmig_agent.text import clean_bytes

MAX_TABLE = 4 << 20
MAX_STRUCTURES = 65536
MAX_SOCKETS = 1024
_MIB = 1 << 20
#: Values that board makers leave where nobody filled in the real one.
_PLACEHOLDERS = frozenset(
    {
        "to be filled by o.e.m.", "not specified", "none", "default string", "system serial number", "not applicable",
        "system product name", "system manufacturer", "0123456789", "unknown", "n/a", "oem", "o.e.m.", "--",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Structure:
    """One SMBIOS structure: ``data`` begins with its four header bytes."""

    type: int
    data: bytes
    strings: Sequence[bytes]

    def byte(self, offset: int) -> int | None:
        """Unsigned byte, None when this release of the table does not reach so far."""
        return self.data[offset] if offset < len(self.data) else None

    def word(self, offset: int) -> int | None:
        """Little-endian 16 bits."""
        return struct.unpack_from("<H", self.data, offset)[0] if offset + 2 <= len(self.data) else None

    def dword(self, offset: int) -> int | None:
        """Little-endian 32 bits."""
        return struct.unpack_from("<I", self.data, offset)[0] if offset + 4 <= len(self.data) else None

    def text(self, offset: int) -> str:
        """The string whose number stands at ``offset``; empty for none and for placeholders."""
        number = self.byte(offset) or 0
        if not 1 <= number <= len(self.strings):
            return ""
        value = clean_bytes(self.strings[number - 1], 128)
        return "" if value.lower() in _PLACEHOLDERS else value


@dataclass(frozen=True, slots=True)
class System:
    """Type 1. ``uuid`` is the standard text form, None where the firmware has none."""

    vendor: str = ""
    product: str = ""
    serial: str = ""
    uuid: str | None = None


@dataclass(frozen=True, slots=True)
class Socket:
    """A populated socket of a central processor (type 4); None where the table does not tell."""

    cores: int | None = None
    enabled: int | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Dmi:
    """What the agent uses of the tables. ``memory_bytes`` is None where no DRAM device is described."""

    system: System
    sockets: tuple[Socket, ...]
    memory_bytes: int | None


def structures(table: bytes) -> Iterator[Structure]:
    """Walk a table; stops at type 127, at the end, or at the first structure that cannot be right."""
    offset = 0
    for _structure in range(MAX_STRUCTURES):
        if offset + 4 > len(table):
            return
        kind, length = table[offset], table[offset + 1]
        if length < 4 or offset + length > len(table):
            return
        end = table.find(b"\0\0", offset + length)
        if end < 0:
            return
        strings = table[offset + length : end].split(b"\0") if end > offset + length else []
        yield Structure(kind, table[offset : offset + length], strings)
        if kind == 127:
            return
        offset = end + 2


def smbios_version(entry_point: bytes) -> tuple[int, int]:
    """Major and minor of a 32-bit (``_SM_``) or 64-bit (``_SM3_``) entry point; (0, 0) for anything else."""
    if entry_point.startswith(b"_SM3_") and len(entry_point) >= 9:
        return entry_point[7], entry_point[8]
    if entry_point.startswith(b"_SM_") and len(entry_point) >= 8:
        return entry_point[6], entry_point[7]
    return (0, 0)


def _uuid(raw: bytes, version: tuple[int, int]) -> str | None:
    if len(raw) != 16 or raw in {bytes(16), b"\xff" * 16}:
        return None
    # DSP0134 §7.2.1: from 2.6 on the first three fields are little endian; before that they were read as written.
    return str(uuid.UUID(bytes_le=raw) if version >= (2, 6) else uuid.UUID(bytes=raw))


def _memory_device_bytes(item: Structure) -> int:
    """Size of one type 17 device if it is DRAM, else 0 (empty slots, flash, persistent memory)."""
    size = item.word(0x0C) or 0
    if size in {0, 0xFFFF}:
        return 0
    if item.byte(0x12) == 0x09:  # memory type: flash
        return 0
    if (item.word(0x13) or 0) & 1 << 12:  # type detail: non-volatile; before 3.2 the only mark of persistent memory
        return 0
    technology = item.byte(0x28)
    if technology in {0x04, 0x05, 0x06, 0x07}:  # NVDIMM-N, -F, -P, Intel persistent memory
        return 0
    if size == 0x7FFF:
        return ((item.dword(0x1C) or 0) & 0x7FFFFFFF) * _MIB
    return (size & 0x7FFF) * (1024 if size & 0x8000 else _MIB)


def _count(item: Structure, byte: int, word: int) -> int | None:
    """A number of cores or threads: a byte, and from 256 on (SMBIOS 3.0) a word elsewhere. 0 stands for unknown."""
    short = item.byte(byte)
    return (item.word(word) if short == 0xFF else short) or None


def _socket(item: Structure) -> Socket | None:
    """A central processor in a populated socket."""
    if item.byte(5) != 3 or not (item.byte(0x18) or 0) & 0x40:
        return None
    return Socket(_count(item, 0x23, 0x2A), _count(item, 0x24, 0x2C), _count(item, 0x25, 0x2E))


def parse(table: bytes, entry_point: bytes) -> Dmi:
    """Read system, sockets and memory from raw tables."""
    version = smbios_version(entry_point)
    system = System()
    sockets: list[Socket] = []
    memory = 0
    for item in structures(table[:MAX_TABLE]):
        if item.type == 1 and system == System():
            system = System(item.text(4), item.text(5), item.text(7), _uuid(item.data[8:24], version))
        elif item.type == 4 and (socket := _socket(item)) is not None and len(sockets) < MAX_SOCKETS:
            sockets.append(socket)
        elif item.type == 17:
            memory += _memory_device_bytes(item)
    return Dmi(system, tuple(sockets), memory or None)


def read(sys: Path) -> Dmi:
    """Tables of this machine; an empty result where the firmware has none (some virtual machines)."""
    tables = sys / "firmware/dmi/tables"
    try:
        with (tables / "DMI").open("rb") as file:
            table = file.read(MAX_TABLE)
        with (tables / "smbios_entry_point").open("rb") as file:
            entry_point = file.read(64)
    except OSError:
        return Dmi(System(), (), None)
    return parse(table, entry_point)
