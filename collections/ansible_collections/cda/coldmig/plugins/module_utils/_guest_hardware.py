# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual hardware for a migrated machine. Pure: no connection, no file, no AnsibleModule.

PRIVATE to the collection. The copied disks are never modified, so the machine boots only if the VM has devices that its
operating system can already drive. This module turns the machine description that the agent sent (the gateway's
``machine`` object) into guest identifier, firmware, disk controller, network card, CPU, memory and disk sizes.

Guest identifiers are those of ``vim.vm.GuestOsDescriptor.GuestOsIdentifier``. One that the host does not offer is
refused by vCenter at creation, while a near one boots; hence the ladders: nearest lower release of the same family,
then the generic identifier of the kernel's series, then "other".
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

MIB = 1024 * 1024
MEMORY_STEP_MB = 4


class HardwareError(ValueError):
    """The machine cannot be given virtual hardware; the text says which limit and what would help."""


@dataclass(frozen=True)
class Controller:
    """A kind of virtual disk controller.

    ``vim_class`` is its pyVmomi name below ``vim.vm.device``; ``driver`` the Linux module that drives it; ``units`` the
    usable unit numbers of one controller; ``buses`` how many of it a VM may have.
    """

    name: str
    vim_class: str
    driver: str
    units: tuple[int, ...]
    buses: int


_SCSI_UNITS = tuple(unit for unit in range(16) if unit != 7)  # unit 7 is the controller itself

#: In order of preference: speed first, then how widely the driver is found.
CONTROLLERS: t.Final[tuple[Controller, ...]] = (
    Controller("pvscsi", "ParaVirtualSCSIController", "vmw_pvscsi", _SCSI_UNITS, 4),
    Controller("lsilogic-sas", "VirtualLsiLogicSASController", "mptsas", _SCSI_UNITS, 4),
    Controller("ahci", "VirtualAHCIController", "ahci", tuple(range(30)), 4),
    Controller("nvme", "VirtualNVMEController", "nvme", tuple(range(15)), 4),
    Controller("lsilogic", "VirtualLsiLogicController", "mptspi", _SCSI_UNITS, 4),
    Controller("ide", "VirtualIDEController", "ata_piix", (0, 1), 2),
)
CONTROLLERS_BY_NAME: t.Final = {controller.name: controller for controller in CONTROLLERS}

#: name (also the Linux module's) -> pyVmomi class, in order of preference.
NICS: t.Final[dict[str, str]] = {"vmxnet3": "VirtualVmxnet3", "e1000e": "VirtualE1000e", "e1000": "VirtualE1000"}


@dataclass(frozen=True)
class OfferedGuest:
    """What a host says about one guest identifier (``GuestOsDescriptor``). Empty lists and None mean "not said"."""

    id: str
    supported_for_create: bool = True
    firmware: tuple[str, ...] = ()
    controllers: tuple[str, ...] = ()
    nics: tuple[str, ...] = ()
    pvscsi_boot: bool | None = None
    secure_boot: bool | None = None
    max_cpus: int | None = None


@dataclass(frozen=True)
class DiskPlace:
    """A disk of the VM: ``capacity_kb`` is a whole number of MiB, never less than the source disk."""

    index: int
    capacity_kb: int
    bus: int
    unit: int


@dataclass(frozen=True)
class Hardware:
    """The VM's hardware. ``notes`` are sentences for a person: what could not be known or had to be replaced."""

    guest_id: str
    firmware: str
    secure_boot: bool
    controller: str
    nic: str
    num_cpus: int
    cores_per_socket: int
    memory_mb: int
    disks: tuple[DiskPlace, ...]
    notes: tuple[str, ...] = field(default=())


# --- guest identifier ---------------------------------------------------------------------------------------------

_RHEL = {major: f"rhel{major}_64Guest" for major in range(3, 11)}
_LADDERS: t.Final[dict[str, dict[int, str]]] = {
    "debian": {major: f"debian{major}_64Guest" for major in range(4, 14)},
    "rhel": _RHEL,
    # CentOS 10 has no identifier of its own
    "centos": {
        4: "centos64Guest",
        5: "centos64Guest",
        **{n: f"centos{n}_64Guest" for n in range(6, 10)},
        10: _RHEL[10],
    },
    "ol": {4: "oracleLinux64Guest", 5: "oracleLinux64Guest", **{n: f"oracleLinux{n}_64Guest" for n in range(6, 11)}},
    "sles": {9: "sles64Guest", **{n: f"sles{n}_64Guest" for n in (10, 11, 12, 15, 16)}},
    "amzn": {2: "amazonlinux2_64Guest", 2023: "amazonlinux3_64Guest"},
    "asianux": {n: f"asianux{n}_64Guest" for n in (3, 4, 5, 7, 8, 9)},
    "freebsd": {1: "freebsd64Guest", **{n: f"freebsd{n}_64Guest" for n in range(11, 16)}},
}
_KERNEL_LADDER: t.Final = {24: "other24xLinux64Guest", 26: "other26xLinux64Guest"} | {
    major * 10: f"other{major}xLinux64Guest" for major in range(3, 8)
}
_LAST_RESORT: t.Final = ("otherLinux64Guest", "otherGuest64")
_NEWEST_DEBIAN_KNOWN_EVERYWHERE = 12

#: identifiers without a version, best first; "rhel" continues on the ladder of Red Hat's major version
_FIXED: t.Final[dict[str, tuple[str, ...]]] = {
    "ubuntu": ("ubuntu64Guest",),
    "fedora": ("fedora64Guest",),
    "opensuse": ("opensuse64Guest",),
    "photon": ("vmwarePhoton64Guest",),
    "coreos": ("coreos64Guest",),
    "flatcar": ("flatcar_64Guest", "coreos64Guest"),
    "pardus": ("pardus_64Guest",),
    "kylin": ("kylinlinux_64Guest",),
}
_CLONES: t.Final[dict[str, tuple[str, ...]]] = {
    "rocky": ("rockylinux_64Guest",),
    "almalinux": ("almalinux_64Guest",),
    "miraclelinux": ("miraclelinux_64Guest",),
}
#: os-release ID -> family, where the two differ
_FAMILY: t.Final[dict[str, str]] = (
    dict.fromkeys(("linuxmint", "elementary", "pop", "zorin", "neon", "tuxedo"), "ubuntu")
    | dict.fromkeys(
        ("scientific", "virtuozzo", "clearos", "xcp-ng", "xenenterprise", "eurolinux", "springdale"), "rhel"
    )
    | dict.fromkeys(("redhat", "redhatenterpriseserver", "cloudlinux", "circle", "navylinux"), "rhel")
    | dict.fromkeys(("nobara", "mageia", "ultramarine"), "fedora")
    | dict.fromkeys(("kali", "parrot", "raspbian", "devuan", "cumulus-linux", "proxmox", "pureos", "deepin"), "debian")
    | dict.fromkeys(("sled", "sles_sap", "sle_hpc", "sle-hpc", "sle-micro", "sl-micro", "suse-microos"), "sles")
    | {"oracle": "ol", "amazon": "amzn"}
)
_SLES_OF_MICRO = {5: 15, 6: 16}


def _major(version: str) -> int | None:
    match = re.match(r"\s*v?(\d{1,6})", version)
    return int(match.group(1)) if match else None


def _down_from(ladder: Mapping[int, str], top: int) -> Iterator[str]:
    """Identifiers of ``top`` and below, best first."""
    for major in sorted(ladder, reverse=True):
        if major <= top:
            yield ladder[major]


def _family_major(os_id: str, family: str, version: str) -> int | None:
    """The release number on the family's own scale."""
    major = _major(version)
    if family == "debian" and os_id != "debian":
        if os_id == "devuan":
            return major + 7 if major else _NEWEST_DEBIAN_KNOWN_EVERYWHERE
        if os_id == "raspbian" and major in _LADDERS["debian"]:
            return major
        return _NEWEST_DEBIAN_KNOWN_EVERYWHERE  # their own numbering says nothing about Debian's
    if os_id in ("sle-micro", "sl-micro", "suse-microos"):
        return _SLES_OF_MICRO.get(major or 0, 15)
    if family == "debian" and major is None:
        return _NEWEST_DEBIAN_KNOWN_EVERYWHERE  # testing and unstable carry no VERSION_ID
    return major


def _kernel_ids(kernel: str | None) -> Iterator[str]:
    match = re.match(r"(\d{1,3})\.(\d{1,3})", kernel or "")
    if match:
        major, minor = int(match.group(1)), int(match.group(2))
        yield from _down_from(_KERNEL_LADDER, major * 10 + (min(minor, 9) if major == 2 else 0))


def _linux_ids(os_id: str, version: str, kernel: str | None) -> Iterator[str]:
    family = "opensuse" if os_id.startswith("opensuse") else _FAMILY.get(os_id, os_id)
    major = _family_major(os_id, family, version)
    if family in _FIXED:
        yield from _FIXED[family]
    elif family in _CLONES:
        yield from _CLONES[family]
        yield from _down_from(_LADDERS["rhel"], major or 0)
    elif family in _LADDERS and major is not None:
        yield from _down_from(_LADDERS[family], major)
    yield from _kernel_ids(kernel)
    yield from _LAST_RESORT


_WINDOWS_CLIENTS: t.Final = (
    ((10, 0, 22000), "windows11_64Guest"),
    ((10, 0, 0), "windows9_64Guest"),
    ((6, 2, 0), "windows8_64Guest"),
    ((6, 1, 0), "windows7_64Guest"),
    ((6, 0, 0), "winVista64Guest"),
    ((5, 1, 0), "winXPPro64Guest"),
)
_WINDOWS_SERVERS: t.Final = (
    ((10, 0, 26100), "windows2022srvNext_64Guest"),
    ((10, 0, 20348), "windows2019srvNext_64Guest"),
    ((10, 0, 17763), "windows2019srv_64Guest"),
    ((10, 0, 0), "windows9Server64Guest"),
    ((6, 2, 0), "windows8Server64Guest"),
    ((6, 1, 0), "windows7Server64Guest"),
    ((6, 0, 0), "winLonghorn64Guest"),
    ((5, 2, 0), "winNetEnterprise64Guest"),
)


def _windows_ids(version: str, title: str) -> Iterator[str]:
    """``version`` is the NT version with its build, as in 10.0.20348; the title tells a server from a client."""
    numbers = [int(part) for part in re.findall(r"\d{1,6}", version)[:3]]
    wanted = (*numbers, 0, 0)[:3] if numbers else (10, 0, 0)
    for least, guest_id in _WINDOWS_SERVERS if "server" in title.lower() else _WINDOWS_CLIENTS:
        if wanted >= least:
            yield guest_id
    yield "otherGuest64"


def guest_id_candidates(guest: Mapping[str, t.Any]) -> list[str]:
    """Identifiers for the machine's ``guest`` object, best first, never empty, each once."""
    os_id = str(guest.get("id") or "").strip().lower()
    version = str(guest.get("version") or "")
    os_type = guest.get("os_type")
    if os_type == "windows":
        found: Iterable[str] = _windows_ids(version, f"{guest.get('pretty_name') or ''} {os_id}")
    elif os_type == "linux":
        found = _linux_ids(os_id, version, guest.get("kernel"))
    elif os_id == "freebsd":
        found = [*_down_from(_LADDERS["freebsd"], _major(version) or 1), "otherGuest64"]
    else:
        found = ["otherGuest64"]
    return list(dict.fromkeys(found))


def _choose_guest(
    guest: Mapping[str, t.Any],
    firmware: str,
    offered: Mapping[str, OfferedGuest],
    override: str | None,
    notes: list[str],
) -> tuple[str, OfferedGuest | None]:
    def usable(candidate: OfferedGuest | None) -> bool:
        return (
            candidate is not None
            and candidate.supported_for_create
            and (not candidate.firmware or firmware in candidate.firmware)
        )

    if override is not None:
        if offered and not usable(offered.get(override)):
            close = sorted(guest_id for guest_id in offered if guest_id[:4].lower() == override[:4].lower())
            hint = f"; near it there are {', '.join(close[:8])}" if close else ""
            raise HardwareError(
                f"guest_id: the host does not offer {override!r} for a new VM with {firmware} firmware{hint}"
            )
        return override, offered.get(override)
    candidates = guest_id_candidates(guest)
    if not offered:
        return candidates[0], None
    for candidate in candidates:
        if usable(offered.get(candidate)):
            if candidate != candidates[0]:
                notes.append(f"The host does not offer guest type {candidates[0]}; {candidate} is used instead.")
            return candidate, offered[candidate]
    raise HardwareError(
        f"the host offers none of the guest types {', '.join(candidates)} with {firmware} firmware; "
        "name one that it offers with guest_id"
    )


# --- devices ------------------------------------------------------------------------------------------------------


def _drivers(guest: Mapping[str, t.Any]) -> frozenset[str]:
    return frozenset(str(driver).replace("-", "_").lower() for driver in guest.get("drivers") or ())


def choose_controller(guest: Mapping[str, t.Any], offered: OfferedGuest | None, notes: list[str]) -> Controller:
    """The best controller that the guest has a boot driver for and that the host allows for it."""
    drivers = _drivers(guest)
    allowed = [
        controller
        for controller in CONTROLLERS
        if offered is None
        or (
            (not offered.controllers or controller.vim_class in offered.controllers)
            and not (controller.name == "pvscsi" and offered.pvscsi_boot is False)
        )
    ]
    for controller in allowed:
        if controller.driver in drivers:
            return controller
    fallback = next((c for c in allowed if c.name == "ahci"), CONTROLLERS_BY_NAME["ahci"])
    if any(c.driver in drivers for c in CONTROLLERS):
        notes.append("The host allows none of the disk controllers that the guest has drivers for; AHCI is tried.")
    elif drivers:
        notes.append(
            "The guest can load none of the drivers for virtual disk controllers "
            f"({', '.join(c.driver for c in CONTROLLERS)}) at boot; AHCI is tried, it will probably not find its disk."
        )
    else:
        notes.append("The guest's drivers are not known; AHCI is used because most systems can boot from it.")
    return fallback


def choose_nic(guest: Mapping[str, t.Any], offered: OfferedGuest | None = None, notes: list[str] | None = None) -> str:
    """``vmxnet3``, ``e1000e`` or ``e1000``."""
    drivers = _drivers(guest)
    allowed = [
        name for name, vim_class in NICS.items() if offered is None or not offered.nics or vim_class in offered.nics
    ]
    for name in allowed:
        if name in drivers:
            return name
    if notes is not None:
        notes.append("No driver for a virtual network card is known in the guest; E1000E is used.")
    return "e1000e"


def place_disks(controller: Controller, capacities_kb: Sequence[int]) -> tuple[DiskPlace, ...]:
    """Disks in the order of the source, filling one controller after another."""
    room = len(controller.units) * controller.buses
    if len(capacities_kb) > room:
        raise HardwareError(
            f"{len(capacities_kb)} disks do not fit on controllers of type {controller.name}, which take {room}"
        )
    return tuple(
        DiskPlace(index, capacity, index // len(controller.units), controller.units[index % len(controller.units)])
        for index, capacity in enumerate(capacities_kb)
    )


def _positive(where: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise HardwareError(f"{where}: {value!r} is not a positive whole number")
    return value


def capacity_kb(size_bytes: int) -> int:
    """The VM's disk is a whole number of MiB: VCD counts MiB and other sizes break its consumers."""
    return -(-size_bytes // MIB) * 1024


def memory_mb(memory_bytes: int) -> int:
    """Rounded up to 4 MB, which vSphere demands."""
    return -(-memory_bytes // (MEMORY_STEP_MB * MIB)) * MEMORY_STEP_MB


def plan_hardware(
    machine: Mapping[str, t.Any],
    disk_sizes: Sequence[int],
    *,
    offered: Iterable[OfferedGuest] = (),
    guest_id: str | None = None,
    controller: str | None = None,
    nic: str | None = None,
) -> Hardware:
    """Hardware for ``machine`` (the gateway's machine object) with disks of ``disk_sizes`` bytes, in disk order.

    ``offered``: what the host lists, empty when it lists nothing. ``guest_id``, ``controller`` and ``nic`` override the
    choice. Raises HardwareError when a value is unusable or no VM can hold the machine.
    """
    guest: Mapping[str, t.Any] = machine.get("guest") or {}
    notes: list[str] = []
    firmware = machine.get("firmware")
    if firmware not in ("bios", "efi"):
        raise HardwareError(f"machine.firmware: {firmware!r} is neither 'bios' nor 'efi'")
    chosen, descriptor = _choose_guest(guest, firmware, {one.id: one for one in offered}, guest_id, notes)
    disk_controller = (
        CONTROLLERS_BY_NAME[controller] if controller is not None else choose_controller(guest, descriptor, notes)
    )
    cpu = machine.get("cpu") or {}
    sockets = _positive("machine.cpu.sockets", cpu.get("sockets"))
    cores = _positive("machine.cpu.cores_per_socket", cpu.get("cores_per_socket"))
    if descriptor is not None and descriptor.max_cpus and sockets * cores > descriptor.max_cpus:
        raise HardwareError(
            f"machine.cpu: {sockets * cores} CPUs; the host allows {descriptor.max_cpus} for guest type {chosen}"
        )
    secure_boot = firmware == "efi" and machine.get("secure_boot") is True
    if secure_boot and descriptor is not None and descriptor.secure_boot is False:
        notes.append(
            f"Secure Boot was on, but the host does not offer it for guest type {chosen}; it is off in the VM."
        )
        secure_boot = False
    sizes = [_positive(f"disks[{index}].size_bytes", size) for index, size in enumerate(disk_sizes)]
    return Hardware(
        guest_id=chosen,
        firmware=firmware,
        secure_boot=secure_boot,
        controller=disk_controller.name,
        nic=nic or choose_nic(guest, descriptor, notes),
        num_cpus=sockets * cores,
        cores_per_socket=cores,
        memory_mb=memory_mb(_positive("machine.memory_bytes", machine.get("memory_bytes"))),
        disks=place_disks(disk_controller, [capacity_kb(size) for size in sizes]),
        notes=tuple(notes),
    )
