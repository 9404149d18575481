# SPDX-License-Identifier: GPL-3.0-or-later
"""How the source boots. ``/sys/firmware/efi`` only tells how the ISO was started; the disks tell how the guest does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coldmig_agent.discovery import tables
from coldmig_agent.discovery.disks import Source
from coldmig_agent.discovery.nvram import BootEntry
from coldmig_agent.machine import Guest, Notice
from coldmig_agent.warnings import notice

NAMES = {"efi": "UEFI", "bios": "BIOS"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for each way to boot, in words; empty where the disks cannot be started so."""

    efi: tuple[str, ...] = ()
    bios: tuple[str, ...] = ()

    def of(self, firmware: str) -> tuple[str, ...]:
        """The words for ``efi`` or ``bios``."""
        return self.efi if firmware == "efi" else self.bios


def live_firmware(sys: Path) -> str:
    """``efi`` or ``bios``: how this live system was booted."""
    return "efi" if (sys / "firmware/efi").is_dir() else "bios"


def _partition(source: Source, number: int) -> str:
    return f"disk {source.disk.index}, partition {number}"


def evidence(sources: Sequence[Source], loaders: Mapping[str, Sequence[str]]) -> Evidence:
    """What the disks can be started with.

    ``loaders``: key of a volume (``disk0/2``) → EFI programs that were found on it; volumes that nobody could look into
    are not in it. UEFI needs a system partition, one that was looked into also a program on it. BIOS needs code in
    sector 0 that has somewhere to go on: an MBR table, or a BIOS-boot partition, or an active partition.
    """
    efi: list[str] = []
    bios: list[str] = []
    for source in sources:
        table = source.table
        for entry in table.entries:
            if entry.type in {tables.ESP_GUID, tables.MBR_ESP}:
                found = loaders.get(tables.volume_key(source.disk.index, entry.number))
                if found is None or found:
                    efi.append(f"a UEFI system partition ({_partition(source, entry.number)})")
            elif entry.type == tables.BIOS_BOOT_GUID:
                bios.append(f"a BIOS boot partition ({_partition(source, entry.number)})")
            elif entry.active and table.boot_code:
                bios.append(f"an active partition ({_partition(source, entry.number)})")
        if table.kind == "dos" and table.boot_code and not any(entry.active for entry in table.entries):
            bios.append(f"a boot loader's code in the first sector of disk {source.disk.index}")
    return Evidence(tuple(efi), tuple(bios))


def of_boot_order(sources: Sequence[Source], order: Sequence[BootEntry]) -> str | None:
    """``efi`` where the firmware's own boot order leads to a partition of these disks, else None."""
    own = {entry.uuid for source in sources for entry in source.table.entries if entry.uuid}
    return "efi" if any(entry.partition in own for entry in order) else None


def decide(
    found: Evidence, live: str, guest: Guest | None = None, order: str | None = None
) -> tuple[str, list[Notice]]:
    """Firmware of the new machine, and what a person should know about the choice.

    In this order: what the default boot entry of the first system uses; the one way in which the disks can be started;
    the firmware's boot order; how the ISO was booted. A choice between two possible ways that rests on the last alone
    is a conflict, and so is a system whose loader is for another firmware than the disks can be started with.
    """
    wanted = guest.firmware if guest is not None else None
    single = "efi" if found.efi and not found.bios else "bios" if found.bios and not found.efi else None
    both = bool(found.efi and found.bios)
    chosen = wanted or single or order or live
    doubtful = (both and wanted is None and order is None) or (wanted is not None and single not in {None, wanted})
    if doubtful:
        words = {name: "; ".join(found.of(name)[:3]) for name in NAMES}
        if wanted is not None:
            words[wanted] = f"its boot loader is for {NAMES[wanted]}"
        bios, efi = (f"{NAMES[name]}: {words[name] or 'nothing'}" for name in ("bios", "efi"))
        return chosen, [notice("firmware-conflict", bios=bios, efi=efi, chosen=NAMES[chosen])]
    if chosen != live and (found.efi or found.bios):
        return chosen, [notice("firmware-mismatch", live=NAMES[live], chosen=NAMES[chosen])]
    return chosen, []
