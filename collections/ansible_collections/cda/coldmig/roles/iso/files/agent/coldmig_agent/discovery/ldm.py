# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows' dynamic disks (Logical Disk Manager): whether this is one, and the group that it belongs to.

The private header lies in sector 6 of an MBR disk, or in the last sector of the metadata partition of a GPT one
(block/partitions/ldm.h of Linux). Windows names the group after the computer: ``WIN-SRV1Dg0``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from coldmig_agent.discovery.tables import ReadAt, TableEntry
from coldmig_agent.text import clean_bytes

METADATA_GUID = "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3"
DATA_GUID = "af9b60a0-1431-4f62-bc68-3311714a69ad"
MBR_TYPE = "0x42"
STORAGE_SPACES_GUID = "e75caf8f-f680-4cee-afa3-b001e56efc2d"

_SIGNATURE = b"PRIVHEAD"
_MBR_SECTOR = 6
_NAME_AT = 0xF0
_GROUP = re.compile(r"^(.{1,63})Dg[0-9]{1,3}$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Group:
    """A disk group; ``name`` is empty where the private header cannot be read."""

    name: str = ""

    @property
    def computer(self) -> str | None:
        """The computer that made the group."""
        found = _GROUP.match(self.name)
        return found[1] if found else None


def read_group(read: ReadAt, disk_bytes: int, entries: Sequence[TableEntry]) -> Group | None:
    """The group of a dynamic disk; None for any other disk."""
    places = []
    if any(entry.type == MBR_TYPE for entry in entries):
        places.append(_MBR_SECTOR * 512)
    places += [entry.start_bytes + entry.size_bytes - 512 for entry in entries if entry.type == METADATA_GUID]
    if not places and not any(entry.type == DATA_GUID for entry in entries):
        return None
    for place in places:
        sector = read(place, 512) if 0 <= place < disk_bytes else b""
        if sector[:8] == _SIGNATURE:
            return Group(clean_bytes(sector[_NAME_AT : _NAME_AT + 31], 31))
    return Group()
