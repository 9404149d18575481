# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks of the source: which ones count, what the kernel knows of them, what their tables and signatures say."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coldmig_agent.discovery import filesystems, tables
from coldmig_agent.discovery.filesystems import Content
from coldmig_agent.discovery.tables import ReadAt, Table
from coldmig_agent.freespace.maps import FreeMap
from coldmig_agent.interfaces import read_text
from coldmig_agent.machine import Disk, Notice, Partition
from coldmig_agent.text import bus_key, clean, clean_bytes

MAX_DISKS = 64
#: What the ISO's /init says about the medium it came from: ``{"device": "/dev/sda"|null, …}``.
LIVE_MEDIUM = "coldmig/medium.json"
#: Volume ids of our ISOs begin so: another stick of ours in the machine is no source either.
LIVE_VOLUME_PREFIX = "COLDMIG_"
# Devices that are no disks, are made of disks, or belong to the live system.
_NOT_A_DISK = re.compile(r"^(?:loop|ram|zram|sr|scd|fd|dm-|nbd|md|mtdblock|drbd|bcache|pmem|nullb)[0-9_]*")


@dataclass(frozen=True, slots=True)
class Volume:
    """A partition, or a whole disk without a table (``number`` 0), and what lies in it."""

    disk: int
    number: int
    start_bytes: int
    size_bytes: int
    type: str
    content: Content


@dataclass(frozen=True, slots=True)
class Source:
    """A disk to be copied: its description, how to open it, and what else was learnt from it.

    ``free_map`` is None until the disk was surveyed: everything is copied then.
    """

    disk: Disk
    path: Path
    table: Table
    volumes: tuple[Volume, ...]
    free_map: FreeMap | None = None


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """What the kernel tells about a disk, before a single byte of it is read."""

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


def open_reader(path: Path) -> tuple[int, ReadAt]:
    """Open read-only; the reader gives back less (or nothing) where the disk cannot be read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(offset: int, length: int) -> bytes:
        if offset < 0 or length <= 0:
            return b""
        try:
            return os.pread(fd, length, offset)
        except OSError:
            return b""

    return fd, read


def _udev_properties(run: Path, device_number: str) -> dict[str, str]:
    """``E:KEY=value`` lines of udev's database for block device ``major:minor``."""
    text = read_text(run / "udev/data" / f"b{device_number}", 1 << 16) or ""
    return dict(line[2:].split("=", 1) for line in text.splitlines() if line.startswith("E:") and "=" in line)


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
        udev = _udev_properties(run, read_text(entry / "dev") or "")
        vendor = read_text(entry / "device/vendor") or ""
        model = _first(read_text(entry / "device/model"), udev.get("ID_MODEL"))
        if vendor and not vendor.startswith("0x") and vendor not in {"ATA", "NVMe"}:
            model = clean(f"{vendor} {model}", 128)
        serial = _first(
            read_text(entry / "serial"),
            read_text(entry / "device/serial"),
            _vpd_serial(entry / "device/vpd_pg80"),
            udev.get("ID_SERIAL_SHORT"),
        )
        sector = read_text(entry / "queue/logical_block_size")
        found.append(
            BlockDevice(
                name=name,
                path=dev / name.replace("!", "/"),
                place=str(entry.resolve()),
                size_bytes=int(size) * 512,
                logical_sector=4096 if sector == "4096" else 512,
                physical_sector=_sector_size(read_text(entry / "queue/physical_block_size")),
                serial=serial,
                model=model,
                wwn=_first(read_text(entry / "wwid"), read_text(entry / "device/wwid"), udev.get("ID_WWN")),
                rotational=read_text(entry / "queue/rotational") == "1",
            )
        )
    return sorted(found, key=lambda item: bus_key(item.place))


def live_disk(run: Path, sys: Path) -> str | None:
    """Name of the disk that the live system was started from; None for a CD, for PXE, and outside the ISO."""
    try:
        document = json.loads(read_text(run / LIVE_MEDIUM, 1 << 16) or "null")
    except ValueError:
        return None
    device = document.get("device") if isinstance(document, dict) else None
    if not isinstance(device, str) or not device.startswith("/dev/"):
        return None
    name = device.removeprefix("/dev/").replace("/", "!")
    entry = sys / "class/block" / name
    return entry.resolve().parent.name if (entry / "partition").exists() else name


def is_live_medium(read: ReadAt, prefix: str = LIVE_VOLUME_PREFIX) -> bool:
    """Whether the disk is one of our ISOs written to a stick: primary volume descriptor in sector 16."""
    descriptor = read(16 * 2048, 72)
    return descriptor[1:6] == b"CD001" and descriptor[40:72].decode("ascii", "replace").startswith(prefix)


def describe(device: BlockDevice, read: ReadAt) -> Source:
    """Read table and signatures of one disk. Its index is set later, when the order is known."""
    table = tables.read_table(read, device.size_bytes, device.logical_sector)
    volumes: list[Volume] = []
    partitions: list[Partition] = []
    for entry in table.entries[: tables.MAX_PARTITIONS]:
        size = min(entry.size_bytes, device.size_bytes - entry.start_bytes)
        extended = entry.type in {"0x05", "0x0f", "0x85"}
        content = Content() if extended else filesystems.probe(_window(read, entry.start_bytes, size), size)
        label = content.label or clean(entry.name, 72)
        partitions.append(
            Partition(entry.number, entry.start_bytes, size, entry.type, content.fstype, clean(label, 64))
        )
        if not extended:
            volumes.append(Volume(0, entry.number, entry.start_bytes, size, entry.type, content))
    if table.kind is None:
        content = filesystems.probe(read, device.size_bytes)
        volumes.append(Volume(0, 0, 0, device.size_bytes, "", content))
    disk = Disk(
        index=0,
        path=str(device.path),
        size_bytes=device.size_bytes,
        logical_sector=device.logical_sector,
        physical_sector=device.physical_sector,
        serial=device.serial,
        model=device.model,
        wwn=device.wwn,
        rotational=device.rotational,
        table=table.kind,
        partitions=tuple(partitions),
    )
    return Source(disk, device.path, table, tuple(volumes))


def _window(read: ReadAt, start: int, size: int) -> ReadAt:
    def inside(offset: int, length: int) -> bytes:
        return read(start + offset, min(length, size - offset)) if 0 <= offset < size else b""

    return inside


def is_bootable(source: Source) -> bool:
    """Whether firmware could start from this disk: a boot loader's code in sector 0 or a system partition."""
    systems = {tables.ESP_GUID, tables.BIOS_BOOT_GUID, tables.MBR_ESP}
    return source.table.boot_code or any(entry.type in systems for entry in source.table.entries)


def number_sources(sources: Sequence[Source]) -> list[Source]:
    """Give indexes: bootable disks first, because a new VM boots from its first disk; else the order is kept."""
    ordered = sorted(sources, key=lambda source: not is_bootable(source))
    return [
        replace(
            source,
            disk=replace(source.disk, index=index),
            volumes=tuple(replace(volume, disk=index) for volume in source.volumes),
        )
        for index, source in enumerate(ordered)
    ]


def notices(sources: Sequence[Source]) -> list[Notice]:
    """What a person should know about these disks before the copy."""
    found: list[Notice] = []
    seen: dict[str, str] = {}
    for source in sources:
        disk = source.disk
        where = f"disk {disk.index} ({disk.path})"
        if disk.logical_sector == 4096:
            message = f"{where} has 4096-byte sectors; a VMware disk has 512, so its partitions will not be found there"
            found.append(Notice("disk-4k-sectors", message))
        if source.table.damaged:
            found.append(Notice("partition-table-damaged", f"{where}: the primary partition table is damaged"))
        if disk.wwn:
            if disk.wwn in seen:
                message = f"{where} and {seen[disk.wwn]} have the same identity; are they two paths to one disk?"
                found.append(Notice("disk-multipath", message))
            seen.setdefault(disk.wwn, where)
        found += [notice for volume in source.volumes for notice in _volume_notices(volume, where)]
    return found


def _volume_notices(volume: Volume, where: str) -> list[Notice]:
    place = f"{where}, partition {volume.number}" if volume.number else where
    kind = volume.content.fstype
    found: list[Notice] = []
    if kind in {"crypto_LUKS", "BitLocker"}:
        name = "BitLocker" if kind == "BitLocker" else "LUKS"
        message = f"{place} is encrypted ({name}) and is copied as it is; have its passphrase or recovery key at hand"
        found.append(Notice(f"encrypted-{name.lower()}", message))
    elif kind in {"LVM2_member", "linux_raid_member", "zfs_member"}:
        names = {"LVM2_member": "LVM", "linux_raid_member": "Linux software RAID", "zfs_member": "ZFS"}
        message = f"{place} belongs to {names[kind]}: it is copied, but nothing in it was looked at"
        found.append(Notice("volume-not-inspected", message))
    if volume.content.hibernated:
        message = f"{place} holds a hibernated Linux: start and shut it down properly before you migrate it"
        found.append(Notice("hibernated", message))
    if volume.content.unclean:
        message = (
            f"{place} ({kind}) was not unmounted cleanly; it is copied whole, its free space too, and recovers when it"
            " boots. To copy less, start the machine, shut it down properly, and boot this ISO again"
        )
        found.append(Notice("unclean-filesystem", message))
    return found


def read_machine_disks(sys: Path, dev: Path, run: Path, before_open: Callable[[Path], None]) -> list[Source]:
    """All disks of this machine but the live medium. ``before_open`` sees each path first (the write fence)."""
    live = live_disk(run, sys)
    sources: list[Source] = []
    for device in block_devices(sys, dev, run):
        if device.name == live or len(sources) >= MAX_DISKS:
            continue
        before_open(device.path)
        fd, read = open_reader(device.path)
        try:
            if not is_live_medium(read):
                sources.append(describe(device, read))
        finally:
            os.close(fd)
    return number_sources(sources)


def read_image_files(paths: Sequence[Path]) -> list[Source]:
    """Image files in the place of the machine's disks (tests, laboratory). Order is kept as given."""
    sources: list[Source] = []
    for index, path in enumerate(paths):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0 or status.st_size % 512:
            raise ValueError(f"--source {path}: must be an image file of whole 512-byte sectors")
        device = BlockDevice(
            path.name, path, path.name, status.st_size, 512, None, f"image-{index}", "image file", "", False
        )
        fd, read = open_reader(path)
        try:
            source = describe(device, read)
        finally:
            os.close(fd)
        volumes = tuple(replace(volume, disk=index) for volume in source.volumes)
        sources.append(replace(source, disk=replace(source.disk, index=index), volumes=volumes))
    return sources
