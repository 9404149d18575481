# SPDX-License-Identifier: GPL-3.0-or-later
"""What was found, in lines for a person in front of the machine."""

from __future__ import annotations

from collections.abc import Sequence

from coldmig_agent.machine import Disk, Guest, Machine, Readiness
from coldmig_agent.text import human_bytes

FIRMWARE = {"efi": "UEFI", "bios": "BIOS"}
DEVICES = {
    "pvscsi": "PVSCSI",
    "lsilogic-sas": "LSI Logic SAS",
    "ahci": "SATA (AHCI)",
    "nvme": "NVMe",
    "lsilogic": "LSI Logic",
    "ide": "IDE",
    "vmxnet3": "VMXNET3",
    "e1000e": "E1000E",
    "e1000": "E1000",
}
# As vcenter_vm chooses: the first that is ready, else the first that is likely.
_STORAGE = ("pvscsi", "lsilogic-sas", "ahci", "nvme", "lsilogic", "ide")
_LIKELY_OF_WINDOWS = ("ahci", "lsilogic-sas", "nvme", "ide")
_NETWORK = ("vmxnet3", "e1000e", "e1000")
_MAX_SYSTEMS = 6


def _best(guest: Guest, kind: str) -> Readiness | None:
    """The device of a kind that the new machine would get; None where the system can use none."""
    found = {item.device: item for item in guest.readiness if item.kind == kind}
    first = _STORAGE if kind == "storage" else _NETWORK
    second = _LIKELY_OF_WINDOWS if kind == "storage" and guest.os_type == "windows" else first
    for verdict, order in (("ready", first), ("likely", second)):
        for device in order:
            if device in found and found[device].verdict == verdict:
                return found[device]
    return None


def readiness_line(guest: Guest) -> str:
    """``boots from PVSCSI, network VMXNET3: ready``."""
    if not guest.readiness:
        return "which of VMware's devices it can use is not known"
    storage, network = _best(guest, "storage"), _best(guest, "network")
    known = any(item.kind == "storage" and item.verdict != "unknown" for item in guest.readiness)
    if storage is None:
        return (
            "finds none of VMware's disk controllers: it will not boot" if known else "its boot drivers are not known"
        )
    words = f"boots from {DEVICES.get(storage.device, storage.device)}"
    if network is None:
        return f"{words}, has no driver for VMware's network cards"
    verdict = "ready" if storage.verdict == network.verdict == "ready" else "likely"
    return f"{words}, network {DEVICES.get(network.device, network.device)}: {verdict}"


def _title(guest: Guest) -> str:
    title = guest.pretty_name or guest.id or "unknown system"
    return f"{title} ({guest.hostname})" if guest.hostname else title


def system_lines(machine: Machine) -> list[str]:
    """Two thoughts for each system: what and where it is, and what it can boot from."""
    guests = machine.guests or ((machine.guest,) if machine.guest.os_type != "unknown" else ())
    if not guests:
        return ["no known operating system"]
    lines = [
        f"{_title(guest)}{f' on {guest.place}' if guest.place else ''}: {readiness_line(guest)}"
        for guest in guests[:_MAX_SYSTEMS]
    ]
    if len(guests) > _MAX_SYSTEMS:
        lines.append(f"{len(guests) - _MAX_SYSTEMS} more systems")
    return lines


def readiness_table(guest: Guest) -> list[str]:
    """Every device with its verdict: ``disks: PVSCSI ready, LSI Logic SAS no, …``."""
    lines = []
    for kind, title in (("storage", "disks"), ("network", "network")):
        items = [f"{DEVICES.get(i.device, i.device)} {i.verdict}" for i in guest.readiness if i.kind == kind]
        if items:
            lines.append(f"{title}: {', '.join(items)}")
    return lines


def _disk_line(disk: Disk) -> str:
    what = " ".join(part for part in (disk.transport, disk.model, disk.serial) if part)
    used = f", {human_bytes(disk.used_bytes)} to copy" if disk.used_bytes is not None else ""
    paths = f", {1 + len(disk.paths)} paths" if disk.paths else ""
    return f"disk {disk.index}: {disk.path} {human_bytes(disk.size_bytes)}{used}{paths} {what}".rstrip()


def machine_lines(machine: Machine) -> list[str]:
    """Name, processors, memory, firmware and disks."""
    cores = f"{machine.cpu.sockets} x {machine.cpu.cores_per_socket} cores"
    secure = " with Secure Boot" if machine.secure_boot else ""
    tpm = f", TPM {machine.tpm.version}".rstrip() if machine.tpm is not None else ""
    cards = f"{len(machine.nics)} NIC{'s' * (len(machine.nics) != 1)}"
    kind = " ".join(part for part in (machine.vendor, machine.product) if part)
    return [
        f"{machine.name}{f' ({kind})' if kind else ''}",
        f"{cores}, {human_bytes(machine.memory_bytes)} memory, {FIRMWARE[machine.firmware]}{secure}{tpm}, {cards}",
        *map(_disk_line, machine.disks),
        *(f"not copied: {disk.path} {human_bytes(disk.size_bytes)}: {disk.reason}" for disk in machine.left_out),
    ]


def looked_line(machine: Machine) -> str:
    """How the look into the disks went: ``looked at 4 volumes in 3 s; no disk was written to``."""
    if machine.inspection is None:
        return ""
    report = machine.inspection
    count, closed = len(report.volumes), sum(bool(volume.problem) for volume in report.volumes)
    text = f"looked at {count} volume{'s' * (count != 1)} in {report.seconds:.0f} s"
    if closed:
        text += f", {closed} of them could not be read"
    if not report.writes:
        return text
    written = sum(item.sectors for item in report.writes)
    return f"{text}; {'no disk was written to' if not written else f'{written} SECTORS WERE WRITTEN'}"


def lines(machine: Machine) -> Sequence[str]:
    """The description for a console."""
    looked = looked_line(machine)
    return [*machine_lines(machine), *([looked] if looked else [])]
