# SPDX-License-Identifier: GPL-3.0-or-later
"""What the source's UEFI keeps: boot entries in their order, and Secure Boot (UEFI specification §3.1, §3.3, §10.3).

Only there when the ISO itself was booted with UEFI. Variables come through efivarfs with four bytes of attributes
before the value; firmware is hostile input, so every length is checked.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coldmig_agent.text import clean

_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
MAX_ENTRIES = 64
_MAX_VALUE = 8192
_MAX_NODES = 32
_ACTIVE = 1
_MEDIA, _HARD_DRIVE, _FILE_PATH, _END = 4, 1, 4, 0x7F


@dataclass(frozen=True, slots=True)
class BootEntry:
    """A boot entry that leads to a file on a partition.

    ``partition`` is its PARTUUID, in lower case (``xxxxxxxx-NN`` on an MBR disk); ``loader`` the file's path as the
    firmware has it, empty where the entry names the partition only.
    """

    number: int
    title: str
    partition: str
    loader: str


def _value(sys: Path, name: str) -> bytes | None:
    try:
        with (sys / "firmware/efi/efivars" / f"{name}-{_GLOBAL}").open("rb") as file:
            value = file.read(_MAX_VALUE)
    except OSError:
        return None
    return value[4:] if len(value) > 4 else None


def _nodes(path: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, sub-type and data of a device path's nodes."""
    position = 0
    for _node in range(_MAX_NODES):
        if position + 4 > len(path):
            return
        kind, sub, length = struct.unpack_from("<BBH", path, position)
        if kind == _END or length < 4 or position + length > len(path):
            return
        yield kind, sub, path[position + 4 : position + length]
        position += length


def _partition(data: bytes) -> str:
    """PARTUUID of a hard-drive node: number, start, size, signature, format, type of signature."""
    if len(data) < 38:
        return ""
    number, signature, kind = struct.unpack_from("<I", data)[0], data[20:36], data[37]
    if kind == 2:
        return str(uuid.UUID(bytes_le=signature))
    return f"{struct.unpack_from('<I', signature)[0]:08x}-{number & 0xFF:02x}" if kind == 1 else ""


def parse_option(number: int, value: bytes) -> BootEntry | None:
    """An EFI_LOAD_OPTION; None where it is inactive, or leads to no partition of a disk."""
    if len(value) < 8:
        return None
    attributes, path_length = struct.unpack_from("<IH", value)
    end = next((at for at in range(6, len(value) - 1, 2) if value[at : at + 2] == b"\0\0"), None)
    if end is None or not attributes & _ACTIVE:
        return None
    partition = loader = ""
    for kind, sub, data in _nodes(value[end + 2 : end + 2 + path_length]):
        if (kind, sub) == (_MEDIA, _HARD_DRIVE):
            partition = _partition(data)
        elif (kind, sub) == (_MEDIA, _FILE_PATH):
            loader += data.decode("utf-16-le", "replace").split("\0", 1)[0]
    title = clean(value[6:end].decode("utf-16-le", "replace"), 100)
    return BootEntry(number, title, partition, clean(loader, 200)) if partition else None


def boot_entries(sys: Path) -> tuple[BootEntry, ...]:
    """Entries that lead to partitions, in the order in which the firmware tries them; those of no rank are left out."""
    order = _value(sys, "BootOrder") or b""
    numbers = struct.unpack(f"<{min(len(order) // 2, MAX_ENTRIES)}H", order[: min(len(order) // 2, MAX_ENTRIES) * 2])
    found = [parse_option(number, _value(sys, f"Boot{number:04X}") or b"") for number in dict.fromkeys(numbers)]
    return tuple(entry for entry in found if entry is not None)


def secure_boot(sys: Path) -> bool | None:
    """State of Secure Boot; None where it does not exist (BIOS) or cannot be read. In setup mode nothing is checked."""
    state, setup = _value(sys, "SecureBoot"), _value(sys, "SetupMode")
    if state is None:
        return None
    return state[0] == 1 and not (setup is not None and setup[0] == 1)
