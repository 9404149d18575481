# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of a Windows: raw facts of one volume, as they cross the pipe from the process that read them."""

from __future__ import annotations

from dataclasses import dataclass

#: Bounds of what is handed on.
MAX_DRIVERS = 48
MAX_FILTERS = 64
MAX_BOOT_ENTRIES = 32


@dataclass(frozen=True, slots=True)
class HiveFacts:
    """A hive that was read. ``state``: ``clean``, ``replayed`` (``entries`` of its logs), ``stale`` (``problem``).

    ``written``: the time of its newest file, seconds since 1970. ``damaged``: parts of it could not be read.
    """

    name: str
    state: str
    entries: int = 0
    problem: str = ""
    written: int = 0
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """``Microsoft\\Windows NT\\CurrentVersion``, or what stands in for it (``source`` names the file)."""

    major: int | None = None
    minor: int | None = None
    build: int | None = None
    ubr: int | None = None
    product_name: str = ""
    edition: str = ""
    installation_type: str = ""
    #: DisplayVersion, else ReleaseId: only good as a label ("21H2" is Windows 10, Windows 11 and Server 2022).
    label: str = ""
    service_pack: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """A driver that could serve a VMware device, or that every boot needs (``device`` is then ``base``).

    ``start`` None: the service does not exist or has no Start. ``override``: StartOverride for the hardware that
    Windows runs on now, None where there is none. ``image``: path of its file on the system volume; ``image_found``.
    ``match``: the hardware identifier under which the device database names it, empty where it does not;
    ``origin``: the entry's inf or ``CriticalDeviceDatabase``.
    """

    device: str
    service: str
    start: int | None
    override: int | None
    image: str
    image_found: bool
    match: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True)
class InstallableFacts:
    """A network card that Windows has a driver package for, without the service being there yet."""

    device: str
    match: str
    origin: str


@dataclass(frozen=True, slots=True)
class FilterFacts:
    """An UpperFilters or LowerFilters entry of a class of disk devices whose driver cannot be loaded."""

    device_class: str
    service: str
    reason: str


@dataclass(frozen=True, slots=True)
class WindowsSystem:
    """A Windows on a volume. ``root`` is its directory as it is spelled there (``/Windows``).

    ``machine``: of cmd.exe (``x86_64``, ``i386``, ``aarch64``), else what the registry says, else None. ``identity``:
    of the volume that it calls its own, as MountedDevices and boot stores name volumes: ``gpt:<guid>`` or
    ``mbr:<disk signature>:<offset>``. ``device_database``: ``DriverDatabase`` (Windows 8 and later),
    ``CriticalDeviceDatabase``, or empty where neither is there. ``resume``: state of hiberfil.sys: empty (there is
    none), ``hibernated``, ``unused``, ``unreadable``. ``others``: further Windows directories here.
    """

    root: str
    machine: str | None = None
    version: VersionFacts = VersionFacts()
    product_type: str = ""
    product_suite: tuple[str, ...] = ()
    computer_name: str | None = None
    host_name: str | None = None
    domain: str | None = None
    identity: str = ""
    preinstallation: bool = False
    device_database: str = ""
    drivers: tuple[DriverFacts, ...] = ()
    installable: tuple[InstallableFacts, ...] = ()
    filters: tuple[FilterFacts, ...] = ()
    san_policy: int | None = None
    fast_startup: bool = False
    resume: str = ""
    hives: tuple[HiveFacts, ...] = ()
    problems: tuple[str, ...] = ()
    written: int = 0
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BootStoreEntry:
    """A way to start Windows. ``identity`` as in WindowsSystem, of the volume that it starts from."""

    title: str
    loader: str
    root: str
    identity: str
    default: bool = False


@dataclass(frozen=True, slots=True)
class BootStore:
    """A boot store (BCD) or boot.ini. ``firmware`` is what it is read under: ``bios`` or ``efi``."""

    path: str
    firmware: str
    entries: tuple[BootStoreEntry, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class WindowsFacts:
    """What there is of Windows on one volume: a system, a boot store, or both."""

    system: WindowsSystem | None = None
    boot_store: BootStore | None = None
