# SPDX-License-Identifier: GPL-3.0-or-later
"""A Linux system as the site receives it, and what is to be said about it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from coldmig_agent.guest.bindings import old_names
from coldmig_agent.guest.facts import (
    Bound,
    InspectedFacts,
    KernelFacts,
    KernelImage,
    Release,
    SystemFacts,
    UsrFacts,
)
from coldmig_agent.guest.naming import by_boot
from coldmig_agent.guest.readiness import LIKELY, NO, READY, UNKNOWN, Start, devices_with, is_lost, judge, root_name
from coldmig_agent.guest.starting import Boots, Link, Root
from coldmig_agent.machine import Guest, Notice, Readiness
from coldmig_agent.text import clean, natural_key
from coldmig_agent.warnings import notice

_ARCH_64 = re.compile(r"(?:x86_64|amd64)$|[.-](?:x86_64|amd64)\b")
_ARCH_32 = re.compile(r"[.-](?:i[3-6]86|686(?:-pae)?|pae)\b")
_MAX_NAMED = 6
#: For a kernel that no menu names: which initramfs it would get is not known.
_SOME_IMAGE = ("its initramfs",)


def _place(root: Root) -> str:
    system = root.system
    if not system.path:
        return root.item.place
    what = {"ostree": "deployment", "snapshot": "snapshot"}.get(system.kind, "subvolume")
    return clean(f"{root.item.place}, {what} {system.path}", 255)


def _usr(boots: Boots, system: SystemFacts) -> UsrFacts | None:
    """The /usr of a system that has it on another volume."""
    spec = next((mount.spec for mount in system.mounts if mount.mountpoint == "/usr"), None)
    if spec is None:
        return None
    item = boots.volumes.find(spec)
    if item is not None and item.facts is not None and item.facts.usr is not None:
        return item.facts.usr
    found = [item.facts.usr for item in boots.volumes.items if item.facts and item.facts.usr]
    return found[0] if len(found) == 1 else None


def _firmware(link: Link | None, boots: Boots, system: SystemFacts | None, machine: str) -> str | None:
    """What its boot loader is for, where only one of the two is there."""
    if link is None or link.menu.item.facts is None:
        return None
    facts = link.menu.item.facts
    loader = link.menu.boot.loader
    if loader in {"systemd-boot", "uki"} or facts.esp is not None:
        return "efi"
    if loader in {"grub-legacy", "syslinux"}:
        return "bios"
    kinds = set(facts.firmware)
    if not kinds:
        mounts = {mount.mountpoint for mount in system.mounts} if system else set()
        esp = any(item.facts and item.facts.esp for item in boots.volumes.items)
        # A disk may have an ESP and still be started with BIOS: that is decided where its BIOS loader is seen.
        return "efi" if machine == "efi" and esp and mounts & {"/boot/efi", "/efi"} else None
    return machine if len(kinds) > 1 else kinds.pop()


def _arch(file: KernelImage | None, version: str | None, userland: str | None) -> str | None:
    """The kernel's: with a 64-bit kernel a system is one of 64 bits even if its programs are not."""
    if file is not None and file.arch:
        return file.arch
    if version and _ARCH_64.search(version):
        return "x86_64"
    if version and _ARCH_32.search(version):
        return "i386"
    return userland


def _kernel(kernels: Sequence[KernelFacts], version: str | None) -> KernelFacts | None:
    return next((item for item in kernels if item.version == version), None)


def _start(boots: Boots, link: Link | None, system: SystemFacts | None, kernels: Sequence[KernelFacts]) -> Start:
    blacklist = system.blacklist if system else ()
    if link is None:
        newest = max(kernels, key=lambda item: natural_key(item.version), default=None)
        version = newest.version if newest else None
        return Start(version, "", False, _SOME_IMAGE, None, newest, None, blacklist)
    image = boots.image(link.menu, link.entry)
    version = link.entry.version
    if version is None and image is not None and len(image.versions) == 1:
        version = image.versions[0]
    if version is None and len(kernels) == 1:
        version = kernels[0].version
    return Start(
        version,
        link.entry.options,
        link.certain and not (link.menu.boot.wants_saved and link.menu.default is None),
        link.entry.initrds or (() if link.certain else _SOME_IMAGE),
        image,
        _kernel(kernels, version),
        boots.kernel_file(link.menu, version),
        blacklist,
        _doubt(system, link.entry.options) if system else "",
    )


def _doubt(system: SystemFacts, options: str) -> str:
    """Why a system may not get to its end although it finds its root, or may not find it inside LVM."""
    identities = [item.value for item in system.bound if item.kind == "lvm-devices"]
    if "/dev/mapper/" in options and any(not value.startswith("devname") for value in identities):
        return "its LVM devices file lists disks by an identity that stays behind"
    for mount in system.mounts:
        if is_lost(mount.spec) and mount.mountpoint.startswith("/") and mount.mountpoint != "/" and not mount.optional:
            return f"{mount.mountpoint} is mounted from {mount.spec}, which is called otherwise there"
    return ""


def _guest(link: Link | None, start: Start, release: Release, firmware: str | None) -> Guest:
    results, drivers = judge(start)
    return Guest(
        os_type="linux",
        id=release.id,
        version=release.version,
        pretty_name=release.pretty_name,
        kernel=start.version,
        drivers=drivers,
        id_like=release.id_like,
        platform_id=release.platform_id,
        release=release.release or release.version,
        edition=release.variant,
        firmware=firmware,
        boot_entry=link.entry.title if link and link.certain else "",
        bootable=link is not None and link.certain,
        readiness=results,
    )


def linux_guest(boots: Boots, root: Root, links: Sequence[Link], machine: str) -> tuple[Guest, tuple[Notice, ...]]:
    """A system whose root was read. ``links``: the entries that start it, the likeliest first."""
    system = root.system
    usr = _usr(boots, system)
    kernels = system.kernels or (usr.kernels if usr else ())
    plain = [link for link in links if link.default or not link.entry.rescue]
    link = next(iter(plain or links), None)
    start = _start(boots, link, system, kernels)
    release = system.release or (usr.release if usr else None)
    if release is None:
        release = by_boot(link.entry, start.image) if link else Release("linux", "", "Linux")
    guest = _guest(link, start, release, _firmware(link, boots, system, machine))
    userland = system.arch or (usr.arch if usr else None)
    guest = replace(
        guest,
        hostname=system.hostname,
        key=clean(root.key, 255),
        place=_place(root),
        arch=_arch(start.file, start.version, userland),
        bootable=guest.bootable and not boots.foreign(root.item),
    )
    notices = [
        *_boot_notices(guest, start, link, _rescue(boots, links, system, kernels)),
        *_bound_notices(guest, system.bound, start.options),
    ]
    return guest, tuple(notices)


def encrypted_guest(boots: Boots, item: InspectedFacts, link: Link, machine: str) -> tuple[Guest, tuple[Notice, ...]]:
    """A system whose root could not be read, out of what its boot files say."""
    start = _start(boots, link, None, ())
    release = by_boot(link.entry, start.image)
    guest = _guest(link, start, release, _firmware(link, boots, None, machine))
    guest = replace(
        guest,
        hostname=start.image.hostname if start.image else None,
        key=clean(item.key, 255),
        place=item.place,
        arch=_arch(start.file, start.version, None),
    )
    notices = [*_boot_notices(guest, start, link, ""), *_bound_notices(guest, (), start.options)]
    return guest, tuple(notices)


def _system(guest: Guest) -> str:
    return f"{guest.pretty_name or 'Linux'} on {guest.place}" if guest.place else guest.pretty_name or "Linux"


def _reason(results: Sequence[Readiness], verdict: str) -> str:
    """The evidence of the first device with a verdict, which stands for the others."""
    found = next((item for item in results if item.kind == "storage" and item.verdict == verdict), None)
    return f"{found.device}: {'; '.join(found.evidence)}" if found and found.evidence else verdict


def _rescue(boots: Boots, links: Sequence[Link], system: SystemFacts | None, kernels: Sequence[KernelFacts]) -> str:
    """Title of a rescue entry that would find the disk."""
    for link in links:
        start = _start(boots, link, system, kernels) if link.entry.rescue else None
        if start is not None and start.image is not None and devices_with(judge(start)[0], "storage", READY, LIKELY):
            return link.entry.title
    return ""


def _boot_notices(guest: Guest, start: Start, link: Link | None, rescue: str) -> Iterator[Notice]:
    """What is to be said of the way from the firmware to the root. ``rescue``: an entry that gets there."""
    system = _system(guest)
    storage = [item for item in guest.readiness if item.kind == "storage"]
    incomplete = start.image is not None and not start.image.complete
    if link is None:
        yield notice("boot-files-not-found", system=system)
    elif start.image is not None and incomplete:
        yield notice("initramfs-incomplete", system=system, reason=f"{start.image.path}: {start.image.problem}")
    if devices_with(storage, "storage", READY):
        pass
    elif likely := devices_with(storage, "storage", LIKELY):
        yield notice("storage-driver-likely", system=system, devices=", ".join(likely), reason=_why(storage))
    elif devices_with(storage, "storage", UNKNOWN):
        if link is not None and not incomplete:
            yield notice("boot-files-not-found", system=system)
    elif is_lost(name := root_name(start.options)):
        yield notice("root-device-name", system=system, name=name)
    else:
        reason = _reason(storage, NO) + (f"; its entry {rescue!r} would" if rescue else "")
        yield notice("no-storage-driver", system=system, reason=reason)
    if not devices_with(guest.readiness, "network", READY, LIKELY, UNKNOWN):
        network = next((item.evidence for item in guest.readiness if item.kind == "network"), ())
        yield notice("no-network-driver", system=system, reason="; ".join(network))


def _why(storage: Sequence[Readiness]) -> str:
    found = next(item for item in storage if item.verdict == LIKELY)
    return found.evidence[-1] if found.evidence else "not seen"


def _named(items: Sequence[Bound]) -> str:
    more = f" and {len(items) - _MAX_NAMED} more" if len(items) > _MAX_NAMED else ""
    return ", ".join(f"{item.value} ({item.path})" for item in items[:_MAX_NAMED]) + more


def _bound_notices(guest: Guest, bound: Sequence[Bound], options: str) -> Iterator[Notice]:
    system = _system(guest)
    devices = [Bound("device", name, "boot arguments") for name in old_names(options)]
    devices += [item for item in bound if item.kind == "device"]
    for code, kind, found in (
        ("old-device-names", "names", devices),
        ("lvm-devices-file", "names", [item for item in bound if item.kind == "lvm-devices"]),
        ("nic-names-bound", "names", [item for item in bound if item.kind == "nic"]),
        ("multipath-claims-all", "setting", [item for item in bound if item.kind == "multipath"]),
    ):
        if found:
            yield notice(code, system=system, **{kind: _named(found)})
