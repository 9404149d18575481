# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules of a guest's kernels, as depmod lists them under /lib/modules."""

from __future__ import annotations

import re
from collections.abc import Iterable

from coldmig_agent.guest.assignments import lines
from coldmig_agent.guest.devices import (
    DEVICES,
    drivers_by_alias,
    normal,
    parse_alias_file,
    parse_modinfo,
)
from coldmig_agent.guest.facts import MAX_MODULES, DeviceDrivers, KernelFacts, Needs
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.text import clean, natural_key

_MODULE = re.compile(r"(?:^|/)([A-Za-z0-9_.-]+?)\.(?:ko|o)(?:\.(?:gz|xz|zst|bz2|lzma))?$")
#: Parts of a module's path that have to do with disks.
_DISK_PATHS = re.compile(r"(?:^|/)(?:scsi|ata|ide|nvme|message|block|virtio|hv|xen|usb/storage|md|target)/")
_NAMED = frozenset(
    normal(name)
    for device in DEVICES
    for name in (*device.drivers, *(helper for group in device.helpers for helper in group))
)
_MAX_LIST = 4 << 20
_MAX_BUILTIN = 1 << 20
_MAX_NEEDS = 24
#: Kernels of one system whose lists are read.
_MAX_READ = 12


def module_name(path: str) -> str | None:
    """``kernel/drivers/ata/ata-piix.ko.xz`` → ``ata_piix``; None for what is no module."""
    found = _MODULE.search(path)
    return normal(found[1]) if found and len(found[1]) <= 64 else None


def module_names(paths: Iterable[str]) -> tuple[str, ...]:
    """Sorted names of the modules among paths; where there are too many, those that disks or our cards may need."""
    disks: set[str] = set()
    others: set[str] = set()
    for path in paths:
        name = module_name(path)
        if name is None:
            continue
        wanted = disks if name in _NAMED or _DISK_PATHS.search(path) else others
        if len(wanted) < MAX_MODULES:
            wanted.add(name)
    return tuple(sorted(disks | set(sorted(others - disks)[: MAX_MODULES - len(disks)])))


def merge_drivers(*lists: Iterable[DeviceDrivers]) -> tuple[DeviceDrivers, ...]:
    """Several answers to what binds to what, as one."""
    merged: dict[str, dict[str, None]] = {}
    for answers in lists:
        for answer in answers:
            merged.setdefault(answer.device, {}).update(dict.fromkeys(answer.modules))
    return tuple(DeviceDrivers(device.name, tuple(merged[device.name])) for device in DEVICES if device.name in merged)


def _dependencies(text: str, wanted: frozenset[str]) -> tuple[Needs, ...]:
    found: dict[str, tuple[str, ...]] = {}
    for line in lines(text):
        path, colon, rest = line.partition(":")
        name = module_name(path) if colon else None
        if name in wanted and name is not None:
            needed = (module_name(word) for word in rest.split()[:_MAX_NEEDS])
            found[name] = tuple(dict.fromkeys(item for item in needed if item is not None))
    return tuple(Needs(name, found[name]) for name in sorted(found))


def read_kernel(root: GuestRoot, base: str, version: str) -> KernelFacts | None:
    """Facts of the modules in the directory ``base``; None where depmod has left no lists."""
    builtin_text = root.text(f"{base}/modules.builtin", _MAX_BUILTIN)
    dependencies = root.text(f"{base}/modules.dep", _MAX_LIST)
    if builtin_text is None and dependencies is None:
        return None
    aliases = root.text(f"{base}/modules.alias", _MAX_LIST)
    modinfo = root.read(f"{base}/modules.builtin.modinfo", _MAX_LIST)
    by_alias = drivers_by_alias(parse_alias_file(aliases or ""))
    drivers = merge_drivers(by_alias, drivers_by_alias(parse_modinfo(modinfo or b"")))
    named = _NAMED | {module for item in drivers for module in item.modules}
    needs = _dependencies(dependencies or "", frozenset(named))
    wanted = named | {name for item in needs for name in item.needs}
    present = {module_name(line.partition(":")[0]) for line in lines(dependencies or "")}
    built = {module_name(line) for line in lines(builtin_text or "")}
    return KernelFacts(
        version=clean(version, 128),
        path=clean(base, 255),
        builtin=tuple(sorted(wanted & built)),
        modules=tuple(sorted(wanted & present)),
        drivers=drivers,
        needs=needs,
        complete=builtin_text is not None,
        alias_source=clean(f"{base}/modules.alias", 255) if aliases else "",
    )


def read_kernels(root: GuestRoot, directory: str) -> tuple[KernelFacts, ...]:
    """Facts of every kernel under ``directory`` (``/lib/modules``), the newest first."""
    names = sorted(root.names(directory), key=natural_key, reverse=True)
    found = (read_kernel(root, f"{directory}/{name}", name) for name in names[:_MAX_READ])
    return tuple(item for item in found if item is not None)
