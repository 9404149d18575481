# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes BitLocker's metadata: boot sector, three copies of the FVE block with checksum, protectors, description."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Sequence

GUID = uuid.UUID("0f0e0d0c-0b0a-0908-0706-050403020100")
_NORMAL = bytes.fromhex("3bd66749292ed84a8399f6a339e3d001")
OFFSETS = (0x10000, 0x20000, 0x30000)
SIZE = 0x40000

CLEAR, TPM, STARTUP, TPM_PIN, TPM_STARTUP, RECOVERY, SMART_CARD, PASSWORD = (
    0x0000, 0x0100, 0x0200, 0x0500, 0x0600, 0x0800, 0x1000, 0x2000,
)  # fmt: skip


def entry(kind: int, value: int, data: bytes) -> bytes:
    return struct.pack("<HHHH", 8 + len(data), kind, value, 1) + data


def master_key(protection: int, number: int) -> bytes:
    """A volume master key: its own GUID, time, and how it is protected; an encrypted key inside."""
    inner = entry(0, 5, bytes(12 + 16 + 44))
    return entry(2, 8, uuid.UUID(int=number + 1).bytes_le + bytes(8) + struct.pack("<HH", 0, protection) + inner)


def text(words: str) -> bytes:
    return entry(7, 2, f"{words}\0".encode("utf-16-le"))


def block(entries: Sequence[bytes], *, states: tuple[int, int] = (4, 4), offsets: Sequence[int] = OFFSETS) -> bytes:
    """One copy of the metadata with what validates it."""
    body = b"".join(entries) + entry(3, 5, bytes(12 + 16 + 44))
    size = -(-(112 + len(body)) // 16) * 16
    head = struct.pack("<8sHHHHQII3QQ", b"-FVE-FS-", size // 16, 2, *states, SIZE, 0, 8192, *offsets, 0x40000)
    head += struct.pack("<IIII", 48 + len(body), 1, 48, 48 + len(body)) + GUID.bytes_le
    head += struct.pack("<IHHQ", 1, 0x8004, 0, 132_000_000_000_000_000)
    data = (head + body).ljust(size, b"\0")
    nested = struct.pack("<HHHH", 80, 0, 5, 1) + bytes(72)
    return data + struct.pack("<HHI", 8 + len(nested), 2, zlib.crc32(data)) + nested


def volume(
    protectors: Sequence[int],
    description: str = "WIN-SRV1 C: 11/23/2026",
    *,
    to_go: bool = False,
    states: tuple[int, int] = (4, 4),
) -> bytearray:
    """The beginning of a BitLocker volume."""
    sector = bytearray(512)
    sector[:11] = b"\xeb\x58\x90" + (b"MSWIN4.1" if to_go else b"-FVE-FS-")
    struct.pack_into("<H", sector, 11, 512)
    at = 424 if to_go else 160
    sector[at : at + 16] = _NORMAL
    struct.pack_into("<3Q", sector, at + 16, *OFFSETS)
    sector[510:512] = b"\x55\xaa"
    image = bytearray(SIZE)
    image[:512] = sector
    entries = [text(description), *(master_key(code, number) for number, code in enumerate(protectors))]
    made = block(entries, states=states)
    for offset in OFFSETS:
        image[offset : offset + len(made)] = made
    return image
