# SPDX-License-Identifier: GPL-3.0-or-later
"""Which menu the firmware comes to, and which system each of its entries starts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from coldmig_agent.guest.boot import grub
from coldmig_agent.guest.facts import (
    BootEntry,
    BootFacts,
    GrubEnv,
    ImageFacts,
    InspectedFacts,
    KernelImage,
    SystemFacts,
)
from coldmig_agent.guest.image import merged
from coldmig_agent.guest.resolve import Volumes

_WINDOWS = re.compile(r"bootmgfw|bootmgr|ntldr|windows", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Root:
    """A system and the volume that it is on."""

    item: InspectedFacts
    system: SystemFacts

    @property
    def key(self) -> str:
        """Stable name of the system."""
        return f"{self.item.key}/{self.system.path}" if self.system.path else self.item.key


@dataclass(frozen=True, slots=True)
class Menu:
    """A boot loader's menu on a volume. ``score``: the higher, the likelier it is the one that the firmware starts."""

    item: InspectedFacts
    boot: BootFacts
    score: int
    default: int | None

    @property
    def default_entry(self) -> BootEntry | None:
        """What boots by itself; the first entry where nothing says."""
        entries = self.boot.entries
        return entries[self.default or 0] if entries else None


@dataclass(frozen=True, slots=True)
class Link:
    """An entry that starts a system. ``certain``: the menu names it; ``default``: it starts by itself."""

    menu: Menu
    entry: BootEntry
    default: bool

    @property
    def certain(self) -> bool:
        """Whether a menu was read, and not only found kernels."""
        return self.menu.boot.loader != "files"


@lru_cache(maxsize=512)
def _words(options: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(options))
    except ValueError:
        return tuple(options.split())


def option(options: str, name: str) -> str:
    """Value of a boot argument; the last one counts, as for the kernel."""
    found = (word.partition("=")[2] for word in reversed(_words(options)) if word.startswith(f"{name}="))
    return next(found, "")


def _menu(item: InspectedFacts, boot: BootFacts, envs: Sequence[GrubEnv], score: int) -> Menu:
    default = boot.default
    entries = boot.entries
    if boot.wants_saved:
        # grubenv lies on another volume: on the ESP where GRUB is started from there.
        items = [grub.Item((number,), (), entry) for number, entry in enumerate(entries)]
        for env in envs:
            wanted = env.next_entry or env.saved_entry
            if any(wanted in {entry.identity, entry.title} for entry in entries):
                default = grub.choose(items, wanted)
                break
    kernelopts = next((env.kernelopts for env in envs if env.kernelopts), "")
    if kernelopts:
        entries = tuple(replace(entry, options=entry.options.replace("$kernelopts", kernelopts)) for entry in entries)
    return Menu(item, replace(boot, entries=entries), score, default)


def _score(item: InspectedFacts, boot: BootFacts, firmware: str, referred: set[str]) -> int:
    facts = item.facts
    if facts is None:
        return 0
    score = 0
    on_esp = facts.esp is not None
    if firmware == "efi":
        score += 4 if on_esp or item.key in referred else 2 if "efi" in facts.firmware else 0
        fallback = facts.esp.fallback if facts.esp else ""
        if on_esp and fallback in {"systemd-boot", "uki"}:
            score += boot.loader in {"systemd-boot", "uki"}
        elif on_esp and fallback in {"grub", "shim"}:
            score += boot.loader.startswith("grub")
    elif "bios" in facts.firmware or boot.loader in {"grub-legacy", "syslinux"}:
        score += 3
    score += 1 if item.key.startswith(("disk", "md/")) else 0
    score -= 3 if boot.loader == "files" else 0
    return score


class Boots:
    """The menus of a machine, the likeliest first, and what their entries start."""

    def __init__(self, volumes: Volumes, firmware: str) -> None:
        self.volumes = volumes
        self.roots = [Root(item, system) for item in volumes.items if item.facts for system in item.facts.systems]
        if not self.roots:
            self.roots = list(self._roots_by_usr())
        self.guest_disks = self._disks_of_guests()
        envs = [env for item in volumes.items if item.facts for env in item.facts.envs]
        stubs = [stub for item in volumes.items if item.facts and item.facts.esp for stub in item.facts.esp.stubs]
        referred = {found.key for stub in stubs if (found := volumes.by_search(stub.volume)) is not None}
        menus = [
            _menu(item, boot, envs, _score(item, boot, firmware, referred) - self._penalty(item, boot))
            for item in volumes.items
            if item.facts
            for boot in item.facts.boots
        ]
        self.menus = sorted(menus, key=lambda menu: -menu.score)

    def _roots_by_usr(self) -> Iterator[Root]:
        """Where nothing looks like a root, a /usr with a release stands for it: image-based systems fill /etc later."""
        for item in self.volumes.items:
            usr = item.facts.usr if item.facts else None
            if usr is not None and usr.release is not None:
                yield Root(item, SystemFacts("", "root", False, usr.release, None, usr.arch, False, usr.kernels))

    def _disks_of_guests(self) -> set[str]:
        """Keys of the volumes that are disks of virtual machines which a system here runs."""
        names = [name for root in self.roots for name in root.system.guest_disks]
        found = (self.volumes.find(name) for name in names)
        return {item.key for item in found if item is not None}

    def _penalty(self, item: InspectedFacts, boot: BootFacts) -> int:
        """What no firmware reads, and what lies hidden under the file system that is mounted at /boot, come last."""
        if self.foreign(item):
            return 20
        for root in self.roots:
            if root.item.key != item.key or root.system.path != boot.tree:
                continue
            for mount in root.system.mounts:
                volume = self.volumes.find(mount.spec) if mount.mountpoint == "/boot" else None
                if volume is not None and (volume.key != item.key or mount.subvolume):
                    return 10
        return 0

    def foreign(self, item: InspectedFacts) -> bool:
        """Whether no firmware starts anything from a volume: a virtual machine's disk, a snapshot."""
        return item.snapshot or item.key in self.guest_disks

    def target(self, menu: Menu, entry: BootEntry) -> Root | InspectedFacts | None:
        """What an entry starts: a system, a volume that could not be read, or None where it does not tell."""
        options = entry.options
        spec = option(options, "root")
        volume = self.volumes.find(spec) if spec else None
        if ostree := option(options, "ostree"):
            return self._deployment(ostree, volume)
        if option(options, "init").startswith("/nix/store/"):
            return next((root for root in self.roots if root.system.kind == "nixos"), None)
        if volume is not None:
            return self._system_on(volume, options) or volume
        if spec.lower().startswith(("zfs=", "zfs:")):
            return next((item for item in self.volumes.items if item.fstype == "zfs_member"), None)
        return self._closed(menu, entry) if spec else None

    def _deployment(self, ostree: str, volume: InspectedFacts | None) -> Root | None:
        found = (root for root in self.roots if ostree in root.system.aliases)
        return next((root for root in found if volume is None or root.item.key == volume.key), None)

    def _system_on(self, volume: InspectedFacts, options: str) -> Root | None:
        found = [root for root in self.roots if root.item.key == volume.key and root.system.kind != "snapshot"]
        flags = option(options, "rootflags")
        wanted = next((flag.partition("=")[2] for flag in flags.split(",") if flag.startswith("subvol=")), None)
        if wanted is not None:
            return next((root for root in self._with_snapshots(volume) if root.system.path == wanted.strip("/")), None)
        return next((root for root in found if root.system.default), next(iter(found), None))

    def _with_snapshots(self, volume: InspectedFacts) -> list[Root]:
        return [root for root in self.roots if root.item.key == volume.key]

    def _closed(self, menu: Menu, entry: BootEntry) -> InspectedFacts | None:
        """The encrypted volume that a root stands on which is not seen: as the initramfs or the arguments name it."""
        closed = self.volumes.encrypted()
        if not closed:
            return None
        image = self.image(menu, entry)
        names = list(image.crypt) if image else []
        for word in re.findall(r"(?:rd\.luks\.uuid|rd\.luks\.name|cryptdevice|luks\.uuid)=(\S+)", entry.options):
            name = word.split("=")[0] if word[:1] in "0123456789abcdef" else word.split(":")[0]
            names.append(name if "=" in name or name.startswith("/") else f"UUID={name.removeprefix('luks-')}")
        for name in names:
            found = self.volumes.find(name)
            if found is not None and found in closed:
                return found
        return None if self.roots else closed[0]

    def image(self, menu: Menu, entry: BootEntry) -> ImageFacts | None:
        """The initramfs of an entry, all its files together; it may lie on another volume than the menu."""
        facts = menu.item.facts
        if facts is None:
            return None
        here = [image for image in facts.images if image.path in entry.images]
        if here:
            return merged(here)
        names = {name.rpartition("/")[2] for name in entry.initrds}
        first = self.volumes.by_search(entry.volume)
        places = [*([first] if first else []), *self.volumes.items]
        for item in places:
            found = [image for image in (item.facts.images if item.facts else ()) if _basename(image) in names]
            if found:
                return merged(found)
        return None

    def kernel_file(self, menu: Menu, version: str | None) -> KernelImage | None:
        """The kernel's own file, first on the volume of the menu."""
        for item in (menu.item, *self.volumes.items):
            for kernel in item.facts.kernels if item.facts else ():
                if version is not None and kernel.version == version:
                    return kernel
        return None

    def links(self) -> Iterator[tuple[Root | InspectedFacts, Link]]:
        """Every entry that starts something, the menus in order, of each menu the default first."""
        for menu in self.menus:
            default = menu.default_entry
            order = [entry for entry in (default, *menu.boot.entries) if entry is not None and entry.kernel]
            for number, entry in enumerate(dict.fromkeys(order)):
                target = self.target(menu, entry) or self._owner(menu)
                if target is not None:
                    yield target, Link(menu, entry, number == 0 and entry is default)

    def _owner(self, menu: Menu) -> Root | None:
        """The system that a menu belongs to which does not say what it starts."""
        inside = [root for root in self.roots if root.item.key == menu.item.key and root.system.path == menu.boot.tree]
        if inside:
            return inside[0]
        for root in self.roots:
            for mount in root.system.mounts:
                if mount.mountpoint in {"/boot", "/boot/efi", "/efi"}:
                    found = self.volumes.find(mount.spec)
                    if found is not None and found.key == menu.item.key:
                        return root
        whole = [
            root for root in self.roots if root.system.kind != "snapshot" and root.item.key not in self.guest_disks
        ]
        return whole[0] if len(whole) == 1 else None

    def starts_windows(self) -> bool:
        """Whether the first menu hands over to Windows by itself."""
        entry = self.menus[0].default_entry if self.menus else None
        return entry is not None and not entry.kernel and bool(_WINDOWS.search(f"{entry.chain} {entry.title}"))


def _basename(image: ImageFacts) -> str:
    return image.path.rpartition("/")[2]
