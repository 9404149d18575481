# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the facts of all file systems together: which systems there are, which one boots, and what from. Pure."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from coldmig_agent.guest import bsd
from coldmig_agent.guest.facts import EspFacts, InspectedFacts
from coldmig_agent.guest.linux import encrypted_guest, linux_guest
from coldmig_agent.guest.resolve import Volumes
from coldmig_agent.guest.starting import Boots, Link, Root
from coldmig_agent.guest.windows import verdict
from coldmig_agent.machine import Guest, Notice
from coldmig_agent.text import clean
from coldmig_agent.warnings import notice

LOG = logging.getLogger(__name__)

MAX_GUESTS = 16
_ROLES = {
    "esp": "EFI system partition",
    "boot": "boot files",
    "usr": "/usr",
    "windows": "Windows",
}
_FALLBACK, _SECOND = "BOOTX64.EFI", "GRUBX64.EFI"


@dataclass(frozen=True, slots=True)
class Assembly:
    """``guests``: the one that boots by itself first. ``roles``: key of a file system → what it is, for a person."""

    guests: tuple[Guest, ...]
    notices: tuple[Notice, ...]
    roles: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Found:
    """A guest, what is to be said of it, and its rank: the highest is the first.

    ``volume``: what the volume and its snapshots have in common, their UUID; empty where there is none.
    """

    guest: Guest
    notices: tuple[Notice, ...]
    rank: tuple[int, ...]
    volume: str = ""


def _described(guest: Guest) -> str:
    name = guest.pretty_name or guest.os_type
    return f"{name} on {guest.place}" if guest.place else name


def _is_copy(item: _Found, found: Sequence[_Found]) -> bool:
    """Whether a system is but another state of one that comes before it: a snapshot of its volume or subvolume."""
    if not item.volume or item.guest.bootable:
        return False
    before = found[: found.index(item)]
    same = (item.guest.release, item.guest.pretty_name, item.guest.hostname)
    return any(
        other.volume == item.volume and (other.guest.release, other.guest.pretty_name, other.guest.hostname) == same
        for other in before
    )


def _linux(boots: Boots, firmware: str) -> Iterator[_Found]:
    links: dict[str, list[Link]] = {}
    closed: dict[str, tuple[InspectedFacts, Link]] = {}
    for target, link in boots.links():
        if isinstance(target, Root):
            links.setdefault(target.key, []).append(link)
        elif link.default:
            closed.setdefault(target.key, (target, link))
    best = boots.menus[0].score if boots.menus else 0
    for number, root in enumerate(boots.roots):
        own = links.get(root.key, [])
        first = next(iter(own), None)
        rank = (
            int(not boots.foreign(root.item)),
            int(first is not None and first.default and first.certain and first.menu.score == best),
            int(first is not None and first.certain),
            int(bool(first)),
            int(root.system.kind != "snapshot"),
            int(bool(root.system.kernels)),
            int(root.system.default),
            int(root.system.init),
            -number,
        )
        guest, notices = linux_guest(boots, root, own, firmware)
        yield _Found(guest, notices, rank, root.item.uuid)
    for number, (item, link) in enumerate(closed.values()):
        rank = (1, int(link.menu.score == best), int(link.certain), 1, 1, 1, 1, 1, -1000 - number)
        guest, notices = encrypted_guest(boots, item, link, firmware)
        yield _Found(guest, notices, rank)


def _windows(volumes: Volumes, firmware: str, first: bool) -> Iterator[_Found]:
    read = [(item, item.facts.windows) for item in volumes.items if item.facts and item.facts.windows]
    stores = [facts.boot_store for _unused, facts in read if facts.boot_store is not None]
    found = [(item, facts.system) for item, facts in read if facts.system is not None]
    ordered = sorted(found, key=lambda row: verdict.rank(row[1], stores))
    for number, (item, system) in enumerate(ordered):
        guest, notices = verdict.to_guest(system, place=item.place, key=item.key, stores=stores, firmware=firmware)
        # One that its own boot manager starts comes after a Linux whose menu comes first, and before any other.
        rank = (1, 2 if first else 0, int(guest.bootable), int(guest.bootable), number)
        yield _Found(guest, notices, rank)


def _bsd(volumes: Volumes) -> Iterator[_Found]:
    for number, item in enumerate(volumes.items):
        if item.facts is not None and item.facts.bsd is not None:
            guest = bsd.to_guest(item.facts.bsd, place=item.place, key=item.key)
            yield _Found(guest, (), (1, 0, 1, 0, -number))


def _windows_first(boots: Boots, firmware: str) -> bool:
    """Whether the firmware comes to Windows' boot manager by itself, or a menu hands over to it."""
    if boots.starts_windows():
        return True
    fallbacks = {item.facts.esp.fallback for item in boots.volumes.items if item.facts and item.facts.esp}
    if firmware == "efi" and fallbacks & {"windows"}:
        return not fallbacks & {"grub", "shim", "systemd-boot", "refind", "uki"}
    return not any(menu.boot.loader != "files" and menu.score > 0 for menu in boots.menus)


def _loaders(volumes: Volumes, firmware: str) -> Iterator[Notice]:
    """ESPs without the loader that firmware looks for where it has no boot entries, or without what that starts."""
    found = [(item, item.facts.esp) for item in volumes.items if item.facts and item.facts.esp]
    if firmware != "efi" or any(_starts(esp) for _unused, esp in found):
        return
    for item, esp in found:
        names = [path.removeprefix("/efi/") for path in esp.loaders if "/boot/" not in path][:4]
        loader = _SECOND if esp.fallback else _FALLBACK
        yield notice("efi-fallback-missing", place=item.place, loader=loader, found=", ".join(names) or "no loader")


def _starts(esp: EspFacts) -> bool:
    """Whether the fallback loader is there; shim goes on with GRUB or with its program that makes boot entries."""
    beside = {"/efi/boot/grubx64.efi", "/efi/boot/fbx64.efi"}
    return bool(esp.fallback) and (esp.fallback != "shim" or bool(beside & set(esp.loaders)))


def _roles(boots: Boots, found: Sequence[_Found]) -> dict[str, str]:
    volumes = boots.volumes
    roles: dict[str, str] = {}
    for item in volumes.items:
        if item.facts is not None and item.facts.esp is not None:
            roles[item.key] = _ROLES["esp"]
        elif item.fstype in {"crypto_LUKS", "swap"}:
            roles[item.key] = "swap" if item.fstype == "swap" else "encrypted"
    for root in boots.roots:
        for mount in root.system.mounts:
            volume = volumes.find(mount.spec)
            if volume is not None and mount.mountpoint.startswith("/") and mount.mountpoint != "/":
                roles.setdefault(volume.key, clean(mount.mountpoint, 64))
    for item in volumes.items:
        for role in item.facts.roles if item.facts else ():
            if role in _ROLES:
                roles.setdefault(item.key, _ROLES[role])
    for one in reversed(found):
        key = next((volume.key for volume in volumes.items if _holds(volume.key, one.guest.key)), None)
        if key is not None:
            roles[key] = clean(f"root of {one.guest.pretty_name or one.guest.os_type}", 64)
    return roles


def _holds(volume: str, guest: str) -> bool:
    return guest == volume or guest.startswith(f"{volume}/")


def _once(volumes: Sequence[InspectedFacts]) -> list[InspectedFacts]:
    """All volumes, of which one of several members of the same Btrfs speaks for all."""
    seen: set[str] = set()
    found = []
    for item in volumes:
        again = item.fstype == "btrfs" and bool(item.uuid) and item.uuid in seen
        found.append(replace(item, facts=None) if again else item)
        if item.facts is not None and item.fstype == "btrfs":
            seen.add(item.uuid)
    return found


def assemble(volumes: Sequence[InspectedFacts], machine_firmware: str) -> Assembly:
    """All systems of a machine out of its file systems, in the order of the disks. Never raises for what they hold."""
    try:
        return _assemble(volumes, machine_firmware)
    except Exception:
        # A mistake in here must not keep anybody from migrating: without a system the disks are copied as they are.
        LOG.exception("putting together what was found")
        reason = "what was found could not be put together"
        return Assembly((), (notice("inspection-failed", reason=reason),), {})


def _assemble(volumes: Sequence[InspectedFacts], machine_firmware: str) -> Assembly:
    known = Volumes(_once(volumes))
    boots = Boots(known, machine_firmware)
    found = [
        *_linux(boots, machine_firmware),
        *_windows(known, machine_firmware, _windows_first(boots, machine_firmware)),
        *_bsd(known),
    ]
    found.sort(key=lambda item: item.rank, reverse=True)
    found = found[:MAX_GUESTS]
    notices: list[Notice] = []
    others = [item.guest for item in found[1:] if not _is_copy(item, found)]
    if others:
        named = ", ".join(_described(guest) for guest in others)
        chosen = _described(found[0].guest)
        notices.append(notice("several-systems", count=1 + len(others), chosen=chosen, others=named))
    for number, item in enumerate(found):
        if number == 0 or item.guest.bootable:
            notices += item.notices
    notices += _loaders(known, machine_firmware)
    return Assembly(tuple(item.guest for item in found), tuple(dict.fromkeys(notices)), _roles(boots, found))
