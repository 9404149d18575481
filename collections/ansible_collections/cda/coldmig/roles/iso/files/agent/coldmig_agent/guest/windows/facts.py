# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what one mounted volume holds of Windows: a system, a boot store, or both."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.guest.windows import pe, registry
from coldmig_agent.guest.windows.bcd import read_boot_store
from coldmig_agent.guest.windows.drivers import (
    DRIVER_DATABASE,
    DriverReader,
    installable_by_hive,
    installable_by_inf,
    network_devices,
)
from coldmig_agent.guest.windows.hibernation import read_resume
from coldmig_agent.guest.windows.hive import Hive, HiveError, open_hive
from coldmig_agent.guest.windows.model import (
    HiveFacts,
    InstallableFacts,
    VersionFacts,
    WindowsFacts,
    WindowsSystem,
)
from coldmig_agent.guest.windows.tree import Tree
from coldmig_agent.text import clean

LOG = logging.getLogger(__name__)

__all__ = ["WindowsFacts", "read_windows"]

_USUAL_NAMES = ("windows", "winnt", "win32", "win", "reactos")
#: Directories that hold a former or an unfinished Windows.
_NOT_SYSTEMS = ("windows.old", "$windows.", "$winreagent", "$recycle.bin", "system volume information", "recovery")
_MAX_TOP = 256
_MAX_ROOTS = 4
_SETUP_EDITION = "windowspe"
_NEEDED = ("system32/cmd.exe", "system32/config/system", "system32/config/software")
#: ntoskrnl.exe has some 10 MiB, its version resource near the end.
_KERNEL_BYTES = 24 << 20


def read_windows(root: GuestRoot) -> WindowsFacts | None:
    """Facts of a mounted volume (NTFS, FAT); None where nothing of Windows is there. Never raises."""
    tree = Tree(root)
    roots = list(_roots(tree))[:_MAX_ROOTS]
    systems = sorted((read_system(tree, place) for place in roots), key=_age)
    system = None
    if systems:
        system = replace(systems[-1], others=tuple(item.root for item in systems[:-1]))
    store = read_boot_store(tree)
    return WindowsFacts(system, store) if system or store else None


def _age(system: WindowsSystem) -> tuple[bool, bool, int]:
    """The one that was written last counts, but no setup environment while there is something else."""
    return not system.preinstallation, bool(system.drivers), system.written


def _roots(tree: Tree) -> Iterator[str]:
    names = [name for name in tree.names("/")[:_MAX_TOP] if not name.lower().startswith(_NOT_SYSTEMS)]
    usual = sorted(names, key=lambda name: (name.lower() not in _USUAL_NAMES, name.lower()))
    for name in usual:
        if all(tree.exists(f"/{name}/{path}") for path in _NEEDED):
            yield f"/{name}"


def read_system(tree: Tree, root: str) -> WindowsSystem:
    """Facts of the Windows in a directory of the volume."""
    config = f"{root}/system32/config"
    head = tree.read(f"{root}/system32/cmd.exe", pe.HEAD)
    system = WindowsSystem(root=root, machine=pe.machine(head or b""), resume=read_resume(tree))
    hives: list[HiveFacts] = []
    problems: list[str] = []
    drive = "C"
    try:
        with open_hive(tree, f"{config}/software") as (software, state):
            system = replace(system, version=registry.version(software))
            drive = registry.system_drive(software)
            hives.append(_state(software, state))
    except HiveError as error:
        problems.append(clean(str(error)))
    try:
        with open_hive(tree, f"{config}/system") as (hive, state):
            system = _from_system(tree, system, hive, drive)
            hives.append(_state(hive, state))
    except HiveError as error:
        problems.append(clean(str(error)))
    if system.version.build is None:
        system = replace(system, version=_version_by_kernel(tree, root, system.version))
    if system.version.major is not None and system.version.major < 6 and not system.version.edition:
        edition = registry.edition_by_suite(system.product_suite, system.product_type)
        system = replace(system, version=replace(system.version, edition=edition))
    # Not by the key MiniNT: installed systems have been seen with it.
    system = replace(system, preinstallation=system.version.edition.lower() == _SETUP_EDITION)
    installable, problem = _installable(tree, root, system)
    problems += [problem] if problem else []
    written = max((hive.written for hive in hives), default=0)
    return replace(system, installable=installable, hives=tuple(hives), problems=tuple(problems), written=written)


def _state(hive: Hive, state: HiveFacts) -> HiveFacts:
    return replace(state, damaged=hive.damage > 0)


def _from_system(tree: Tree, found: WindowsSystem, system: Hive, drive: str) -> WindowsSystem:
    current = registry.control_set(system)
    reader = DriverReader(tree, found.root, system, current, drive)
    power = f"{current}\\Control\\Session Manager\\Power"
    return replace(
        found,
        machine=found.machine or registry.architecture(system, current),
        version=found.version if found.version.major is not None else registry.version_by_database(system),
        product_type=registry.product_type(system, current),
        product_suite=registry.product_suite(system, current),
        computer_name=registry.computer_name(system, current),
        host_name=registry.host_name(system, current),
        domain=registry.domain(system, current),
        identity=registry.identity(system, drive),
        device_database=reader.database,
        drivers=reader.read(),
        filters=reader.filters(),
        san_policy=system.number(f"{current}\\Services\\partmgr\\Parameters", "SanPolicy"),
        fast_startup=system.number(power, "HiberbootEnabled") == 1,
    )


def _version_by_kernel(tree: Tree, root: str, known: VersionFacts) -> VersionFacts:
    numbers = pe.product_version(tree.read(f"{root}/system32/ntoskrnl.exe", _KERNEL_BYTES) or b"")
    if numbers is None:
        return known
    major, minor, build, ubr = numbers
    return replace(known, major=major, minor=minor, build=build, ubr=ubr, source="ntoskrnl.exe")


def _installable(tree: Tree, root: str, system: WindowsSystem) -> tuple[tuple[InstallableFacts, ...], str]:
    """Network cards that Windows has a driver package for; it installs it when it first sees the card."""
    wanted = network_devices()
    hive_path = f"{root}/system32/config/drivers"
    if system.device_database == DRIVER_DATABASE and tree.exists(hive_path):
        try:
            with open_hive(tree, hive_path) as (drivers, _state):
                return tuple(installable_by_hive(drivers, wanted)), ""
        except HiveError as error:
            return (), clean(str(error))
    return tuple(installable_by_inf(tree, root, wanted)), ""
