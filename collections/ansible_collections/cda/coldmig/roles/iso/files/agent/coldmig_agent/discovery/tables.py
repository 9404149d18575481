# SPDX-License-Identifier: GPL-3.0-or-later
"""Partition tables, read from the disk itself: GPT (UEFI specification §5.3) and MBR with logical partitions.

Reads through a callback, so that the same code serves disks, images and tests. Every loop and size is bounded: the
table belongs to the guest.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

#: ``read(offset, length)`` → up to ``length`` bytes of the disk.
ReadAt = Callable[[int, int], bytes]


def window(read: ReadAt, start: int, size: int) -> ReadAt:
    """A reader that sees ``size`` bytes from ``start`` on, and nothing beside them."""

    def inside(offset: int, length: int) -> bytes:
        return read(start + offset, min(length, size - offset)) if 0 <= offset < size else b""

    return inside


def volume_key(disk: int, number: int) -> str:
    """``disk0/2``: names a partition, or with number 0 a whole disk without a table, in all that is reported."""
    return f"disk{disk}/{number}" if number else f"disk{disk}"


MAX_PARTITIONS = 256
MAX_NUMBER = 1024
MAX_ENTRY_BYTES = 1 << 20
MAX_LOGICAL = 128

ESP_GUID = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BIOS_BOOT_GUID = "21686148-6449-6e6f-744e-656564454649"
MBR_ESP = "0xef"
_MBR_EXTENDED = frozenset({0x05, 0x0F, 0x85})
_MBR_PROTECTIVE = 0xEE
_LEGACY_BOOTABLE = 1 << 2
#: Windows' code begins so; the others say so when there is no active partition.
_GENERIC_CODE = bytes.fromhex("33c08ed0bc007c")
_GENERIC_WORDS = (b"Invalid partition table", b"Missing operating system")


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One partition; ``type`` is a GUID (GPT) or ``0x83`` (MBR), ``name`` GPT's own label, ``uuid`` its PARTUUID."""

    number: int
    start_bytes: int
    size_bytes: int
    type: str
    name: str = ""
    active: bool = False
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """``kind`` is ``gpt``, ``dos`` or None (no table). ``boot_code``: the first sector holds a boot loader's code.

    Code that only starts the active partition (every disk that Windows has initialised has it) counts only with one.
    """

    kind: str | None
    entries: tuple[TableEntry, ...] = ()
    boot_code: bool = False
    damaged: bool = False


def _mbr_entry(sector: bytes, slot: int) -> tuple[int, int, int, bool]:
    """Type, first LBA, number of sectors and active flag of one of the four slots."""
    flag, kind, start, count = struct.unpack_from("<B3xB3xII", sector, 446 + 16 * slot)
    return kind, start, count, flag == 0x80


def _logical(read: ReadAt, base: int, sector_size: int, disk_bytes: int) -> list[TableEntry]:
    """Partitions in an extended one: a chain of sectors that may be damaged or a loop."""
    found: list[TableEntry] = []
    offset = 0
    visited: set[int] = set()
    while len(found) < MAX_LOGICAL and offset not in visited:
        visited.add(offset)
        sector = read((base + offset) * sector_size, 512)
        if len(sector) < 512 or sector[510:512] != b"\x55\xaa":
            break
        kind, start, count, active = _mbr_entry(sector, 0)
        begin = (base + offset + start) * sector_size
        if kind and count and begin < disk_bytes:
            number = 5 + len(found)
            found.append(TableEntry(number, begin, count * sector_size, f"0x{kind:02x}", active=active))
        kind, offset, count, _active = _mbr_entry(sector, 1)
        if kind not in _MBR_EXTENDED or not count:
            break
    return found


def _dos(read: ReadAt, sector: bytes, sector_size: int, disk_bytes: int) -> list[TableEntry]:
    entries: list[TableEntry] = []
    for slot in range(4):
        kind, start, count, active = _mbr_entry(sector, slot)
        if not kind or not count or start * sector_size >= disk_bytes:
            continue
        entries.append(TableEntry(slot + 1, start * sector_size, count * sector_size, f"0x{kind:02x}", active=active))
        if kind in _MBR_EXTENDED:
            entries += _logical(read, start, sector_size, disk_bytes)
    return entries


def read_gpt(read: ReadAt, lba: int, sector_size: int, disk_bytes: int) -> list[TableEntry] | None:
    """Entries of the table whose header is at ``lba``; None where header or entries are damaged."""
    header = read(lba * sector_size, 512)
    if len(header) < 92 or header[:8] != b"EFI PART":
        return None
    header_size, crc = struct.unpack_from("<II", header, 12)
    entries_lba, count, entry_size, entries_crc = struct.unpack_from("<QIII", header, 72)
    if not 92 <= header_size <= 512 or zlib.crc32(header[:16] + bytes(4) + header[20:header_size]) != crc:
        return None
    if entry_size < 128 or entry_size % 8 or not 0 < count * entry_size <= MAX_ENTRY_BYTES:
        return None
    if entries_lba * sector_size >= disk_bytes:
        return None
    raw = read(entries_lba * sector_size, count * entry_size)
    if len(raw) != count * entry_size or zlib.crc32(raw) != entries_crc:
        return None
    entries: list[TableEntry] = []
    for number in range(min(count, MAX_NUMBER)):
        entry = raw[number * entry_size : number * entry_size + 128]
        first, last = struct.unpack_from("<QQ", entry, 32)
        if entry[:16] == bytes(16) or last < first or first * sector_size >= disk_bytes:
            continue
        name = entry[56:128].decode("utf-16-le", "replace").split("\0", 1)[0]
        guid, unique = (str(uuid.UUID(bytes_le=entry[at : at + 16])) for at in (0, 16))
        size = (last - first + 1) * sector_size
        active = bool(struct.unpack_from("<Q", entry, 48)[0] & _LEGACY_BOOTABLE)
        entries.append(TableEntry(number + 1, first * sector_size, size, guid, name, active, unique))
        if len(entries) >= MAX_PARTITIONS:
            break
    return entries


def read_mbr(read: ReadAt) -> list[tuple[int, int, int]]:
    """Type, first sector and number of sectors of the MBR's own partitions, without the one that protects a GPT."""
    sector = read(0, 512)
    if sector[510:512] != b"\x55\xaa":
        return []
    slots = [_mbr_entry(sector, slot)[:3] for slot in range(4)]
    return [slot for slot in slots if slot[0] not in {0, _MBR_PROTECTIVE} and slot[2]]


def _boot_code(sector: bytes, entries: Sequence[TableEntry]) -> bool:
    """Whether the first sector has code that leads somewhere."""
    code = sector[:440]
    generic = code.startswith(_GENERIC_CODE) or any(words in code for words in _GENERIC_WORDS)
    return any(code) and (not generic or any(entry.active for entry in entries))


def read_table(read: ReadAt, disk_bytes: int, sector_size: int) -> Table:
    """The disk's partition table. A damaged primary GPT is replaced by the backup at the end of the disk."""
    sector = read(0, 512)
    signed = sector[510:512] == b"\x55\xaa"
    kinds = {_mbr_entry(sector, slot)[0] for slot in range(4)} if signed else set()
    if _MBR_PROTECTIVE in kinds or not signed:
        entries = read_gpt(read, 1, sector_size, disk_bytes)
        damaged = entries is None and _MBR_PROTECTIVE in kinds
        if damaged:
            entries = read_gpt(read, disk_bytes // sector_size - 1, sector_size, disk_bytes)
        found = tuple(entries or ())
        return Table("gpt" if entries is not None else None, found, signed and _boot_code(sector, found), damaged)
    # A FAT or NTFS boot sector has the same signature and no table: there the slots hold program code.
    flags = {sector[446 + 16 * slot] for slot in range(4)}
    identity = struct.unpack_from("<I", sector, 440)[0] if signed else 0
    slots = _dos(read, sector, sector_size, disk_bytes) if flags <= {0x00, 0x80} else []
    entries = [replace(entry, uuid=f"{identity:08x}-{entry.number:02x}") if identity else entry for entry in slots]
    return Table("dos" if entries else None, tuple(entries), signed and _boot_code(sector, entries))
