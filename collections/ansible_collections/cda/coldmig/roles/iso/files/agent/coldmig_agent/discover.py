# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts everything together that is known of this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coldmig_agent import __version__, fence, inspection
from coldmig_agent.discovery import cpu, disks, dmi, firmware, memory, nics, tpm
from coldmig_agent.discovery.disks import Source
from coldmig_agent.freespace.survey import survey
from coldmig_agent.interfaces import all_states
from coldmig_agent.machine import Guest, Machine, Nic
from coldmig_agent.text import human_bytes

MAX_NOTICES = 100
_UUID = re.compile(r"^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the kernel's file systems are; tests put captured trees in their place."""

    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    dev: Path = Path("/dev")
    run: Path = Path("/run")


@dataclass(frozen=True, slots=True)
class Found:
    """The description that is sent, and the disks that it speaks of, with their free maps."""

    machine: Machine
    sources: tuple[Source, ...]


def find_sources(roots: Roots, images: Sequence[Path]) -> list[Source]:
    """The disks behind the write fence, or image files in their place. Raises FenceError."""
    if images:
        return disks.read_image_files(images)
    return disks.read_machine_disks(roots.sys, roots.dev, roots.run, fence.protect)


def machine_name(guest: Guest, addresses: Sequence[str], found: Sequence[Nic]) -> str:
    """The computer's name, else its address, else its first card's."""
    if guest.hostname:
        return guest.hostname
    if addresses:
        return addresses[0]
    return found[0].permanent_mac if found else "unknown"


def discover(roots: Roots, images: Sequence[Path] = ()) -> Found:
    """Look at everything. Raises FenceError; whatever cannot be found out is left empty and, if it matters, noticed."""
    tables = dmi.read(roots.sys)
    found_nics, notices = nics.read(roots.sys)
    sources = find_sources(roots, images)
    notices += disks.notices(sources)
    live = firmware.live_firmware(roots.sys)
    kind, more = firmware.decide(sources, live)
    notices += more
    notices += tpm.notices(roots.sys, sources)
    guest, more = inspection.inspect(sources, kind)
    notices += more
    surveyed = survey(sources)
    notices += surveyed.notices
    addresses = [address for state in all_states(roots.sys, roots.proc) for address in state.addresses]
    identity = tables.system.uuid
    machine = Machine(
        agent_version=__version__,
        smbios_uuid=identity if identity and _UUID.match(identity) else None,
        vendor=tables.system.vendor,
        product=tables.system.product,
        serial=tables.system.serial,
        firmware=kind,
        secure_boot=firmware.secure_boot(roots.sys),
        live_boot_firmware=live,
        cpu=cpu.read(roots.sys, roots.proc),
        memory_bytes=memory.read(roots.sys, roots.proc, tables.memory_bytes),
        nics=tuple(found_nics),
        disks=tuple(source.disk for source in surveyed.sources),
        guest=guest,
        addresses=tuple(addresses[:64]),
        name=machine_name(guest, addresses, found_nics),
        warnings=tuple(notices[:MAX_NOTICES]),
    )
    return Found(machine, surveyed.sources)


def summary(machine: Machine) -> list[str]:
    """The description in a few lines for a console."""
    names = {"efi": "UEFI", "bios": "BIOS"}
    system = machine.guest.pretty_name or "no known operating system"
    cores = f"{machine.cpu.sockets} x {machine.cpu.cores_per_socket} cores"
    lines = [
        f"{machine.name}: {system}",
        f"{cores}, {human_bytes(machine.memory_bytes)} memory, {names[machine.firmware]}, {len(machine.nics)} NICs",
    ]
    for disk in machine.disks:
        what = " ".join(part for part in (disk.model, disk.serial) if part)
        used = f", {human_bytes(disk.used_bytes)} to copy" if disk.used_bytes is not None else ""
        lines.append(f"disk {disk.index}: {disk.path} {human_bytes(disk.size_bytes)}{used} {what}".rstrip())
    return lines
