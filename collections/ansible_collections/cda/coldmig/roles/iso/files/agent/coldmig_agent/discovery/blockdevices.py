# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine's disks as the kernel lists them, before a single byte of them is read."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coldmig_agent.discovery import medium
from coldmig_agent.interfaces import read_text
from coldmig_agent.text import bus_key, clean, clean_bytes

# Devices that are no disks, are made of disks, or belong to the live system; of flash chips, what is not for data.
_NOT_A_DISK = re.compile(
    r"^(?:(?:loop|ram|zram|sr|scd|fd|dm-|nbd|md|mtdblock|drbd|bcache|pmem|nullb)[0-9_]*|mmcblk[0-9]+(?:boot[0-9]|rpmb|gp[0-9]))"
)
#: A part of a device's place in /sys/devices, and the way to the disk that it stands for; the first that fits counts.
_TRANSPORTS = (
    (re.compile(r"/usb[0-9]+/"), "usb"),
    (re.compile(r"/mmc_host/"), "mmc"),
    (re.compile(r"/virtio[0-9]+/"), "virtio"),
    (re.compile(r"/rport-[0-9]"), "fc"),
    (re.compile(r"/session[0-9]+/"), "iscsi"),
    (re.compile(r"/end_device-[0-9]"), "sas"),
    (re.compile(r"/ata[0-9]+/"), "sata"),
    (re.compile(r"/nvme(?:-subsystem|-fabrics)?/"), "nvme"),
    (re.compile(r"/vbd-[0-9]"), "xen"),
    (re.compile(r"/host[0-9]+/"), "scsi"),
)


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """What the kernel tells about a disk. ``removable``: the medium can be taken out (sticks, cards)."""

    name: str
    path: Path
    place: str
    size_bytes: int
    logical_sector: int
    physical_sector: int | None
    serial: str
    model: str
    wwn: str
    rotational: bool
    transport: str = ""
    removable: bool = False
    #: Further names below /dev that udev gave it.
    links: tuple[str, ...] = ()


def _udev_record(run: Path, device_number: str) -> list[str]:
    """The lines of udev's database for block device ``major:minor``."""
    return (read_text(run / "udev/data" / f"b{device_number}", 1 << 16) or "").splitlines()


def _udev_properties(record: Sequence[str]) -> dict[str, str]:
    """``E:KEY=value`` lines."""
    return dict(line[2:].split("=", 1) for line in record if line.startswith("E:") and "=" in line)


def _udev_links(record: Sequence[str], dev: Path) -> tuple[str, ...]:
    """``S:disk/by-id/…`` lines, as paths."""
    return tuple(str(dev / line[2:]) for line in record if line.startswith("S:"))


def _vpd_serial(path: Path) -> str:
    """Unit serial number of SCSI VPD page 0x80 (4 bytes of header, then text)."""
    try:
        with path.open("rb") as file:
            page = file.read(512)
    except OSError:
        return ""
    if len(page) < 4 or page[1] != 0x80:
        return ""
    return clean_bytes(page[4 : 4 + struct.unpack_from(">H", page, 2)[0]], 64)


def _first(*values: str | None) -> str:
    """The first value that says something; firmware pads with blanks."""
    return next((text for value in values if value and (text := clean(" ".join(value.split()), 128))), "")


def _sector_size(text: str | None) -> int | None:
    """A power of two from 512 bytes to 1 MiB; anything else is no sector size."""
    size = int(text) if text and text.isdigit() and len(text) < 8 else 0
    return size if 512 <= size <= 1 << 20 and not size & (size - 1) else None


def transport_of(place: str) -> str:
    """``sata``, ``usb``, … by a disk's place in /sys/devices; empty where it is none of the known ones."""
    return next((name for pattern, name in _TRANSPORTS if pattern.search(place)), "")


def _place(entry: Path) -> str:
    """Where the disk is on the buses. NVMe disks with several paths are virtual: their first controller's place."""
    place = entry.resolve()
    if "/virtual/nvme-subsystem/" in str(place):
        controllers = [item.resolve() for item in place.parent.glob("nvme[0-9]*") if (item / "transport").exists()]
        if controllers:
            return f"{min(map(str, controllers), key=bus_key)}/{entry.name}"
    return str(place)


def block_devices(sys: Path, dev: Path, run: Path) -> list[BlockDevice]:
    """Every real disk with a medium, in the order of its place on the buses."""
    found: list[BlockDevice] = []
    root = sys / "block"
    for entry in sorted(root.iterdir()) if root.is_dir() else []:
        name = entry.name
        if _NOT_A_DISK.match(name) or read_text(entry / "hidden") == "1":
            continue
        size = read_text(entry / "size")
        if not size or not size.isdigit() or int(size) == 0:
            continue
        record = _udev_record(run, read_text(entry / "dev") or "")
        udev = _udev_properties(record)
        vendor = read_text(entry / "device/vendor") or ""
        model = _first(read_text(entry / "device/model"), udev.get("ID_MODEL"))
        # SCSI splits the maker from the model; ATA and NVMe have both in one, and some makers repeat themselves.
        if vendor and not vendor.startswith("0x") and vendor not in {"ATA", "NVMe"} and not model.startswith(vendor):
            model = clean(f"{vendor} {model}", 128)
        serial = _first(
            read_text(entry / "serial"),
            read_text(entry / "device/serial"),
            _vpd_serial(entry / "device/vpd_pg80"),
            udev.get("ID_SERIAL_SHORT"),
        )
        sector = read_text(entry / "queue/logical_block_size")
        place = _place(entry)
        found.append(
            BlockDevice(
                name=name,
                path=dev / name.replace("!", "/"),
                place=place,
                size_bytes=int(size) * 512,
                logical_sector=4096 if sector == "4096" else 512,
                physical_sector=_sector_size(read_text(entry / "queue/physical_block_size")),
                serial=serial,
                model=model,
                wwn=_first(read_text(entry / "wwid"), read_text(entry / "device/wwid"), udev.get("ID_WWN")),
                rotational=read_text(entry / "queue/rotational") == "1",
                transport=transport_of(place),
                removable=read_text(entry / "removable") == "1",
                links=_udev_links(record, dev),
            )
        )
    return sorted(found, key=lambda item: bus_key(item.place))


def live_disk(run: Path, sys: Path) -> str | None:
    """Name of the disk that the live system was started from; None for a CD, for PXE, and outside the ISO."""
    device = medium.read(run).get("device")
    if not isinstance(device, str) or not device.startswith("/dev/"):
        return None
    name = device.removeprefix("/dev/").replace("/", "!")
    entry = sys / "class/block" / name
    return entry.resolve().parent.name if (entry / "partition").exists() else name
