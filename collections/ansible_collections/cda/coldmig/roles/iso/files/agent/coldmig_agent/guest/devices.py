# SPDX-License-Identifier: GPL-3.0-or-later
"""VMware's virtual devices as a Linux kernel sees them, and which of a kernel's modules bind to them.

A module says by its aliases what it binds to (``pci:v…d…sv…sd…bc…sc…i…`` with ``*`` for anything); depmod collects them
in modules.alias. Compared with the device's own numbers that is an answer for every kernel, however its drivers are
called. Where there is no such list the drivers' usual names stand in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from coldmig_agent.guest.assignments import lines
from coldmig_agent.guest.facts import DeviceDrivers


@dataclass(frozen=True, slots=True)
class Device:
    """``pci``: vendor, device, subsystem vendor and device, class, subclass, interface, as in a modalias."""

    name: str
    kind: str
    pci: tuple[str, str, str, str, str, str, str]
    #: Names of drivers for it, the usual one first.
    drivers: tuple[str, ...]
    #: What must be there too: of each inner tuple one is enough.
    helpers: tuple[tuple[str, ...], ...] = ()


_SCSI_DISK = ("sd_mod",)
_FUSION = (("mptbase",), ("mptscsih",))
#: In the order in which they are preferred.
DEVICES = (
    Device(
        "pvscsi", "storage",
        ("000015AD", "000007C0", "000015AD", "000007C0", "01", "07", "00"),
        ("vmw_pvscsi",), (_SCSI_DISK,),
    ),
    Device(
        "lsilogic-sas", "storage",
        ("00001000", "00000054", "000015AD", "00001976", "01", "07", "00"),
        ("mptsas",), (_SCSI_DISK, *_FUSION, ("scsi_transport_sas",)),
    ),
    Device(
        "ahci", "storage",
        ("000015AD", "000007E0", "000015AD", "000007E0", "01", "06", "01"),
        ("ahci",), (_SCSI_DISK,),
    ),
    Device(
        "nvme", "storage",
        ("000015AD", "000007F0", "000015AD", "000007F0", "01", "08", "02"),
        ("nvme",),
    ),
    Device(
        "lsilogic", "storage",
        ("00001000", "00000030", "000015AD", "00001976", "01", "00", "00"),
        ("mptspi",), (_SCSI_DISK, *_FUSION, ("scsi_transport_spi",)),
    ),
    Device(
        "ide", "storage",
        ("00008086", "00007111", "000015AD", "00001976", "01", "01", "8A"),
        ("ata_piix", "piix"), (("sd_mod", "ide_disk", "ide_gd_mod", "piix"),),
    ),
    Device("vmxnet3", "network", ("000015AD", "000007B0", "000015AD", "000007B0", "02", "00", "00"), ("vmxnet3",)),
    Device("e1000e", "network", ("00008086", "000010D3", "000015AD", "000007D0", "02", "00", "00"), ("e1000e",)),
    Device("e1000", "network", ("00008086", "0000100F", "000015AD", "00000750", "02", "00", "00"), ("e1000",)),
)  # fmt: skip
#: Drivers whose aliases match whole classes but which leave such a device alone unless they are told otherwise.
_RELUCTANT = frozenset({"ata_generic", "pata_acpi", "ide_pci_generic", "generic"})
_ALIAS = re.compile(
    r"pci:v(?P<v>\*|[0-9A-Fa-f]{8})d(?P<d>\*|[0-9A-Fa-f]{8})sv(?P<sv>\*|[0-9A-Fa-f]{8})sd(?P<sd>\*|[0-9A-Fa-f]{8})"
    r"bc(?P<bc>\*|[0-9A-Fa-f]{2})sc(?P<sc>\*|[0-9A-Fa-f]{2})i(?P<i>\*|[0-9A-Fa-f]{2})\*?$"
)
_VENDORS = frozenset({"*", *(device.pci[0] for device in DEVICES)})
_FIELD = re.compile(rb"[^\0]+")
_MAX_DRIVERS = 8
_MODULE = re.compile(r"^[A-Za-z0-9_.-]{1,64}$")


def normal(name: str) -> str:
    """``-`` and ``_`` are the same in a module's name."""
    return name.replace("-", "_")


def _binds(pattern: str) -> list[str]:
    """Names of the devices that an alias means."""
    found = _ALIAS.match(pattern)
    if found is None:
        return []
    fields = [field.upper() for field in found.groups()]
    if fields[0] not in _VENDORS:
        return []
    return [
        device.name
        for device in DEVICES
        if all(field in {"*", own} for field, own in zip(fields, device.pci, strict=True))
    ]


def drivers_by_alias(aliases: Iterable[tuple[str, str]]) -> tuple[DeviceDrivers, ...]:
    """From pairs of alias and module; devices that nothing binds to are left out."""
    found: dict[str, list[str]] = {}
    for pattern, module in aliases:
        if not pattern.startswith("pci:v") or not _MODULE.match(module):
            continue
        name = normal(module)
        if name in _RELUCTANT:
            continue
        for device in _binds(pattern):
            known = found.setdefault(device, [])
            if name not in known and len(known) < _MAX_DRIVERS:
                known.append(name)
    return tuple(DeviceDrivers(device.name, tuple(found[device.name])) for device in DEVICES if device.name in found)


def parse_alias_file(text: str) -> Iterable[tuple[str, str]]:
    """Lines ``alias PATTERN MODULE`` of a modules.alias."""
    for line in lines(text, 256):
        words = line.split()
        if len(words) == 3 and words[0] == "alias":
            yield words[1], words[2]


def parse_modinfo(data: bytes) -> Iterable[tuple[str, str]]:
    """Aliases of the built-in drivers in a modules.builtin.modinfo: ``NAME.alias=PATTERN``, each ended by a NUL."""
    for match in _FIELD.finditer(data):
        name, found, pattern = match[0][:256].partition(b".alias=")
        if found:
            yield pattern.decode("ascii", "replace"), name.decode("ascii", "replace")
