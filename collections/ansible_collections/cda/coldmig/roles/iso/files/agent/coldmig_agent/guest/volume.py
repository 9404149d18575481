# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads one mounted file system: what it is, and to which systems."""

from __future__ import annotations

import time
from dataclasses import replace

from coldmig_agent.guest.boot import binary
from coldmig_agent.guest.boot.read import Tree, read_images, read_tree, wanted_images
from coldmig_agent.guest.bsd import read_bsd
from coldmig_agent.guest.facts import EspFacts, InspectedFacts, SystemFacts, UsrFacts, VolumeFacts
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.guest.system import (
    Candidate,
    candidates,
    looks_like_usr,
    ostree_links,
    read_system,
    read_usr,
)
from coldmig_agent.guest.windows.facts import read_windows
from coldmig_agent.text import clean

__all__ = ["InspectedFacts", "VolumeFacts", "read_volume"]

_FAT = frozenset({"vfat", "msdos", "fat"})
#: Where Windows may be; nothing of Linux is looked for there.
_NTFS = frozenset({"ntfs", "ntfs3", "ntfs-3g", "exfat", "refs"})
_MAX_LOADERS = 64
_MAX_ALIASES = 32
#: Systems of one file system whose kernels are looked at.
_FULL = 6


def _joined(place: str, path: str) -> str:
    """A path in a subvolume, as one from the top of its file system."""
    return clean(f"/{place}{path}" if place else path, 512)


def _moved(tree: Tree, place: str) -> Tree:
    """The tree's records with the paths of the whole file system."""
    if not place:
        return tree
    return Tree(
        boots=[
            replace(
                boot,
                tree=place,
                config=_joined(place, boot.config),
                entries=tuple(
                    replace(item, images=tuple(_joined(place, path) for path in item.images)) for item in boot.entries
                ),
            )
            for boot in tree.boots
        ],
        envs=[replace(item, path=_joined(place, item.path)) for item in tree.envs],
        stubs=[replace(item, path=_joined(place, item.path)) for item in tree.stubs],
        images=[replace(item, path=_joined(place, item.path)) for item in tree.images],
        kernels=[replace(item, path=_joined(place, item.path)) for item in tree.kernels],
        firmware=tree.firmware,
    )


class _Volume:
    def __init__(self, top: GuestRoot, fstype: str, default_subvolume: str, deadline: float) -> None:
        self._top = top
        self._fstype = fstype
        self._default = default_subvolume
        self._deadline = deadline
        self.trees: list[Tree] = []
        self.systems: list[SystemFacts] = []
        self.problems: list[str] = []
        self.usr: UsrFacts | None = None

    def read(self) -> None:
        found = candidates(self._top, self._fstype, self._default)
        links = {}
        for place in {item.path for item in found if item.kind in {"root", "subvolume"}}:
            links.update(ostree_links(self._top, place))
        for candidate in found:
            try:
                self._candidate(candidate, tuple(links.get(candidate.path, ()))[:_MAX_ALIASES])
            except Exception as error:  # one bad tree must not hide the others
                self.problems.append(clean(f"{candidate.path or '/'}: {type(error).__name__}: {error}", 200))
        if not self.systems and looks_like_usr(self._top):
            self.usr = read_usr(self._top)

    def _candidate(self, candidate: Candidate, aliases: tuple[str, ...]) -> None:
        if candidate.path and not self._top.is_dir(candidate.path):
            return
        root = self._top.below(candidate.path) if candidate.path else self._top
        try:
            full = len([item for item in self.systems if item.kernels]) < _FULL and candidate.kind != "snapshot"
            system = read_system(root, candidate, brief=not full)
            if system is not None and not self._known(system):
                self.systems.append(replace(system, aliases=aliases))
            if full and candidate.kind != "ostree":
                self._boot(root, candidate.path, "/boot")
                if system is None:
                    self._boot(root, candidate.path, "")
        finally:
            if root is not self._top:
                root.close()

    def _boot(self, root: GuestRoot, place: str, base: str) -> None:
        tree = read_tree(root, base)
        tree.images = read_images(root, wanted_images(tree.boots), self._deadline)
        if tree.boots or tree.envs or tree.kernels or tree.stubs:
            self.trees.append(_moved(tree, place))

    def _known(self, system: SystemFacts) -> bool:
        """Whether a snapshot is only an earlier state of a system that is known: the same release and name."""
        same = (system.release, system.hostname)
        return system.kind == "snapshot" and any((item.release, item.hostname) == same for item in self.systems)


def _read_esp(top: GuestRoot, deadline: float) -> VolumeFacts:
    efi = top.nocase("/EFI")
    tree = read_tree(top, "", esp=True)
    if efi is None and not tree.boots and not tree.kernels:
        return VolumeFacts()
    tree.images = read_images(top, wanted_images(tree.boots), deadline)
    loaders: list[str] = []
    for directory in top.names(efi)[:64] if efi else []:
        for name in top.names(f"{efi}/{directory}")[:64]:
            if name.lower().endswith(".efi") and len(loaders) < _MAX_LOADERS:
                loaders.append(clean(f"{efi}/{directory}/{name}".lower(), 160))
    fallback = top.nocase("/EFI/BOOT/BOOTX64.EFI")
    esp = EspFacts(
        loaders=tuple(loaders),
        fallback=binary.loader_kind(top, fallback) if fallback else "",
        fallback32=top.nocase("/EFI/BOOT/BOOTIA32.EFI") is not None,
        windows=top.nocase("/EFI/Microsoft/Boot/BCD") is not None,
        stubs=tuple(tree.stubs[:16]),
    )
    roles = ("esp", "boot") if tree.boots else ("esp",)
    return _facts([tree], roles=roles if efi else ("boot",), esp=esp if efi else None)


def _with_windows(facts: VolumeFacts, root: GuestRoot) -> VolumeFacts:
    found = read_windows(root)
    if found is None:
        return facts
    role = ("windows",) if found.system is not None else ()
    store = ("boot",) if found.boot_store is not None and "esp" not in facts.roles else ()
    return replace(facts, windows=found, roles=tuple(dict.fromkeys((*facts.roles, *role, *store))))


def _facts(
    trees: list[Tree],
    *,
    roles: tuple[str, ...],
    systems: tuple[SystemFacts, ...] = (),
    usr: UsrFacts | None = None,
    esp: EspFacts | None = None,
    problems: tuple[str, ...] = (),
) -> VolumeFacts:
    return VolumeFacts(
        roles=roles,
        systems=systems,
        usr=usr,
        esp=esp,
        boots=tuple(item for tree in trees for item in tree.boots)[:16],
        envs=tuple(item for tree in trees for item in tree.envs)[:16],
        images=tuple(item for tree in trees for item in tree.images)[:16],
        kernels=tuple(item for tree in trees for item in tree.kernels)[:64],
        firmware=tuple(sorted({item for tree in trees for item in tree.firmware})),
        problems=problems[:16],
    )


def read_volume(
    root: GuestRoot, fstype: str, *, default_subvolume: str = "", budget_seconds: float = 40.0
) -> VolumeFacts:
    """Facts of a mounted file system; of Btrfs the top level (subvolid=5), whose subvolumes are looked for here.

    ``default_subvolume`` is the path of the one that is mounted by default. After ``budget_seconds`` no further
    initramfs is begun. Never raises for what the file system holds.
    """
    deadline = time.monotonic() + budget_seconds
    try:
        if fstype in _NTFS:
            return _with_windows(VolumeFacts(), root)
        if fstype in _FAT:
            return _with_windows(_read_esp(root, deadline), root)
        bsd = read_bsd(root)
        if bsd is not None:
            return VolumeFacts(roles=("bsd",), bsd=bsd)
        volume = _Volume(root, fstype, default_subvolume, deadline)
        volume.read()
    except Exception as error:  # nothing that a file system holds may cost more than what is known of it
        return VolumeFacts(problems=(clean(f"{type(error).__name__}: {error}", 200),))
    roles = [
        *(["root"] if volume.systems else []),
        *(["usr"] if volume.usr else []),
        *(["boot"] if any(tree.boots or tree.kernels for tree in volume.trees) else []),
    ]
    return _facts(
        volume.trees,
        roles=tuple(roles),
        systems=tuple(volume.systems),
        usr=volume.usr,
        problems=tuple(volume.problems),
    )
