# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a Windows can start from a disk, or reach the network, through each of VMware's devices.

A boot driver is ready when its service has Start 0, its file is there and the device database binds it to the device.
From Windows 8 on a service may also have a StartOverride: a start type for one machine, numbered by ``HardwareConfig``
after its SMBIOS UUID. It keeps boot drivers that this machine does not need from starting here; a machine with another
UUID has no override. That is how disks that travel between machines are seen to work, but Windows does not document
it: such a driver is ``likely``.
"""

from __future__ import annotations

from collections.abc import Sequence

from coldmig_agent.guest.windows.devices import BASE, DEVICES, STORAGE, Device
from coldmig_agent.guest.windows.model import DriverFacts, WindowsSystem
from coldmig_agent.machine import Readiness

READY, LIKELY, NO, UNKNOWN = "ready", "likely", "no", "unknown"
_ORDER = (NO, UNKNOWN, LIKELY, READY)
_DISABLED = 4
_MAX_EVIDENCE = 12
_Finding = tuple[str, str]


def readiness(system: WindowsSystem) -> tuple[Readiness, ...]:
    """A verdict for every device, with what it rests on."""
    if not system.drivers:
        why = "; ".join(system.problems) or "its registry was not read"
        return tuple(Readiness(device.name, device.kind, UNKNOWN, (why[:300],)) for device in DEVICES)
    base = [_boot_driver(item, bound=True) for item in system.drivers if item.device == BASE]
    hive = next((hive for hive in system.hives if hive.name.lower() == "system"), None)
    found = []
    for device in DEVICES:
        drivers = [item for item in system.drivers if item.device == device.name]
        if device.kind == STORAGE:
            verdict, evidence = _storage(device, drivers, system.device_database)
            broken = [text for value, text in base if value == NO]
            if broken:
                verdict, evidence = NO, [*broken, *evidence]
        else:
            verdict, evidence = _network(device, drivers, system)
        if hive is not None and hive.state == "stale" and verdict == READY:
            verdict, evidence = LIKELY, [*evidence, f"the registry may lack its newest changes: {hive.problem}"]
        if hive is not None and hive.damaged and verdict == NO:
            verdict, evidence = UNKNOWN, [*evidence, "parts of the registry cannot be read"]
        texts = tuple(text[:300] for text in evidence[:_MAX_EVIDENCE])
        found.append(Readiness(device.name, device.kind, verdict, texts))
    return tuple(found)


def _storage(device: Device, drivers: Sequence[DriverFacts], database: str) -> tuple[str, list[str]]:
    own = [item for item in drivers if item.origin != "helper"]
    # The most exact identifier wins in Windows; several packages for the same one are ranked by what we do not see.
    exact = [item for item in own if item.match == own[0].match] if own else []
    findings = [_boot_driver(item, bound=bool(item.match), database=database) for item in exact]
    if not findings:
        return NO, [f"no driver for {device.name} was found"]
    verdicts = {verdict for verdict, _text in findings}
    best = max(verdicts, key=_ORDER.index)
    verdict = LIKELY if best == READY and len(verdicts) > 1 else best
    helpers = [_boot_driver(item, bound=True) for item in drivers if item.origin == "helper"]
    worst = min([verdict, *(value for value, _text in helpers)], key=_ORDER.index)
    return worst, [text for _value, text in (*findings, *helpers)]


def _boot_driver(driver: DriverFacts, *, bound: bool, database: str = "") -> _Finding:
    """What one service is good for at boot."""
    name = driver.service
    problem = _boot_problem(driver) or (
        f"Start=0, but {database} does not bind it to the device" if database and not bound else ""
    )
    if problem:
        return NO, f"{name}: {problem}"
    if driver.override:
        return LIKELY, (
            f"{name}: Start=0, but StartOverride={driver.override} for the present hardware; "
            "a machine with a new SMBIOS UUID has no such override"
        )
    if not bound:
        return LIKELY, f"{name}: Start=0 and its file is there; no device database was found"
    by = f", bound to {driver.match} by {driver.origin}" if driver.match else ""
    return READY, f"{name}: Start=0, {driver.image} is there{by}"


def _boot_problem(driver: DriverFacts) -> str:
    if driver.start is None:
        return "no such service, or it has no Start"
    if driver.start != 0:
        return f"Start={driver.start}, it does not start at boot"
    return "" if driver.image_found else f"its file {driver.image} is missing"


def _network(device: Device, drivers: Sequence[DriverFacts], system: WindowsSystem) -> tuple[str, list[str]]:
    packages = [item for item in system.installable if item.device == device.name]
    package = f"{packages[0].origin} has a driver for {packages[0].match}" if packages else ""
    evidence = []
    best = NO
    for item in drivers:
        if item.start is None:
            evidence.append(f"{item.service}: no such service")
        elif item.start >= _DISABLED:
            evidence.append(f"{item.service}: Start={item.start}, it is disabled")
        elif not item.image_found:
            evidence.append(f"{item.service}: its file {item.image} is missing")
        else:
            bound = item.match or package
            best = READY if bound else max(best, LIKELY, key=_ORDER.index)
            known = f"; {package or f'bound to {item.match} by {item.origin}'}" if bound else ""
            evidence.append(f"{item.service}: Start={item.start}, {item.image} is there{known}")
    if best == NO and package:
        return LIKELY, [*evidence, f"{package}: Windows installs it when it sees the card"]
    return best, evidence
