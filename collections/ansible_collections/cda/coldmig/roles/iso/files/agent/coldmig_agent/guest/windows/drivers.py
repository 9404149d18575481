# SPDX-License-Identifier: GPL-3.0-or-later
"""Which drivers a Windows has for VMware's devices, and when it starts them: services, files, device databases.

Windows 8 and later keep what binds to a device in ``DriverDatabase`` (device identifier, inf, package, service); before
it was ``CriticalDeviceDatabase``, for the disks that Windows boots from. Packages for network cards that are not in use
stand in the hive DRIVERS, or only as inf files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from coldmig_agent.guest.windows.devices import (
    BASE,
    BASE_DRIVERS,
    BASE_DRIVERS_NT5,
    DEVICES,
    DISK_CLASSES,
    NETWORK,
    Device,
)
from coldmig_agent.guest.windows.hive import Hive
from coldmig_agent.guest.windows.model import MAX_DRIVERS, MAX_FILTERS, DriverFacts, FilterFacts, InstallableFacts
from coldmig_agent.guest.windows.tree import Tree
from coldmig_agent.text import clean

DRIVER_DATABASE, CRITICAL_DATABASE = "DriverDatabase", "CriticalDeviceDatabase"
_DISABLED = 4
_MAX_INFS = 8
_INF_FILE = re.compile(r"^(?:net|oem|e1|vmx).*\.inf$", re.IGNORECASE)
_INF_FILES, _INF_BYTES, _INF_TOTAL = 400, 1 << 20, 24 << 20
_DRIVE = re.compile(r"^(?:\\\?\?\\)?([a-z]):\\", re.IGNORECASE)


def device_database(system: Hive, control_set: str) -> str:
    """Which of the two this Windows has; empty for neither."""
    if system.has("DriverDatabase\\DeviceIds"):
        return DRIVER_DATABASE
    return CRITICAL_DATABASE if system.has(f"{control_set}\\Control\\{CRITICAL_DATABASE}") else ""


class DriverReader:
    """Reads the drivers of one Windows: ``root`` is its directory on the volume, ``drive`` its letter (``C``)."""

    def __init__(self, tree: Tree, root: str, system: Hive, control_set: str, drive: str) -> None:
        self._tree = tree
        self._root = root
        self._system = system
        self._control_set = control_set
        self._drive = drive.upper()
        hardware = system.number("HardwareConfig", "LastId")
        self._hardware = str(hardware or 0)
        self.database = device_database(system, control_set)

    def read(self) -> tuple[DriverFacts, ...]:
        """Candidates for every device, and the drivers that every boot needs."""
        found: list[DriverFacts] = []
        for device in DEVICES:
            bound = dict.fromkeys(self._bound(device))
            if not bound:
                bound = dict.fromkeys((service, "", "") for service in device.services if self._exists(service))
            if not bound:
                bound = {(device.services[0], "", ""): None}
            found += [self._driver(device.name, *item) for item in bound]
            found += [self._driver(device.name, helper, "", "helper") for helper in device.helpers]
        vista = self._exists("volmgr")
        found += [self._driver(BASE, service, "", "") for service in (BASE_DRIVERS if vista else BASE_DRIVERS_NT5)]
        return tuple(found[:MAX_DRIVERS])

    def _bound(self, device: Device) -> Iterator[tuple[str, str, str]]:
        """Service, identifier and origin of what the device database names for a device, the exact one first."""
        for identifier in device.identifiers:
            if self.database == DRIVER_DATABASE:
                infs = self._system.values(f"DriverDatabase\\DeviceIds\\PCI\\{identifier}")
                for inf in [name for name in infs if name][:_MAX_INFS]:
                    service = package_service(self._system, inf, identifier)
                    names = [service] if service else [name for name in device.services if self._exists(name)]
                    yield from ((name, identifier, clean(inf, 64)) for name in names)
            elif self.database == CRITICAL_DATABASE:
                key = f"{self._control_set}\\Control\\{CRITICAL_DATABASE}\\PCI#{identifier}"
                service = self._system.text(key, "Service", 64)
                if service:
                    yield service, identifier, CRITICAL_DATABASE

    def _service(self, name: str) -> str:
        return f"{self._control_set}\\Services\\{name}"

    def _exists(self, name: str) -> bool:
        return self._system.has(self._service(name))

    def _driver(self, device: str, service: str, match: str, origin: str) -> DriverFacts:
        key = self._service(service)
        image = self.image(service)
        return DriverFacts(
            device=device,
            service=service,
            start=self._system.number(key, "Start"),
            override=self._system.number(f"{key}\\StartOverride", self._hardware),
            image=image,
            image_found=self._tree.exists(image),
            match=match,
            origin=origin,
        )

    def image(self, service: str) -> str:
        """Where a driver's file is on the volume, by ImagePath or by the rule for those that have none."""
        path = self._system.text(self._service(service), "ImagePath", 1024) or f"System32\\drivers\\{service}.sys"
        return image_path(path, self._root, self._drive)

    def filters(self) -> tuple[FilterFacts, ...]:
        """Filter drivers of disk classes that Windows cannot load: it does not start the device then."""
        found = []
        for guid, name in DISK_CLASSES.items():
            key = f"{self._control_set}\\Control\\Class\\{guid}"
            services = [*self._system.texts(key, "UpperFilters"), *self._system.texts(key, "LowerFilters")]
            for service in dict.fromkeys(services[:MAX_FILTERS]):
                reason = self._filter_problem(service)
                if reason:
                    found.append(FilterFacts(name, service[:64], reason))
        return tuple(found[:MAX_FILTERS])

    def _filter_problem(self, service: str) -> str:
        if not self._exists(service):
            return "no such service"
        image = self.image(service)
        if not self._tree.exists(image):
            return clean(f"{image} is missing")
        return "disabled" if self._system.number(self._service(service), "Start") == _DISABLED else ""


def image_path(path: str, root: str, drive: str) -> str:
    """An ImagePath as a path on the system volume; relative ones begin in Windows' directory."""
    path = path.strip().strip('"').replace("/", "\\")
    lower = path.lower()
    for prefix in ("\\systemroot\\", "%systemroot%\\", "%windir%\\"):
        if lower.startswith(prefix):
            path = path[len(prefix) :]
            break
    else:
        on_drive = _DRIVE.match(path)
        if on_drive:
            # Another drive is another volume, or this one under another letter.
            if drive and on_drive.group(1).upper() != drive:
                return path.replace("\\", "/")
            return "/" + path[on_drive.end() :].replace("\\", "/")
        path = path.lstrip("\\")
    return f"{root}/{path}".replace("\\", "/")


def package_service(hive: Hive, inf: str, identifier: str) -> str | None:
    """The service that an inf's active package installs for a device: package, descriptor, configuration, service."""
    package = hive.text(f"DriverDatabase\\DriverInfFiles\\{inf}", "Active")
    if not package:
        return None
    key = f"DriverDatabase\\DriverPackages\\{package}"
    configuration = hive.text(f"{key}\\Descriptors\\PCI\\{identifier}", "Configuration")
    if not configuration:
        return None
    return hive.text(f"{key}\\Configurations\\{configuration}", "Service", 64) or None


def network_devices() -> tuple[Device, ...]:
    """The network cards among the devices."""
    return tuple(device for device in DEVICES if device.kind == NETWORK)


def installable_by_hive(drivers: Hive, wanted: Sequence[Device]) -> list[InstallableFacts]:
    """Of these devices: those for which the hive DRIVERS names an inf."""
    found = []
    for device in wanted:
        for identifier in device.identifiers:
            infs = [name for name in drivers.values(f"DriverDatabase\\DeviceIds\\PCI\\{identifier}") if name]
            if infs:
                found.append(InstallableFacts(device.name, identifier, clean(infs[0], 64)))
                break
    return found


def installable_by_inf(tree: Tree, root: str, wanted: Sequence[Device]) -> list[InstallableFacts]:
    """Of these devices: those whose identifier stands in an inf file of a network driver."""
    missing = {identifier.lower(): device for device in wanted for identifier in device.identifiers}
    found = []
    read = 0
    for name in [name for name in tree.names(f"{root}/INF") if _INF_FILE.match(name)][:_INF_FILES]:
        data = (tree.read(f"{root}/INF/{name}", _INF_BYTES) or b"").lower()
        read += len(data)
        for identifier, device in list(missing.items()):
            if identifier.encode() in data or identifier.encode("utf-16-le") in data:
                del missing[identifier]
                found.append(InstallableFacts(device.name, identifier.upper(), clean(name, 64)))
        if not missing or read > _INF_TOTAL:
            break
    return found
