# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts everything together that is known of this machine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from coldmig_agent import __version__, fence, names
from coldmig_agent.config import DiskRule
from coldmig_agent.discovery import cpu, disks, dmi, firmware, medium, memory, nics, nvram, tables, tpm
from coldmig_agent.discovery import notices as signatures
from coldmig_agent.discovery.disks import Source
from coldmig_agent.encryption import verdict
from coldmig_agent.encryption.bitlocker import BitLocker
from coldmig_agent.freespace.survey import survey
from coldmig_agent.guest.assemble import Assembly, assemble
from coldmig_agent.guest.others import Part, other_systems
from coldmig_agent.inspection.limits import read_limits
from coldmig_agent.inspection.look import Look, inspect
from coldmig_agent.interfaces import all_states
from coldmig_agent.machine import Guest, LeftOut, Machine, Notice
from coldmig_agent.warnings import SEVERITIES, notice

MAX_NOTICES = 100
MAX_GUESTS = 32
_UUID = re.compile(r"^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
#: GPT type that only Windows makes ("Microsoft reserved").
_WINDOWS_RESERVED = "e3c9e316-0b5c-4db8-817d-f92df00215ae"
#: What partitions without a file system are for.
_TYPES = {
    tables.ESP_GUID: "EFI system partition",
    tables.MBR_ESP: "EFI system partition",
    tables.BIOS_BOOT_GUID: "BIOS boot partition",
    _WINDOWS_RESERVED: "reserved by Windows",
}
_MEMBERS = {"LVM2_member": "LVM", "linux_raid_member": "Linux software RAID"}
_MADE_OF_MEMBERS = ("lvm/", "md/")

_STATES = frozenset({"hibernated", "unclean-filesystem"})
_PLACE = re.compile(r"disk [0-9]+(?: \([^)]*\))?(?:, partition [0-9]+)?(?:, volume \S+)?")
_DEVICE = re.compile(r" \([^)]*\)")

#: Takes a few words on what is being done now, for the person at the console.
Say = Callable[[str], None]


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


@dataclass(frozen=True, slots=True)
class Systems:
    """What boots here: ``firmware`` of the new machine, the systems that were found, and what was noticed."""

    firmware: str
    assembly: Assembly
    notices: tuple[Notice, ...]


def find_sources(
    roots: Roots, images: Sequence[Path], rules: Sequence[DiskRule] = ()
) -> tuple[list[Source], list[LeftOut]]:
    """The disks behind the write fence, or image files in their place; and those left out. Raises FenceError."""
    left: list[LeftOut] = []
    if images:
        return disks.read_image_files(images, rules, left.append), left
    told = left.append
    return disks.read_machine_disks(roots.sys, roots.dev, roots.run, fence.protect, rules=rules, left_out=told), left


def find_systems(sources: Sequence[Source], look: Look, live: str, boot_order: str | None) -> Systems:
    """The systems among what was looked into, and the firmware that the first of them boots with.

    ``live``: how the ISO was booted; ``boot_order``: how the firmware's own order would boot these disks, if at all.
    """
    loaders = {
        volume.key: volume.facts.esp.loaders if volume.facts.esp is not None else ()
        for volume in look.volumes
        if volume.facts is not None
    }
    seen = firmware.evidence(sources, loaders)
    kind, _notices = firmware.decide(seen, live, None, boot_order)
    assembly = assemble(look.volumes, kind)
    first = assembly.guests[0] if assembly.guests else None
    final, noticed = firmware.decide(seen, live, first, boot_order)
    if final != kind:
        assembly = assemble(look.volumes, final)
    return Systems(final, assembly, (*noticed, *assembly.notices))


def _looks_like_windows(sources: Sequence[Source], look: Look) -> bool:
    """Signs of a Windows that could not be read: BitLocker, an NTFS that cannot be read, its reserved partition."""
    closed = {volume.fstype for volume in look.volumes if volume.facts is None}
    volumes = [volume for source in sources for volume in source.volumes]
    return (
        any(volume.content.fstype == "BitLocker" for volume in volumes)
        or "ntfs" in closed
        or any(volume.type == _WINDOWS_RESERVED for volume in volumes)
    )


def _contents(sources: Sequence[Source]) -> str:
    """``2 ext4, 1 swap, 1 of type 0xa5``: what the disks hold, as far as signatures and partition types tell."""
    volumes = [volume for source in sources for volume in source.volumes]
    words = [
        volume.content.fstype or _TYPES.get(volume.type) or (f"of type {volume.type}" if volume.type else "unknown")
        for volume in volumes
    ]
    return ", ".join(f"{count} {word}" for word, count in Counter(words).most_common(8)) or "nothing"


def _parts(sources: Sequence[Source]) -> Iterator[Part]:
    for source in sources:
        for volume in source.volumes:
            place = signatures.volume_place(source.disk, volume)
            yield Part(place, volume.key, volume.type, volume.content.fstype, volume.content.label)


def _closed_windows(sources: Sequence[Source]) -> Guest:
    """A Windows that nobody could look into, with what BitLocker says of it."""
    for source in sources:
        for volume in source.volumes:
            if isinstance(volume.encryption, BitLocker) and not volume.encryption.to_go:
                return Guest(
                    "windows",
                    "windows",
                    pretty_name="Windows",
                    hostname=names.usable(volume.encryption.computer),
                    key=volume.key,
                    place=signatures.volume_place(source.disk, volume),
                )
    return Guest("windows", "windows", pretty_name="Windows")


def without_system(sources: Sequence[Source], look: Look) -> tuple[Guest, Notice]:
    """What is said of a machine in which no system was found."""
    if _looks_like_windows(sources, look):
        return _closed_windows(sources), notice("guest-not-inspected", system="Windows")
    for guest in other_systems(list(_parts(sources))):
        return guest, notice("guest-not-inspected", system=guest.pretty_name)
    return Guest(), notice("guest-not-found", seen=_contents(sources))


def look_notices(sources: Sequence[Source], look: Look) -> list[Notice]:
    """What the look into the disks has brought to light, and what could not be looked into."""
    found = [
        notice("volume-not-readable", place=volume.place, fstype=volume.fstype, reason=volume.problem)
        for volume in look.volumes
        if volume.problem and volume.facts is None
    ]
    found += [verdict.judge(item.place, item.protectors) for item in look.encrypted]
    found += look.notices
    if look.report.problems:
        found.append(notice("inspection-failed", reason="; ".join(look.report.problems[:3])))
    if not any(volume.key.startswith(_MADE_OF_MEMBERS) for volume in look.volumes):
        for source in sources:
            for volume in source.volumes:
                if volume.content.fstype in _MEMBERS:
                    place = signatures.volume_place(source.disk, volume)
                    found.append(notice("volume-not-inspected", place=place, kind=_MEMBERS[volume.content.fstype]))
    return found


def _subject(told: Notice) -> tuple[str, str]:
    """What makes two notices the same: the whole sentence, or for a volume's state only the place at its beginning.

    Signature, survey and inspection each see that a volume was not left cleanly, and each says so in its own words.
    """
    place = _PLACE.match(told.message) if told.code in _STATES else None
    return told.code, _DEVICE.sub("", place[0]) if place else told.message


def ordered(notices: Sequence[Notice]) -> tuple[Notice, ...]:
    """Each once (the first of those that say the same), the gravest first, and not more than the site takes."""
    each = {_subject(told): told for told in reversed(notices)}
    found = [told for told in dict.fromkeys(notices) if each[_subject(told)] is told]
    return tuple(sorted(found, key=lambda told: -SEVERITIES.index(told.severity))[:MAX_NOTICES])


def discover(
    roots: Roots,
    images: Sequence[Path] = (),
    say: Say = lambda _words: None,
    leave_out: Sequence[DiskRule] = (),
) -> Found:
    """Look at everything but the disks that a rule leaves out.

    Raises FenceError; whatever cannot be found out is left empty and, if it matters, noticed.
    """
    board = dmi.read(roots.sys)
    say("reading the partition tables")
    sources, left = find_sources(roots, images, leave_out)
    chip = tpm.read(roots.sys)
    live = firmware.live_firmware(roots.sys)
    boot_order = firmware.of_boot_order(sources, nvram.boot_entries(roots.sys))
    look = inspect(sources, read_limits(roots.proc), roots.sys, say)
    encrypted = [volume.encryption for source in sources for volume in source.volumes if volume.encryption is not None]
    encrypted += [item.protectors for item in look.encrypted]
    systems = find_systems(sources, look, live, boot_order)
    guests = systems.assembly.guests[:MAX_GUESTS]
    surveyed = survey(sources, say=say)
    # Last of all: cards that the live system has just started need seconds until they know their speed.
    cards, card_notices = nics.read(roots.sys)
    secure = nvram.secure_boot(roots.sys)
    guest, missing = (guests[0], None) if guests else without_system(sources, look)
    addresses = [address for state in all_states(roots.sys, roots.proc) for address in state.addresses]
    identity = board.system.uuid
    machine = Machine(
        agent_version=__version__,
        smbios_uuid=identity if identity and _UUID.match(identity) else None,
        vendor=board.system.vendor,
        product=board.system.product,
        serial=board.system.serial,
        firmware=systems.firmware,
        secure_boot=secure,
        live_boot_firmware=live,
        cpu=cpu.read(roots.sys, roots.proc, board.sockets),
        memory_bytes=memory.read(roots.sys, roots.proc, board.memory_bytes),
        nics=tuple(cards),
        disks=tuple(source.disk for source in surveyed.sources),
        guest=guest,
        addresses=tuple(addresses[:64]),
        name=names.machine_name(guests, encrypted, sources, roots.run, addresses=addresses, cards=cards),
        warnings=ordered(
            [
                *systems.notices,
                *signatures.of_disks(sources),
                *([missing] if missing is not None else []),
                *look_notices(sources, look),
                *surveyed.notices,
                *tpm.notices(chip, encrypted),
                *([notice("secure-boot")] if secure else []),
                *card_notices,
                *medium.notices(roots.run),
            ]
        ),
        guests=guests,
        tpm=chip,
        inspection=look.with_roles(systems.assembly.roles),
        left_out=tuple(left[:64]),
    )
    return Found(machine, surveyed.sources)
