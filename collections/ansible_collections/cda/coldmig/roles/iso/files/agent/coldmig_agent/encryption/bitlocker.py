# SPDX-License-Identifier: GPL-3.0-or-later
"""BitLocker's metadata: which protectors hold the volume's key, and the computer's name in the description.

Layout: lib/bitlk/bitlk.c of cryptsetup. Everything here stands on the disk in clear. Three copies of the metadata
exist; the first that is whole counts.
"""

from __future__ import annotations

import re
import struct
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from coldmig_agent.discovery.tables import ReadAt
from coldmig_agent.text import clean

_SIGNATURE = b"-FVE-FS-"
_TO_GO = b"MSWIN4.1"
_VISTA_CODE = b"\xeb\x52\x90"
#: Where the three offsets of the metadata stand in the boot sector; after a GUID of 16 bytes.
_OFFSETS_AT, _TO_GO_OFFSETS_AT = 176, 440
_BLOCK_HEADER, _HEADERS = 64, 112
_MAX_METADATA = 64 << 10
_MAX_ENTRIES = 256
_STATE_NORMAL = 4

_VMK, _DESCRIPTION = 2, 7
_TEXT_VALUE, _VMK_VALUE = 2, 8

#: Protection of a volume master key. TPM with a startup key, and both with a PIN, are strong guesses.
PROTECTORS = {
    0x0000: "clear key",
    0x0100: "TPM",
    0x0200: "startup key",
    0x0400: "TPM and startup key",
    0x0500: "TPM and PIN",
    0x0600: "TPM and startup key",
    0x0700: "TPM, PIN and startup key",
    0x0800: "recovery key",
    0x1000: "smart card",
    0x2000: "password",
}
_WITH_TPM = frozenset({0x0100, 0x0400, 0x0500, 0x0600, 0x0700})
_CLEAR, _STARTUP, _RECOVERY, _SMART_CARD, _PASSWORD = 0x0000, 0x0200, 0x0800, 0x1000, 0x2000
# "DESKTOP-NPM7RCA F: 7/3/2019": computer, volume, date in the computer's own format.
_COMPUTER = re.compile(r"^([A-Za-z0-9][A-Za-z0-9_-]{0,62}) (?:[A-Z]:|\S.*) \S+$")


@dataclass(frozen=True, slots=True)
class BitLocker:
    """``protectors``: codes as in PROTECTORS, in the order of the metadata. ``problem`` says why there are none.

    ``description`` is Windows' own label of the volume. ``complete``: encryption has come to its end.
    """

    protectors: tuple[int, ...] = ()
    description: str = ""
    guid: str = ""
    to_go: bool = False
    complete: bool = True
    problem: str = ""

    @property
    def computer(self) -> str | None:
        """Name of the computer that encrypted the volume."""
        found = _COMPUTER.match(self.description)
        return found[1] if found else None

    @property
    def names(self) -> str:
        """The protectors for a person."""
        named = [PROTECTORS.get(code, f"unknown 0x{code:04x}") for code in self.protectors]
        return ", ".join(dict.fromkeys(named)) or "none"

    @property
    def has_clear_key(self) -> bool:
        """Protection is suspended, or was never switched on: anybody can read the volume."""
        return _CLEAR in self.protectors

    @property
    def needs_tpm(self) -> bool:
        """At least one protector is sealed in a TPM."""
        return any(code in _WITH_TPM for code in self.protectors)

    @property
    def spare_key(self) -> str | None:
        """What a person can open it with when the TPM is another one."""
        for code, words in (
            (_RECOVERY, "its 48-digit recovery key"),
            (_PASSWORD, "its password"),
            (_STARTUP, "its startup key on a USB stick"),
            (_SMART_CARD, "its smart card"),
        ):
            if code in self.protectors:
                return words
        return None


def _entries(area: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, value type and data of the entries; stops at the first that cannot be right."""
    position = 0
    for _entry in range(_MAX_ENTRIES):
        if position + 8 > len(area):
            return
        size, kind, value = struct.unpack_from("<HHH", area, position)
        if size < 8 or position + size > len(area):
            return
        yield kind, value, area[position + 8 : position + size]
        position += size


def _block(read: ReadAt, offset: int) -> bytes | None:
    """One copy of the metadata, if header, size and checksum are right."""
    header = read(offset, _HEADERS)
    if len(header) < _HEADERS or header[:8] != _SIGNATURE:
        return None
    units, version = struct.unpack_from("<HH", header, 8)
    size = units * 16
    if version != 2 or not _HEADERS <= size <= _MAX_METADATA:
        return None
    block, validation = read(offset, size), read(offset + size, 8)
    if len(block) != size or len(validation) != 8:
        return None
    length, kind, checksum = struct.unpack("<HHI", validation)
    return block if length >= 8 and kind <= 2 and zlib.crc32(block) == checksum else None


def _parse(block: bytes, *, to_go: bool) -> BitLocker:
    state, next_state = struct.unpack_from("<HH", block, 12)
    size = struct.unpack_from("<I", block, _BLOCK_HEADER)[0]
    guid = str(uuid.UUID(bytes_le=block[80:96]))
    complete = state == next_state == _STATE_NORMAL
    if not 48 <= size <= len(block) - _BLOCK_HEADER:
        return BitLocker(guid=guid, to_go=to_go, problem=f"its metadata gives {size} bytes of {len(block)}")
    protectors: list[int] = []
    description = ""
    for kind, value, data in _entries(block[_HEADERS : _BLOCK_HEADER + size]):
        if kind == _VMK and value == _VMK_VALUE and len(data) >= 28:
            protectors.append(struct.unpack_from("<H", data, 26)[0])
        elif kind == _DESCRIPTION and value == _TEXT_VALUE:
            description = clean(data.decode("utf-16-le", "replace").split("\0", 1)[0], 128)
    return BitLocker(
        tuple(protectors), description, guid, to_go, complete, "" if protectors else "its metadata holds no protector"
    )


def read_bitlocker(read: ReadAt) -> BitLocker:
    """The metadata of a BitLocker volume (or To-Go stick) of Windows 7 and later."""
    sector = read(0, 512)
    to_go = sector[3:11] == _TO_GO
    if len(sector) < 512 or not (to_go or sector[3:11] == _SIGNATURE):
        return BitLocker(problem="it has no header of BitLocker")
    if sector[:3] == _VISTA_CODE:
        return BitLocker(problem="it has the format of Windows Vista")
    for offset in struct.unpack_from("<3Q", sector, _TO_GO_OFFSETS_AT if to_go else _OFFSETS_AT):
        block = _block(read, offset)
        if block is not None:
            return _parse(block, to_go=to_go)
    return BitLocker(to_go=to_go, problem="all three copies of its metadata are damaged")
