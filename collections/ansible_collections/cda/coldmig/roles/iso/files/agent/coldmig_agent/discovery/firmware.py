# SPDX-License-Identifier: GPL-3.0-or-later
"""How the source boots. ``/sys/firmware/efi`` only tells how the ISO was started; the disks tell how the guest does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coldmig_agent.discovery import tables
from coldmig_agent.discovery.disks import Source
from coldmig_agent.machine import Notice

_SECURE_BOOT = "efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def live_firmware(sys: Path) -> str:
    """``efi`` or ``bios``: how this live system was booted."""
    return "efi" if (sys / "firmware/efi").is_dir() else "bios"


def secure_boot(sys: Path) -> bool | None:
    """State of Secure Boot; None where it does not exist (BIOS) or cannot be read. Four attribute bytes come first."""
    try:
        with (sys / "firmware" / _SECURE_BOOT).open("rb") as file:
            value = file.read(16)
    except OSError:
        return None
    return value[4] == 1 if len(value) >= 5 else None


def decide(sources: Sequence[Source], live: str) -> tuple[str, list[Notice]]:
    """Firmware of the new machine, from what the disks can boot with; ``live`` decides where they can do both.

    EFI needs a system partition. BIOS needs code in sector 0 that has somewhere to go on: an MBR table with an active
    partition or its own code, or GPT with a BIOS-boot partition. A bare protective MBR has no code.
    """
    efi = bios = False
    for source in sources:
        for entry in source.table.entries:
            efi |= entry.type in {tables.ESP_GUID, tables.MBR_ESP}
            bios |= entry.type == tables.BIOS_BOOT_GUID or (entry.active and source.table.boot_code)
        bios |= source.table.kind == "dos" and source.table.boot_code
    if efi and not bios:
        firmware = "efi"
    elif bios and not efi:
        firmware = "bios"
    else:
        firmware = live
    if firmware == live or not (efi or bios):
        return firmware, []
    names = {"efi": "UEFI", "bios": "BIOS"}
    want = names[firmware]
    message = f"the ISO was booted with {names[live]}, but these disks start with {want}: the new machine gets {want}"
    return firmware, [Notice("firmware-mismatch", message)]
