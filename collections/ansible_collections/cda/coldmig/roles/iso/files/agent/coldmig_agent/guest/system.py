# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the root of a Linux system, and finds such roots in a file system: Btrfs subvolumes, ostree deployments."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from coldmig_agent.guest.bindings import parse_fstab, read_bound
from coldmig_agent.guest.boot.binary import elf_arch
from coldmig_agent.guest.facts import MAX_SYSTEMS, KernelFacts, SystemFacts, UsrFacts
from coldmig_agent.guest.hostname import read_hostname
from coldmig_agent.guest.image import blacklisted
from coldmig_agent.guest.modules import read_kernels
from coldmig_agent.guest.release import read_release
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.text import clean, natural_key

_PROGRAMS = (
    "/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/bin/busybox", "/bin/sh", "/bin/bash",
    "/usr/bin/bash",
)  # fmt: skip
_USR_PROGRAMS = ("/lib/systemd/systemd", "/bin/bash", "/bin/sh", "/bin/busybox", "/bin/env")
_NIXOS = "/nix/var/nix/profiles/system"
#: Directories of the top level that are looked into; other names of subvolumes are found by their being one.
_MAX_TOP = 64
_MAX_SNAPSHOTS = 4
_MAX_DEPLOYMENTS = 8
_SUBVOLUME_INODE = 256
_MAX_MODPROBE = 64
_DISK_OF_GUEST = re.compile(r"""(?:\bdev|\bfile)=['"](/dev/[^'"]{1,200})['"]|phy:(/dev/[^,'"\s]{1,200})""")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A directory that may be a root. ``snapshot``: one of those that snapper or Timeshift made."""

    path: str
    kind: str
    default: bool = False


def looks_like_root(root: GuestRoot) -> bool:
    """Whether a tree has what every Linux root has, with or without its /usr."""
    if root.is_dir(_NIXOS):
        return True
    programs = root.is_dir("/bin") or root.is_dir("/usr/bin") or root.link("/bin") is not None
    files = ("/etc/fstab", "/etc/hosts", "/etc/os-release", "/usr/lib/os-release", "/etc/passwd")
    return root.is_dir("/etc") and programs and any(root.is_file(name) for name in files)


def looks_like_usr(root: GuestRoot) -> bool:
    """Whether a tree is a /usr with a file system of its own."""
    return root.is_dir("/bin") and root.is_dir("/share") and root.is_dir("/lib") and not root.is_dir("/etc")


def candidates(top: GuestRoot, fstype: str, default_subvolume: str) -> list[Candidate]:
    """Where roots may be in a file system, the likeliest first."""
    found = [Candidate("", "root", fstype != "btrfs" or default_subvolume in {"", "/"})]
    snapshots: list[Candidate] = []
    if fstype == "btrfs":
        subvolumes = dict.fromkeys([default_subvolume.strip("/")] if default_subvolume.strip("/") else [])
        for name in top.names("/")[:_MAX_TOP]:
            if top.inode(name) == _SUBVOLUME_INODE or name in {"@", "@rootfs", "root"}:
                subvolumes.setdefault(name)
        found += [Candidate(path, "subvolume", path == default_subvolume.strip("/")) for path in subvolumes]
        snapshots = [item for item in _snapshots(top, list(subvolumes)) if item.path not in subvolumes]
    deployments = [item for place in found for item in _deployments(top, place)]
    return [*found, *deployments, *snapshots][:MAX_SYSTEMS]


def _snapshots(top: GuestRoot, subvolumes: list[str]) -> Iterator[Candidate]:
    """The newest snapshots of snapper (``.snapshots/N/snapshot``) and Timeshift."""
    places = [".snapshots", "@snapshots", "@.snapshots", *(f"{name}/.snapshots" for name in subvolumes[:8])]
    for place in dict.fromkeys(places):
        numbers = sorted((name for name in top.names(place) if name.isdigit()), key=natural_key, reverse=True)
        for name in numbers[:_MAX_SNAPSHOTS]:
            yield Candidate(f"{place}/{name}/snapshot", "snapshot")
    for name in sorted(top.names("timeshift-btrfs/snapshots"), reverse=True)[:_MAX_SNAPSHOTS]:
        yield Candidate(f"timeshift-btrfs/snapshots/{name}/@", "snapshot")


def _deployments(top: GuestRoot, place: Candidate) -> Iterator[Candidate]:
    """ostree's deployments: ``ostree/deploy/<os>/deploy/<checksum>.<serial>``."""
    base = posixpath.join(place.path, "ostree/deploy")
    count = 0
    for system in top.names(base)[:4]:
        for name in top.names(f"{base}/{system}/deploy"):
            path = f"{base}/{system}/deploy/{name}"
            if top.is_dir(f"{path}/usr") and count < _MAX_DEPLOYMENTS:
                count += 1
                yield Candidate(path, "ostree")


def ostree_links(top: GuestRoot, base: str) -> dict[str, list[str]]:
    """Deployment's directory → the paths that ``ostree=`` may name it by (``/ostree/boot.1/fedora/<checksum>/0``)."""
    found: dict[str, list[str]] = {}
    root = f"{base}/ostree" if base else "ostree"
    boots = [name for name in top.names(root) if re.fullmatch(r"boot\.[01](?:\.[01])?", name)]
    for boot in boots:
        for system in top.names(f"{root}/{boot}")[:4]:
            for checksum in top.names(f"{root}/{boot}/{system}")[:16]:
                for serial in top.names(f"{root}/{boot}/{system}/{checksum}")[:8]:
                    path = f"{boot}/{system}/{checksum}/{serial}"
                    target = top.link(f"{root}/{path}")
                    deployment = re.search(r"deploy/([^/]+)/deploy/([^/]+)/?$", target or "")
                    if deployment:
                        place = f"{root}/deploy/{deployment[1]}/deploy/{deployment[2]}"
                        found.setdefault(place, []).append(clean(f"/ostree/{path}", 255))
    return found


def _guest_disks(root: GuestRoot) -> tuple[str, ...]:
    """Devices that virtual machines of libvirt and Xen have as their disks."""
    found: dict[str, None] = {}
    for directory, suffix in (("/etc/libvirt/qemu", ".xml"), ("/etc/xen", ".cfg"), ("/etc/xen", ".hvm")):
        for name in root.names(directory)[:128]:
            if name.endswith(suffix):
                text = root.text(f"{directory}/{name}", 1 << 16) or ""
                found.update((clean(first or second, 160), None) for first, second in _DISK_OF_GUEST.findall(text))
    return tuple(found)[:64]


def _blacklist(root: GuestRoot) -> tuple[str, ...]:
    found: set[str] = set()
    for directory in ("/etc/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"):
        for name in root.names(directory)[:_MAX_MODPROBE]:
            if name.endswith(".conf"):
                found |= blacklisted(root.text(f"{directory}/{name}", 1 << 16) or "")
    return tuple(sorted(clean(name, 64) for name in found)[:256])


def _kernels(root: GuestRoot) -> tuple[KernelFacts, ...]:
    for directory in ("/lib/modules", "/usr/lib/modules", f"{_NIXOS}/kernel-modules/lib/modules"):
        found = read_kernels(root, directory)
        if found:
            return found
    return ()


def read_usr(root: GuestRoot) -> UsrFacts:
    """Facts of a /usr with a file system of its own."""
    release = read_release(root)  # by way of /lib/os-release
    arch = next((found for path in _USR_PROGRAMS if (found := elf_arch(root, path))), None)
    return UsrFacts(release, arch, read_kernels(root, "/lib/modules"))


def read_system(root: GuestRoot, candidate: Candidate, *, brief: bool = False) -> SystemFacts | None:
    """Facts of a root; None where it is none. ``brief`` for what will hardly be chosen: only what it is called."""
    if not looks_like_root(root):
        return None
    nixos = root.is_dir(_NIXOS)
    release = read_release(root) or (read_release(root, _NIXOS) if nixos else None)
    facts = SystemFacts(
        path=clean(candidate.path, 255),
        kind="nixos" if nixos and candidate.kind == "root" else candidate.kind,
        default=candidate.default,
        release=release,
        hostname=read_hostname(root),
        arch=next((found for path in _PROGRAMS if (found := elf_arch(root, path))), None),
        init=any(root.is_file(path) for path in _PROGRAMS[:3]) or nixos,
        mounts=parse_fstab(root.text("/etc/fstab") or ""),
    )
    if brief:
        return facts
    return replace(
        facts,
        kernels=_kernels(root),
        bound=read_bound(root),
        guest_disks=_guest_disks(root),
        blacklist=_blacklist(root),
    )
