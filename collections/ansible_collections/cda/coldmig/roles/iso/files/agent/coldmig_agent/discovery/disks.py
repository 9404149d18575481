# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks of the source: which ones count, what the kernel knows of them, what their tables and signatures say."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from coldmig_agent import encryption
from coldmig_agent.config import DiskRule
from coldmig_agent.discovery import filesystems, ldm, leaveout, members, multipath, tables
from coldmig_agent.discovery.blockdevices import BlockDevice, block_devices, live_disk
from coldmig_agent.discovery.filesystems import Content
from coldmig_agent.discovery.tables import ReadAt, Table
from coldmig_agent.encryption import Encryption
from coldmig_agent.freespace.maps import FreeMap
from coldmig_agent.machine import Disk, LeftOut, Partition
from coldmig_agent.text import clean

MAX_DISKS = 64
#: Volume ids of our ISOs begin so: another stick of ours in the machine is no source either.
LIVE_VOLUME_PREFIX = "COLDMIG_"


@dataclass(frozen=True, slots=True)
class Volume:
    """A partition, or a whole disk without a table (``number`` 0), and what lies in it.

    ``encryption``: what opens it, where it is encrypted.
    """

    disk: int
    number: int
    start_bytes: int
    size_bytes: int
    type: str
    content: Content
    encryption: Encryption | None = None

    @property
    def key(self) -> str:
        """``disk0/2``."""
        return tables.volume_key(self.disk, self.number)


@dataclass(frozen=True, slots=True)
class Source:
    """A disk to be copied: its description, how to open it, and what else was learnt from it.

    ``free_map`` is None until the disk was surveyed: everything is copied then. ``raid``: format of a mainboard's RAID
    set that the whole disk belongs to. ``dynamic``: its group, where it is one of Windows' dynamic disks.
    """

    disk: Disk
    path: Path
    table: Table
    volumes: tuple[Volume, ...]
    free_map: FreeMap | None = None
    raid: str = ""
    dynamic: ldm.Group | None = None
    removable: bool = False


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
        window = tables.window(read, entry.start_bytes, size)
        content = Content() if extended else filesystems.probe(window, size)
        label = content.label or clean(entry.name, 72)
        partitions.append(
            Partition(entry.number, entry.start_bytes, size, entry.type, content.fstype, clean(label, 64))
        )
        if not extended:
            keys = encryption.read(window, content.fstype)
            volumes.append(Volume(0, entry.number, entry.start_bytes, size, entry.type, content, keys))
    if table.kind is None:
        content = filesystems.probe(read, device.size_bytes)
        keys = encryption.read(read, content.fstype)
        volumes.append(Volume(0, 0, 0, device.size_bytes, "", content, keys))
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
        transport=device.transport,
    )
    return Source(
        disk,
        device.path,
        table,
        tuple(volumes),
        raid=members.fake_raid(read, device.size_bytes),
        dynamic=ldm.read_group(read, device.size_bytes, table.entries),
        removable=device.removable or device.transport in {"usb", "mmc"},
    )


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


def labels(source: Source) -> tuple[str, ...]:
    """The labels of a disk's partitions and file systems."""
    found = [*(volume.content.label for volume in source.volumes), *(item.label for item in source.disk.partitions)]
    found += [entry.name for entry in source.table.entries]
    return tuple(dict.fromkeys(filter(None, found)))


def _left_out(device: BlockDevice, why: str) -> LeftOut:
    return LeftOut(str(device.path), device.size_bytes, device.serial, device.model, why)


def read_machine_disks(
    sys: Path,
    dev: Path,
    run: Path,
    before_open: Callable[[Path], None],
    *,
    rules: Sequence[DiskRule] = (),
    left_out: Callable[[LeftOut], None] = lambda _disk: None,
) -> list[Source]:
    """All disks of this machine but the live medium. ``before_open`` sees each path first (the write fence).

    A disk that is reached by several paths is one source; the copy reads the first path that gives data. Disks that a
    rule leaves out are told to ``left_out``; only for a rule with a label are they opened (and read) at all.
    """
    live = live_disk(run, sys)
    with ExitStack() as files:
        opened: list[tuple[BlockDevice, ReadAt]] = []
        for device in block_devices(sys, dev, run):
            if device.name == live or len(opened) >= MAX_DISKS * multipath.MAX_PATHS:
                continue
            if why := leaveout.reason(rules, device):
                left_out(_left_out(device, why))
                continue
            before_open(device.path)
            fd, read = open_reader(device.path)
            files.callback(os.close, fd)
            if not is_live_medium(read):
                opened.append((device, read))
        sources = []
        for paths in multipath.merge(opened)[:MAX_DISKS]:
            source = describe(*paths[0])
            if why := leaveout.reason(rules, paths[0][0], labels(source)):
                left_out(_left_out(paths[0][0], why))
                continue
            others = tuple(str(device.path) for device, _read in paths[1:])
            sources.append(replace(source, disk=replace(source.disk, paths=others)))
    return number_sources(sources)


def read_image_files(
    paths: Sequence[Path], rules: Sequence[DiskRule] = (), left_out: Callable[[LeftOut], None] = lambda _disk: None
) -> list[Source]:
    """Image files in the place of the machine's disks (tests, laboratory). Order is kept as given."""
    sources: list[Source] = []
    for number, path in enumerate(paths):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0 or status.st_size % 512:
            raise ValueError(f"--source {path}: must be an image file of whole 512-byte sectors")
        device = BlockDevice(
            path.name, path, path.name, status.st_size, 512, None, f"image-{number}", "image file", "", False
        )
        if why := leaveout.reason(rules, device):
            left_out(_left_out(device, why))
            continue
        fd, read = open_reader(path)
        try:
            source = describe(device, read)
        finally:
            os.close(fd)
        if why := leaveout.reason(rules, device, labels(source)):
            left_out(_left_out(device, why))
            continue
        index = len(sources)
        volumes = tuple(replace(volume, disk=index) for volume in source.volumes)
        sources.append(replace(source, disk=replace(source.disk, index=index), volumes=volumes))
    return sources
