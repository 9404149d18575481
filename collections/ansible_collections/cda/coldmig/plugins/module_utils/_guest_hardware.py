# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual hardware for a migrated machine. Pure: no connection, no file, no AnsibleModule.

PRIVATE to the collection. The copied disks are never modified, so the machine boots only if the VM has devices that its
operating system can already drive. The agent says of each kind of device whether that is so (``readiness``, with its
evidence); within what the hosts offer this module chooses firmware, disk controller, network card, CPUs, memory and
places of the disks.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.cda.coldmig.plugins.module_utils._guest_id import Guest, guest_id_candidates, known_to

MIB = 1024 * 1024
MEMORY_STEP_MB = 4


class HardwareError(ValueError):
    """The machine cannot be given virtual hardware; the text says which limit and what would help."""


@dataclass(frozen=True)
class Controller:
    """A kind of virtual disk controller.

    ``vim_class`` is its pyVmomi name below ``vim.vm.device``; ``driver`` the Linux module that drives it; ``units`` the
    usable unit numbers of one controller; ``buses`` how many of it a VM may have; ``since`` the first virtual hardware
    version with it.
    """

    name: str
    vim_class: str
    driver: str
    units: tuple[int, ...]
    buses: int
    since: int = 4

    @property
    def room(self) -> int:
        """How many disks a VM can have on it."""
        return len(self.units) * self.buses


_SCSI_UNITS = tuple(unit for unit in range(16) if unit != 7)  # unit 7 is the controller itself

#: In order of preference for systems that can drive them: speed first, then how widely the driver is found.
CONTROLLERS: t.Final[tuple[Controller, ...]] = (
    Controller("pvscsi", "ParaVirtualSCSIController", "vmw_pvscsi", _SCSI_UNITS, 4, since=7),
    Controller("lsilogic-sas", "VirtualLsiLogicSASController", "mptsas", _SCSI_UNITS, 4, since=7),
    Controller("ahci", "VirtualAHCIController", "ahci", tuple(range(30)), 4, since=10),
    Controller("nvme", "VirtualNVMEController", "nvme", tuple(range(15)), 4, since=13),
    Controller("lsilogic", "VirtualLsiLogicController", "mptspi", _SCSI_UNITS, 4),
    Controller("ide", "VirtualIDEController", "ata_piix", (0, 1), 2),
)
CONTROLLERS_BY_NAME: t.Final = {controller.name: controller for controller in CONTROLLERS}
#: Windows whose driver is there but was never used on this machine: what Microsoft ships and tests most comes first.
_WINDOWS_LIKELY: t.Final = ("ahci", "lsilogic-sas", "nvme", "ide", "pvscsi", "lsilogic")

#: name (also the Linux module's) -> pyVmomi class, in order of preference.
NICS: t.Final[dict[str, str]] = {"vmxnet3": "VirtualVmxnet3", "e1000e": "VirtualE1000e", "e1000": "VirtualE1000"}

VERDICTS: t.Final = ("ready", "likely", "unknown", "no")


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

    def usable_with(self, firmware: str) -> bool:
        """Whether a new VM with this firmware may have the identifier."""
        return self.supported_for_create and (not self.firmware or firmware in self.firmware)


@dataclass(frozen=True)
class Host:
    """Where the VM will be: what it lists (empty when it lists nothing), its API and the VM's hardware version."""

    offered: tuple[OfferedGuest, ...] = ()
    api_version: str = ""
    hardware_version: str | None = None

    @property
    def hardware(self) -> int | None:
        """13 of ``vmx-13``."""
        found = re.fullmatch(r"vmx-0*(\d{1,3})", self.hardware_version or "")
        return int(found.group(1)) if found else None


@dataclass(frozen=True)
class Wish:
    """What a template or a playbook asks for; None leaves the choice to the agent's findings."""

    guest_id: str | None = None
    firmware: str | None = None
    secure_boot: bool | None = None
    controller: str | None = None
    nic: str | None = None
    cpus: int | None = None
    cores_per_socket: int | None = None
    memory_mb: int | None = None


@dataclass(frozen=True)
class Choice:
    """A device, what the agent says about it (``verdict`` as in VERDICTS), and on what evidence."""

    name: str
    verdict: str
    evidence: tuple[str, ...] = ()

    def as_result(self) -> dict[str, t.Any]:
        """For a module's result."""
        return {"name": self.name, "verdict": self.verdict, "evidence": list(self.evidence)}


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
    choices: tuple[Choice, ...] = field(default=())


# --- guest identifier ---------------------------------------------------------------------------------------------


def choose_guest_id(
    guest: Guest, firmware: str, host: Host, wish: str | None, notes: list[str]
) -> tuple[str, OfferedGuest | None]:
    """The best identifier that the host offers, and what the host says about it. Raises HardwareError."""
    offered = {one.id: one for one in host.offered}
    usable = {name: one for name, one in offered.items() if one.usable_with(firmware)}
    if wish is not None:
        if offered and wish not in usable:
            close = sorted(name for name in offered if name[:4].lower() == wish[:4].lower())
            hint = f"; near it there are {', '.join(close[:8])}" if close else ""
            raise HardwareError(
                f"guest_id: the host does not offer {wish!r} for a new VM with {firmware} firmware{hint}"
            )
        return wish, offered.get(wish)
    candidates = guest_id_candidates(guest)
    chosen = next((item for item in candidates if item in usable), None)
    if not offered:
        chosen = known_to(host.api_version, candidates)[0]
    if chosen is None:
        raise HardwareError(
            f"the host offers none of the guest types {', '.join(candidates)} with {firmware} firmware; "
            "name one that it offers with guest_id"
        )
    if chosen != candidates[0]:
        notes.append(f"The host does not offer guest type {candidates[0]}; {chosen} is used instead.")
    return chosen, offered.get(chosen)


# --- wishes -------------------------------------------------------------------------------------------------------


def wish_of(template: Mapping[str, t.Any] | None, **options: t.Any) -> Wish:
    """What a template's ``hardware`` asks for; ``options`` of a module, where they are given, come first."""
    names = {"disk_controller": "controller", "nic_type": "nic"}
    wanted = {names.get(key, key): value for key, value in (template or {}).items()}
    wanted.update({key: value for key, value in options.items() if value is not None})
    return Wish(**{key: value for key, value in wanted.items() if key in Wish.__dataclass_fields__})


# --- devices ------------------------------------------------------------------------------------------------------


def readiness(guest: Guest) -> dict[str, Choice]:
    """What the agent says of each device; ``unknown`` where it says nothing."""
    drivers = {str(driver).replace("-", "_").lower() for driver in guest.get("drivers") or ()}
    wanted = {**{controller.name: controller.driver for controller in CONTROLLERS}, **{name: name for name in NICS}}
    # An agent that does not grade lists the drivers that it saw.
    found = {
        name: Choice(name, ("ready" if driver in drivers else "no") if drivers else "unknown")
        for name, driver in wanted.items()
    }
    for item in guest.get("readiness") or ():
        if item.get("device") in found and item.get("verdict") in VERDICTS:
            evidence = tuple(str(text) for text in item.get("evidence") or ())
            found[item["device"]] = Choice(item["device"], item["verdict"], evidence)
    return found


def _first(order: Sequence[str], graded: Mapping[str, Choice], verdict: str) -> Choice | None:
    return next((graded[name] for name in order if graded[name].verdict == verdict), None)


def _because(choice: Choice) -> str:
    return f" ({'; '.join(choice.evidence)})" if choice.evidence else ""


def _controllers_of(host: Host, offered: OfferedGuest | None, disks: int) -> list[str]:
    """Those that the VM may have and whose places suffice."""

    def allowed(controller: Controller) -> bool:
        if host.hardware is not None and host.hardware < controller.since:
            return False
        if offered is None:
            return True
        if controller.name == "pvscsi" and offered.pvscsi_boot is False:
            return False
        return not offered.controllers or controller.vim_class in offered.controllers

    return [item.name for item in CONTROLLERS if allowed(item) and item.room >= disks]


def choose_controller(
    guest: Guest,
    notes: list[str],
    *,
    host: Host = Host(),
    offered: OfferedGuest | None = None,
    disks: int = 1,
) -> Choice:
    """The best disk controller that the system can drive and that the host allows for it.

    One that it surely cannot drive is taken only when there is no other.
    """
    graded = readiness(guest)
    order = _controllers_of(host, offered, disks)
    found = _first(order, graded, "ready")
    if found is not None:
        return found
    windows = guest.get("os_type") == "windows"
    found = _first([name for name in _WINDOWS_LIKELY if name in order] if windows else order, graded, "likely")
    if found is not None:
        notes.append(f"It is likely, but not proven, that the system boots from {found.name}{_because(found)}.")
        return found
    able = [choice.name for choice in graded.values() if choice.verdict == "ready" and choice.name not in NICS]
    fallback = _first([*(name for name in ("ahci",) if name in order), *order], graded, "unknown")
    if fallback is None:
        fallback = graded[next((name for name in ("ahci", *order) if name in order), "ahci")]
    if able:
        notes.append(
            f"The host allows none of the disk controllers that the system can boot from ({', '.join(able)}); "
            f"{fallback.name} is tried."
        )
    elif fallback.verdict == "no":
        notes.append(
            "The system can load no driver for a virtual disk controller at boot; "
            f"{fallback.name} is tried, it will probably not find its disk{_because(fallback)}."
        )
    else:
        notes.append(f"The system's drivers are not known; {fallback.name} is used because most systems boot from it.")
    return fallback


def choose_nic(guest: Guest, notes: list[str], offered: OfferedGuest | None = None) -> Choice:
    """The best network card that the system can drive and that the host allows for it."""
    graded = readiness(guest)
    order = [name for name, kind in NICS.items() if offered is None or not offered.nics or kind in offered.nics]
    for verdict in ("ready", "likely"):
        found = _first(order, graded, verdict)
        if found is not None:
            return found
    fallback = graded["e1000e"] if "e1000e" in order or not order else graded[order[0]]
    notes.append(f"No driver for a virtual network card is known in the system; {fallback.name} is used.")
    return fallback


def _wished(wish: str, graded: Mapping[str, Choice], notes: list[str]) -> Choice:
    choice = graded[wish]
    if choice.verdict == "no":
        notes.append(f"{wish} was asked for, but the system has no driver for it{_because(choice)}.")
    return choice


def place_disks(controller: Controller, capacities_kb: Sequence[int]) -> tuple[DiskPlace, ...]:
    """Disks in the order of the source, filling one controller after another."""
    if len(capacities_kb) > controller.room:
        raise HardwareError(
            f"{len(capacities_kb)} disks do not fit on controllers of type {controller.name}, "
            f"which take {controller.room}"
        )
    return tuple(
        DiskPlace(index, capacity, index // len(controller.units), controller.units[index % len(controller.units)])
        for index, capacity in enumerate(capacities_kb)
    )


# --- all of it ----------------------------------------------------------------------------------------------------


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


def _cpus(machine: Mapping[str, t.Any], wish: Wish, descriptor: OfferedGuest | None) -> tuple[int, int]:
    """CPUs and cores per socket: the source's, or as wished (then the source's cores where they divide)."""
    cpu = machine.get("cpu") or {}
    cores = wish.cores_per_socket or _positive("machine.cpu.cores_per_socket", cpu.get("cores_per_socket"))
    cpus = wish.cpus
    if cpus is None:
        sockets = _positive("machine.cpu.sockets", cpu.get("sockets"))
        cpus = sockets * _positive("machine.cpu.cores_per_socket", cpu.get("cores_per_socket"))
    if cpus % cores:
        if wish.cores_per_socket is not None:
            raise HardwareError(f"cores_per_socket: {cpus} CPUs cannot be divided into sockets of {cores}")
        cores = 1
    if descriptor is not None and descriptor.max_cpus and cpus > descriptor.max_cpus:
        raise HardwareError(
            f"machine.cpu: {cpus} CPUs; the host allows {descriptor.max_cpus} for guest type {descriptor.id}"
        )
    return cpus, cores


def _secure_boot(
    machine: Mapping[str, t.Any], firmware: str, wish: Wish, descriptor: OfferedGuest | None, notes: list[str]
) -> bool:
    wanted = machine.get("secure_boot") is True if wish.secure_boot is None else wish.secure_boot
    if not wanted or firmware != "efi":
        if wish.secure_boot:
            raise HardwareError("secure_boot: it needs firmware 'efi', this VM gets 'bios'")
        return False
    if descriptor is not None and descriptor.secure_boot is False:
        notes.append(
            f"Secure Boot was on, but the host does not offer it for guest type {descriptor.id}; it is off in the VM."
        )
        return False
    return True


def plan_hardware(
    machine: Mapping[str, t.Any],
    disk_sizes: Sequence[int],
    *,
    guest: Guest | None = None,
    host: Host = Host(),
    wish: Wish = Wish(),
) -> Hardware:
    """Hardware for ``machine`` (the gateway's machine object) with disks of ``disk_sizes`` bytes, in disk order.

    ``guest`` is the system that the VM is to boot, by default the machine's first. Raises HardwareError when a value is
    unusable or no VM can hold the machine.
    """
    system: Guest = guest if guest is not None else machine.get("guest") or {}
    notes: list[str] = []
    # The machine's firmware is that of its first system; another one may boot in another way.
    other = guest is not None and guest.get("key") != (machine.get("guest") or {}).get("key")
    firmware = wish.firmware or (system.get("firmware") if other else None) or machine.get("firmware")
    if firmware not in ("bios", "efi"):
        raise HardwareError(f"machine.firmware: {firmware!r} is neither 'bios' nor 'efi'")
    chosen, descriptor = choose_guest_id(system, firmware, host, wish.guest_id, notes)
    graded = readiness(system)
    if wish.controller is not None:
        controller = _wished(wish.controller, graded, notes)
    else:
        controller = choose_controller(system, notes, host=host, offered=descriptor, disks=len(disk_sizes))
    nic = _wished(wish.nic, graded, notes) if wish.nic is not None else choose_nic(system, notes, descriptor)
    cpus, cores = _cpus(machine, wish, descriptor)
    sizes = [_positive(f"disks[{index}].size_bytes", size) for index, size in enumerate(disk_sizes)]
    memory = wish.memory_mb * MIB if wish.memory_mb else _positive("machine.memory_bytes", machine.get("memory_bytes"))
    return Hardware(
        guest_id=chosen,
        firmware=firmware,
        secure_boot=_secure_boot(machine, firmware, wish, descriptor, notes),
        controller=controller.name,
        nic=nic.name,
        num_cpus=cpus,
        cores_per_socket=cores,
        memory_mb=memory_mb(memory),
        disks=place_disks(CONTROLLERS_BY_NAME[controller.name], [capacity_kb(size) for size in sizes]),
        notes=tuple(notes),
        choices=(controller, nic),
    )
