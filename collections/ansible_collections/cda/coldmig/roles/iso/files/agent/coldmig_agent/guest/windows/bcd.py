# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot stores: the BCD of Windows Vista and later, boot.ini before. They say which Windows starts.

A BCD is a registry hive: ``Objects\\{guid}\\Elements\\<type>`` has the value ``Element``.
"""

from __future__ import annotations

import re
import struct
import uuid

from coldmig_agent.guest.windows.hive import Hive, HiveError, open_hive
from coldmig_agent.guest.windows.model import MAX_BOOT_ENTRIES, BootStore, BootStoreEntry
from coldmig_agent.guest.windows.tree import Tree
from coldmig_agent.text import clean

#: Where boot managers look, and under which firmware.
_STORES = (("/EFI/Microsoft/Boot/BCD", "efi"), ("/Boot/BCD", "bios"))
_BOOT_INI = "/boot.ini"
_MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
_DEFAULT, _ORDER = "23000003", "24000001"
_PATH, _TITLE, _OS_DEVICE, _OS_ROOT = "12000002", "12000004", "21000001", "22000002"
_PARTITION_DEVICE = 6
_GPT, _MBR = 0, 1
_ARC = re.compile(
    r"^(?:multi|scsi|signature)\([^)]*\)disk\(\d+\)rdisk\((\d+)\)partition\((\d+)\)(\\.*)$", re.IGNORECASE
)


def device_identity(element: bytes) -> str:
    """The volume that a BCD device element names, as in WindowsSystem.identity; empty for anything but a partition.

    16 bytes of GUID come first, then a header (type, flags, size, padding) and the partition: GUID or offset, the kind
    of table at 20, the disk's GUID or signature at 24.
    """
    if len(element) < 72 or struct.unpack_from("<I", element, 16)[0] != _PARTITION_DEVICE:
        return ""
    place = element[32:]
    table = struct.unpack_from("<I", place, 20)[0]
    if table == _GPT:
        return gpt_identity(place[:16])
    if table == _MBR:
        return mbr_identity(struct.unpack_from("<I", place, 24)[0], struct.unpack_from("<Q", place)[0])
    return ""


def gpt_identity(guid: bytes) -> str:
    """Identity by a partition's GUID as it stands on disks (mixed byte order)."""
    return f"gpt:{uuid.UUID(bytes_le=guid)}"


def mbr_identity(signature: int, offset: int) -> str:
    """Identity by an MBR disk's signature and the byte offset of the partition."""
    return f"mbr:{signature:08x}:{offset}"


def read_boot_store(tree: Tree) -> BootStore | None:
    """The boot store of this volume, None where there is none."""
    for path, firmware in _STORES:
        actual = tree.find(path)
        if actual is None:
            continue
        try:
            with open_hive(tree, actual) as (hive, _state):
                return BootStore(actual, firmware, _entries(hive))
        except HiveError as error:
            return BootStore(actual, firmware, problem=clean(str(error)))
    text = tree.read(_BOOT_INI, 1 << 14)
    if text is None:
        return None
    return BootStore(tree.find(_BOOT_INI) or _BOOT_INI, "bios", parse_boot_ini(text.decode("latin-1")))


def _entries(hive: Hive) -> tuple[BootStoreEntry, ...]:
    manager = f"Objects\\{_MANAGER}\\Elements"
    default = hive.text(f"{manager}\\{_DEFAULT}", "Element") or ""
    order = hive.texts(f"{manager}\\{_ORDER}", "Element")
    if not default and order:
        default = order[0]
    found = []
    for identity in dict.fromkeys([*([default] if default else []), *order][:MAX_BOOT_ENTRIES]):
        elements = f"Objects\\{identity}\\Elements"
        if not hive.has(elements):
            continue
        device = hive.raw(f"{elements}\\{_OS_DEVICE}", "Element")
        found.append(
            BootStoreEntry(
                title=hive.text(f"{elements}\\{_TITLE}", "Element") or "",
                loader=hive.text(f"{elements}\\{_PATH}", "Element") or "",
                root=hive.text(f"{elements}\\{_OS_ROOT}", "Element") or "",
                identity=device_identity(device[1]) if device else "",
                default=identity.lower() == default.lower(),
            )
        )
    return tuple(found)


def parse_boot_ini(text: str) -> tuple[BootStoreEntry, ...]:
    """The systems of a boot.ini: ``multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS="Windows Server 2003"``."""
    section = ""
    default = ""
    systems: dict[str, str] = {}
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line.strip("[]").lower()
        name, _unused, value = (part.strip() for part in line.partition("="))
        if section == "boot loader" and name.lower() == "default":
            default = value
        elif section == "operating systems" and _ARC.match(name) and len(systems) < MAX_BOOT_ENTRIES:
            systems.setdefault(name, value.split("/")[0].strip().strip('"'))
    if default and _ARC.match(default):
        systems.setdefault(default, "")
    return tuple(
        BootStoreEntry(clean(title), "ntldr", clean(_ARC.sub(r"\3", name)), "", name.lower() == default.lower())
        for name, title in systems.items()
    )
