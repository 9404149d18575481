# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of one mounted file system, and how those of all file systems make one guest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

from coldmig_agent.guest.hostname import read_hostname
from coldmig_agent.guest.kernel import (
    STORAGE_DRIVERS,
    BootFacts,
    ModuleFacts,
    read_boot,
    read_modules,
)
from coldmig_agent.guest.release import Release, read_release
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.machine import Guest, Notice
from coldmig_agent.text import clean, natural_key

#: Names under which a system disk stands today and not at the destination.
_OLD_NAMES = re.compile(r"/dev/(?:[hsv]d[a-z]+\d*|xvd[a-z]+\d*|nvme\d+n\d+(?:p\d+)?|disk/by-path/\S+|disk/by-id/\S+)")
_VMWARE_STORAGE = STORAGE_DRIVERS - {"virtio_blk", "virtio_scsi"}


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """What one file system holds: a root, boot files, both or nothing of interest."""

    is_root: bool = False
    release: Release | None = None
    hostname: str | None = None
    modules: tuple[ModuleFacts, ...] = ()
    boot: BootFacts | None = None
    old_device_names: tuple[str, ...] = ()
    is_esp: bool = False
    has_fallback_loader: bool = False

    def to_json(self) -> Mapping[str, object]:
        """For the pipe from the inspecting process."""
        return asdict(self)


def facts_from_json(document: object) -> VolumeFacts:
    """Inverse of :meth:`VolumeFacts.to_json`. Raises ValueError, KeyError or TypeError for anything else."""
    if not isinstance(document, dict):
        raise TypeError("not an object")
    data = cast(Mapping[str, object], document)
    release = cast(Mapping[str, str] | None, data["release"])
    boot = cast(Mapping[str, object] | None, data["boot"])
    modules = cast(Sequence[Mapping[str, object]], data["modules"])
    return VolumeFacts(
        is_root=bool(data["is_root"]),
        release=Release(release["id"], release["version"], release["pretty_name"]) if release else None,
        hostname=cast(str | None, data["hostname"]),
        modules=tuple(
            ModuleFacts(str(item["kernel"]), _strings(item["builtin"]), _strings(item["modules"])) for item in modules
        ),
        boot=BootFacts(
            cast(str | None, boot["kernel"]),
            str(boot["options"]),
            cast(str | None, boot["initramfs"]),
            _strings(boot["drivers"]),
            str(boot["problem"]),
        )
        if boot
        else None,
        old_device_names=_strings(data["old_device_names"]),
        is_esp=bool(data["is_esp"]),
        has_fallback_loader=bool(data["has_fallback_loader"]),
    )


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return tuple(str(item) for item in value)


def _looks_like_root(root: GuestRoot) -> bool:
    return (
        root.is_dir("/etc")
        and (root.is_dir("/bin") or root.is_dir("/usr"))
        and (root.is_file("/etc/fstab") or root.is_file("/etc/os-release") or root.is_file("/etc/hosts"))
    )


def _old_names(text: str) -> set[str]:
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {clean(found, 80) for line in lines for found in _OLD_NAMES.findall(line)}


def _find_nocase(root: GuestRoot, *components: str) -> bool:
    """FAT keeps the case that a file was made with; firmware ignores it."""
    path = ""
    for wanted in components:
        name = next((item for item in root.names(path or "/") if item.lower() == wanted), None)
        if name is None:
            return False
        path = f"{path}/{name}"
    return root.is_file(path)


def read_volume(root: GuestRoot, fstype: str) -> VolumeFacts:
    """Facts of a mounted file system."""
    if fstype == "vfat":
        if not any(name.lower() == "efi" for name in root.names("/")):
            return VolumeFacts()
        return VolumeFacts(is_esp=True, has_fallback_loader=_find_nocase(root, "efi", "boot", "bootx64.efi"))
    if _looks_like_root(root):
        boot = read_boot(root, "/boot")
        names = _old_names(root.text("/etc/fstab") or "") | _old_names(root.text("/etc/crypttab") or "")
        if boot is not None:
            names |= _old_names(boot.options)
        return VolumeFacts(
            is_root=True,
            release=read_release(root),
            hostname=read_hostname(root),
            modules=tuple(read_modules(root)),
            boot=boot,
            old_device_names=tuple(sorted(names)[:16]),
        )
    boot = read_boot(root, "")
    return VolumeFacts(boot=boot, old_device_names=tuple(sorted(_old_names(boot.options))[:16]) if boot else ())


def _available(kernel: str | None, modules: Sequence[ModuleFacts], boot: BootFacts | None) -> set[str]:
    """Drivers that ``kernel`` can use: storage ones at boot, network ones at any time."""
    drivers = set(boot.drivers) if boot is not None else set()
    for item in modules:
        if item.kernel == kernel:
            drivers |= set(item.builtin)
            drivers |= set(item.modules) - STORAGE_DRIVERS
    return drivers


def assemble(volumes: Sequence[VolumeFacts], firmware: str) -> tuple[Guest | None, list[Notice]]:
    """One guest out of the facts of all file systems, in the order of the disks; None where no root was found.

    With several roots the first one that has a kernel counts, and the others are named in a notice.
    """
    notices: list[Notice] = []
    roots = [item for item in volumes if item.is_root]
    if not roots:
        return None, notices
    chosen = next((item for item in roots if item.modules or item.boot), roots[0])
    if len(roots) > 1:
        others = (item.release for item in roots if item is not chosen)
        names = ", ".join(other.pretty_name if other else "unknown" for other in others)
        notices.append(Notice("several-systems", f"more than one operating system was found; also: {clean(names)}"))
    boot = chosen.boot or next((item.boot for item in volumes if item.boot is not None and not item.is_root), None)
    kernel = boot.kernel if boot is not None else None
    if kernel is None and chosen.modules:
        kernel = max((item.kernel for item in chosen.modules), key=natural_key)
    drivers = _available(kernel, chosen.modules, boot)
    release = chosen.release or Release("linux", "", "Linux")
    notices += _boot_notices(boot, kernel, drivers)
    old = sorted({name for item in volumes for name in item.old_device_names})
    if old:
        message = f"the guest names disks that have other names at the destination: {', '.join(old[:6])}"
        notices.append(Notice("old-device-names", clean(message)))
    if firmware == "efi" and any(v.is_esp for v in volumes) and not any(v.has_fallback_loader for v in volumes):
        message = r"\EFI\BOOT\BOOTX64.EFI is missing: a new machine has no boot entries and will not find the loader"
        notices.append(Notice("efi-fallback-missing", message))
    guest = Guest(
        os_type="linux",
        id=release.id,
        version=release.version,
        pretty_name=release.pretty_name,
        hostname=chosen.hostname,
        kernel=kernel,
        drivers=tuple(sorted(drivers)),
    )
    return guest, notices


def _boot_notices(boot: BootFacts | None, kernel: str | None, drivers: set[str]) -> list[Notice]:
    if boot is None:
        message = "no boot files were found: which drivers the guest can load at boot is not known"
        return [Notice("boot-files-not-found", message)]
    if boot.problem:
        message = f"the initramfs of kernel {kernel or '?'} could not be read to its end ({boot.problem})"
        return [Notice("initramfs-incomplete", clean(message))]
    if not drivers & _VMWARE_STORAGE:
        message = (
            f"kernel {kernel or '?'} can load no driver for VMware's disk controllers at boot: it will not find its "
            "disk. Rebuild its initramfs with vmw_pvscsi on the source first"
        )
        return [Notice("no-storage-driver", message)]
    return []
