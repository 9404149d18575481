# SPDX-License-Identifier: GPL-3.0-or-later
"""A Windows as one of the machine's guests: its name, whether it boots, and what a person should know before."""

from __future__ import annotations

import re
from collections.abc import Sequence

from coldmig_agent.guest.windows.devices import DEVICES, NETWORK
from coldmig_agent.guest.windows.hibernation import HIBERNATED, UNUSED
from coldmig_agent.guest.windows.model import BootStore, BootStoreEntry, DriverFacts, WindowsSystem
from coldmig_agent.guest.windows.naming import pretty_name
from coldmig_agent.guest.windows.readiness import LIKELY, NO, READY, UNKNOWN, readiness
from coldmig_agent.machine import Guest, Notice, Readiness
from coldmig_agent.text import clean
from coldmig_agent.warnings import notice

_STALE = "stale"
#: partmgr's SanPolicy: 1 brings every disk online; the others leave some offline until a person does.
_ALL_ONLINE = 1
_ON_DEMAND = 3
_NETWORK = frozenset(device.name for device in DEVICES if device.kind == NETWORK)
_DRIVER_NAME = re.compile(r"^[A-Za-z0-9_.-]{1,64}$")
#: Names that setup gives before a computer has its own.
_NO_NAMES = frozenset({"minwinpc", "minint"})


def to_guest(
    system: WindowsSystem, *, place: str, key: str, stores: Sequence[BootStore] = (), firmware: str = ""
) -> tuple[Guest, tuple[Notice, ...]]:
    """The guest at ``place``. ``stores``: boot stores of all volumes; ``firmware``: the machine's, where they agree."""
    version = system.version
    numbers = [version.major, version.minor, version.build]
    dotted = ".".join(str(number) for number in numbers if number is not None) if version.major is not None else ""
    store, entry, _rank = _boot(system, stores, firmware)
    devices = readiness(system)
    usable = {item.device for item in devices if item.verdict == READY}
    drivers = {
        item.service
        for item in system.drivers
        if item.device in usable and _starts(item) and _DRIVER_NAME.match(item.service)
    }
    name = "Windows PE" if system.preinstallation else pretty_name(version, system.product_type)
    guest = Guest(
        os_type="windows",
        id="windows",
        version=dotted,
        pretty_name=clean(name),
        hostname=_name(system.host_name) or _name(system.computer_name),
        computer_name=_name(system.computer_name),
        drivers=tuple(sorted(drivers)),
        key=key,
        place=place,
        arch=system.machine,
        release=f"{dotted}.{version.ubr}" if version.ubr is not None and version.build is not None else dotted,
        edition=version.edition,
        build=version.build,
        ubr=version.ubr,
        product_type=system.product_type,
        domain=system.domain,
        firmware=store.firmware if store else None,
        boot_entry=entry.title if entry else "",
        bootable=entry is not None,
        readiness=devices,
    )
    return guest, tuple(_notices(system, guest))


def rank(system: WindowsSystem, stores: Sequence[BootStore] = ()) -> tuple[int, ...]:
    """Orders the Windows of a machine: the one that starts by itself, then the one that was written last."""
    return _boot(system, stores, "")[2], int(not system.preinstallation), int(bool(system.drivers)), system.written


def _boot(
    system: WindowsSystem, stores: Sequence[BootStore], firmware: str
) -> tuple[BootStore | None, BootStoreEntry | None, int]:
    """The boot entry that means this system; 2: it names its volume, 1: only its directory, 0: there is none."""
    found: list[tuple[int, int, int, BootStore, BootStoreEntry]] = []
    for number, store in enumerate(stores):
        for entry in store.entries:
            value = _refers(entry, system) if entry.default else 0
            if value:
                found.append((value, int(store.firmware == firmware), -number, store, entry))
    if not found:
        return None, None, 0
    best = max(found, key=lambda item: item[:3])
    return best[3], best[4], best[0]


def _refers(entry: BootStoreEntry, system: WindowsSystem) -> int:
    same = entry.root.replace("\\", "/").strip("/").lower() == system.root.strip("/").lower()
    if not same:
        return 0
    # A restored or cloned system may still have the identity of another disk in its MountedDevices.
    return 2 if entry.identity and entry.identity == system.identity else 1


def _starts(driver: DriverFacts) -> bool:
    """Network drivers start when their card is found, which is what Start 3 means."""
    return driver.start == 0 or (driver.start == _ON_DEMAND and driver.device in _NETWORK)


def _name(value: str | None) -> str | None:
    return None if not value or value.lower() in _NO_NAMES else value


def _notices(system: WindowsSystem, guest: Guest) -> list[Notice]:
    title = f"{guest.pretty_name} on {guest.place}"
    found = _state_notices(system, guest)
    storage = [item for item in guest.readiness if item.kind == "storage"]
    network = [item for item in guest.readiness if item.kind == "network"]
    usable = {item.verdict for item in storage} - {NO}
    if not usable:
        found.append(notice("windows-no-boot-driver", system=title, reason=_reason(storage)))
    elif READY not in usable and LIKELY in usable:
        likely = [item for item in storage if item.verdict == LIKELY]
        devices = ", ".join(item.device for item in likely)
        reason = likely[0].evidence[0] if likely[0].evidence else "see the evidence"
        found.append(notice("storage-driver-likely", system=title, devices=devices, reason=reason))
    if not {item.verdict for item in network} - {NO}:
        found.append(notice("no-network-driver", system=title, reason=_reason(network)))
    missing = ", ".join(f"{item.service} ({item.device_class}: {item.reason})" for item in system.filters)
    if missing:
        found.append(notice("disk-filter-missing", system=title, filters=missing))
    if system.san_policy is not None and system.san_policy != _ALL_ONLINE:
        found.append(notice("san-policy", system=title, policy=system.san_policy))
    return found


def _state_notices(system: WindowsSystem, guest: Guest) -> list[Notice]:
    found = []
    if system.resume == HIBERNATED:
        found.append(notice("hibernated", place=guest.place, system=guest.pretty_name))
    if system.fast_startup and system.resume:
        severity = "info" if system.resume == UNUSED else "warning"
        found.append(notice("windows-fast-startup", severity, place=guest.place))
    for hive in system.hives:
        if hive.state == _STALE:
            found.append(notice("registry-not-replayed", place=guest.place, hive=hive.name, problem=hive.problem))
    problems = [*system.problems, *(f"parts of {hive.name} are damaged" for hive in system.hives if hive.damaged)]
    if problems:
        found.append(notice("registry-not-read", place=guest.place, problem="; ".join(problems)))
    return found


def _reason(items: Sequence[Readiness]) -> str:
    """The first piece of evidence against each device."""
    texts = (next(iter(item.evidence), "") for item in items if item.verdict in {NO, UNKNOWN})
    return "; ".join(dict.fromkeys(text for text in texts if text))
