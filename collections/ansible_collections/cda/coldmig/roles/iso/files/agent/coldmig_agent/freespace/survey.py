# SPDX-License-Identifier: GPL-3.0-or-later
"""Walks the partitions of the source disks and decides, one by one, whether their free space can be left out.

What is not proven to be free is copied. That is everything outside of partitions (boot code, gaps, extended boot
records, both partition tables), the beginning of every partition and what lies behind its file system, and every
partition about which there is any doubt.
"""

from __future__ import annotations

import logging
import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from coldmig_agent import fence
from coldmig_agent.discovery import filesystems, tables
from coldmig_agent.discovery.disks import Source, Volume, open_reader
from coldmig_agent.discovery.tables import ReadAt
from coldmig_agent.freespace import btrfs, exfat, ext, fat, lvm, ntfs, swap, xfs
from coldmig_agent.freespace.area import Area, Doubt, Hibernated, Ranges, Unclean
from coldmig_agent.freespace.maps import SECTOR, FreeMap, FreeRanges
from coldmig_agent.freespace.tools import ToolError, sandbox
from coldmig_agent.machine import FreeArea, Notice
from coldmig_agent.text import clean
from coldmig_agent.warnings import notice

LOG = logging.getLogger(__name__)

#: Boot sectors, boot loaders and, with Btrfs, what lies before the superblock.
BOOT_AREA = 64 << 10
#: Backup partition table, and the descriptions that firmware RAID keeps there.
DISK_TAIL = 1 << 20
DISK_SECONDS = 900.0
MAX_AREAS = 512
_MAX_REASON = 200

Gate = Callable[[Area], Ranges]

_GATES: Mapping[str, Gate] = {
    "ext2": ext.free_ranges,
    "ext3": ext.free_ranges,
    "ext4": ext.free_ranges,
    "xfs": xfs.free_ranges,
    "btrfs": btrfs.free_ranges,
    "ntfs": ntfs.free_ranges,
    "vfat": fat.free_ranges,
    "exfat": exfat.free_ranges,
    "swap": swap.free_ranges,
}
_WHOLE = {
    "crypto_LUKS": "it is encrypted (LUKS)",
    "BitLocker": "it is encrypted (BitLocker)",
    "linux_raid_member": "it belongs to Linux software RAID",
    "zfs_member": "it belongs to ZFS",
    "": "nothing that is known lies in it",
}
#: Partitions that are copied whole whatever they hold, by GPT type or MBR type.
_TYPES = {
    tables.ESP_GUID: "EFI system partition",
    tables.MBR_ESP: "EFI system partition",
    tables.BIOS_BOOT_GUID: "BIOS boot partition",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved partition",
    "9e1a2d38-c612-4316-aa26-8b49521e5a8b": "PReP boot partition",
    "0x41": "PReP boot partition",
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": "Windows dynamic disk",
    "af9b60a0-1431-4f62-bc68-3311714a69ad": "Windows dynamic disk",
    "0x42": "Windows dynamic disk",
    "e75caf8f-f680-4cee-afa3-b001e56efc2d": "Windows storage space",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux software RAID",
    "0xfd": "Linux software RAID",
}
_BLKID_AMBIVALENT, _BLKID_NOTHING = 8, 2


@dataclass(frozen=True, slots=True)
class Survey:
    """The sources with their free maps, and what a person should know about them."""

    sources: tuple[Source, ...]
    notices: tuple[Notice, ...]


def _identify(area: Area) -> dict[str, str]:
    """What blkid says about an area. Raises Doubt where it sees more than one thing."""
    with area.sandbox.run("blkid", "-p", "-o", "export", "{}") as tool:
        output = tool.output()
    if tool.returncode == _BLKID_AMBIVALENT:
        raise Doubt("it has signatures of more than one file system")
    if tool.returncode not in {0, _BLKID_NOTHING}:
        raise ToolError(tool.failure())
    lines = output.decode("utf-8", "replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _mapped(area: Area, fstype: str) -> Ranges:
    """Free ranges of a file system. Raises Doubt and ToolError before, during or after them."""
    gate = _GATES[fstype]
    seen = _identify(area).get("TYPE", "nothing")
    if seen != fstype:
        raise Doubt(f"it looks like {fstype}, to blkid like {clean(seen, 32)}")
    position = 0
    for start, stop in gate(area):
        if not position <= start < stop <= area.size_bytes:
            raise Doubt(f"free range {start} to {stop} of {area.size_bytes} bytes is out of order")
        position = stop
        yield start, stop


def _add(found: FreeRanges, ranges: Ranges, base: int, limit: int) -> None:
    """Take over the ranges of an area that begins at ``base``: whole sectors behind its boot area, up to ``limit``."""
    for start, stop in ranges:
        first = -(-(base + max(start, BOOT_AREA)) // SECTOR) * SECTOR
        last = min(base + stop, limit) // SECTOR * SECTOR
        if first < last:
            found.add(first, last)


@dataclass(slots=True)
class _Disk:
    """One disk while it is surveyed."""

    source: Source
    read: ReadAt
    deadline: float

    @property
    def size_bytes(self) -> int:
        return self.source.disk.size_bytes

    def check_table(self) -> None:
        """Raises Doubt and ToolError where the partition table is not beyond question."""
        table = self.source.table
        if table.damaged:
            raise Doubt("the primary partition table is damaged")
        if table.kind is None:
            return
        with sandbox(self.source.path, 0, self.size_bytes, self.deadline) as box:
            seen = _identify(Area(self.size_bytes, self.read, box))
        if "TYPE" in seen or "USAGE" in seen:
            raise Doubt(f"the disk has a partition table and looks like {clean(seen.get('TYPE', 'something'), 32)} too")
        if table.kind == "gpt":
            self._check_backup()

    def _check_backup(self) -> None:
        """Raises Doubt where the two tables of a GPT disk say different things. A missing backup does no harm."""
        sector = self.source.disk.logical_sector
        header = self.read(sector, 92)
        last = struct.unpack_from("<Q", header, 32)[0] if len(header) == 92 else 0
        for lba in sorted({last, self.size_bytes // sector - 1}):
            if not 1 < lba < self.size_bytes // sector:
                continue
            backup = tables.read_gpt(self.read, lba, sector, self.size_bytes)
            if backup is not None and tuple(backup) != self.source.table.entries:
                raise Doubt("the primary partition table and its backup say different things")

    def overlapping(self, volume: Volume) -> bool:
        """Whether another partition, of a hybrid MBR too, has a part of this one."""
        begin, end = volume.start_bytes, volume.start_bytes + volume.size_bytes
        others = [(v.start_bytes, v.start_bytes + v.size_bytes) for v in self.source.volumes if v is not volume]
        if self.source.table.kind == "gpt":
            sector = self.source.disk.logical_sector
            hybrid = tables.read_mbr(self.read)
            parts = [(first * sector, (first + count) * sector) for _kind, first, count in hybrid]
            others += [part for part in parts if part != (begin, end)]
        return any(start < end and begin < stop for start, stop in others)

    def check_partition(self, volume: Volume) -> None:
        """Raises Doubt where a partition is more, or less, than what lies in it."""
        if volume.type in _TYPES:
            raise Doubt(f"its type: {_TYPES[volume.type]}")
        if self.overlapping(volume):
            raise Doubt("it overlaps another partition")

    def logical_volumes(self, volume: Volume) -> list[tuple[Volume, lvm.LogicalVolume]]:
        """What lies in an LVM physical volume. Raises Doubt and ToolError."""
        with sandbox(self.source.path, volume.start_bytes, volume.size_bytes, self.deadline) as box:
            read = tables.window(self.read, volume.start_bytes, volume.size_bytes)
            seen = _identify(Area(volume.size_bytes, read, box)).get("TYPE", "nothing")
        if seen != "LVM2_member":
            raise Doubt(f"it looks like LVM, to blkid like {clean(seen, 32)}")
        found: list[tuple[Volume, lvm.LogicalVolume]] = []
        for logical in lvm.linear_volumes(read, volume.size_bytes):
            start = volume.start_bytes + logical.start_bytes
            content = filesystems.probe(tables.window(self.read, start, logical.size_bytes), logical.size_bytes)
            inner = replace(volume, start_bytes=start, size_bytes=logical.size_bytes, content=content)
            found.append((inner, logical))
        return found

    def ranges(self, volume: Volume, found: FreeRanges) -> None:
        """Add the free ranges of a partition or logical volume.

        Raises Doubt and ToolError, having added some of them perhaps.
        """
        fstype = volume.content.fstype
        if volume.content.hibernated:
            raise Hibernated("it holds the memory of a hibernated Linux", swap.ADVICE)
        if fstype not in _GATES:
            raise Doubt(_WHOLE.get(fstype, f"{fstype}: its free space is not looked for"))
        if volume.size_bytes <= BOOT_AREA or volume.start_bytes % SECTOR or volume.size_bytes % SECTOR:
            raise Doubt("it is tiny, or not made of whole sectors")
        limit = min(volume.start_bytes + volume.size_bytes, self.size_bytes - DISK_TAIL)
        with sandbox(self.source.path, volume.start_bytes, volume.size_bytes, self.deadline) as box:
            area = Area(volume.size_bytes, tables.window(self.read, volume.start_bytes, volume.size_bytes), box)
            with closing(_mapped(area, fstype)) as ranges:
                _add(found, ranges, volume.start_bytes, limit)


@dataclass(frozen=True, slots=True)
class _Decision:
    volume: Volume
    mapped: bool
    reason: str
    problem: Unclean | None = None
    name: str = ""

    def area(self, free_bytes: int = 0) -> FreeArea:
        return FreeArea(
            start_bytes=self.volume.start_bytes,
            size_bytes=self.volume.size_bytes,
            partition=self.volume.number or None,
            fstype=self.volume.content.fstype or None,
            decision="mapped" if self.mapped else "whole",
            reason=clean(f"volume {self.name}: {self.reason}" if self.name else self.reason, _MAX_REASON),
            free_bytes=free_bytes if self.mapped else 0,
        )

    def doubted(self, reason: str) -> _Decision:
        """The same, but whole."""
        return replace(self, mapped=False, reason=reason) if self.mapped else self

    def notice(self) -> Notice | None:
        """A sentence for a person about a file system that was not left cleanly, unless its signature told it."""
        content = self.volume.content
        if self.problem is None or (not self.name and (content.unclean or content.hibernated)):
            return None
        disk = f"disk {self.volume.disk}"
        place = f"{disk}, partition {self.volume.number}" if self.volume.number else disk
        place = f"{place}, volume {self.name}" if self.name else place
        if isinstance(self.problem, Hibernated):
            return notice("hibernated", place=place, system="Windows" if content.fstype == "ntfs" else "Linux")
        return notice("unclean-filesystem", place=place, fstype=content.fstype, reason=self.problem)


def _tried(volume: Volume, found: FreeRanges, attempt: Callable[[], None], name: str = "") -> _Decision:
    """What comes of an attempt to add the free ranges of a volume."""
    try:
        attempt()
    except Unclean as doubt:
        decision = _Decision(volume, mapped=False, reason=str(doubt), problem=doubt, name=name)
    except (Doubt, ToolError) as doubt:
        decision = _Decision(volume, mapped=False, reason=str(doubt), name=name)
    except Exception as error:  # a file system that nobody thought of must not end the migration
        LOG.exception("the survey of disk %d, partition %d failed", volume.disk, volume.number)
        reason = f"the survey failed ({type(error).__name__}: {error})"
        decision = _Decision(volume, mapped=False, reason=reason, name=name)
    else:
        return _Decision(volume, mapped=True, reason="its free space is known", name=name)
    found.forget_from(volume.start_bytes)
    return decision


def _decide(disk: _Disk, volume: Volume, found: FreeRanges) -> list[_Decision]:
    """Decisions for a partition: one, or one for each logical volume in it."""
    inner: list[_Decision] = []

    def look() -> None:
        if not volume.content.hibernated:
            disk.check_partition(volume)
        if volume.content.fstype != "LVM2_member":
            disk.ranges(volume, found)
            return
        for part, logical in disk.logical_volumes(volume):
            inner.append(_tried(part, found, partial(_look_into, disk, part, logical, found), logical.name))

    outer = _tried(volume, found, look)
    return inner if outer.mapped and inner else [_empty(outer)]


def _look_into(disk: _Disk, part: Volume, logical: lvm.LogicalVolume, found: FreeRanges) -> None:
    if logical.pieces != 1:
        raise Doubt(f"it lies in {logical.pieces} pieces")
    disk.ranges(part, found)


def _empty(decision: _Decision) -> _Decision:
    """A physical volume without logical ones is copied."""
    if decision.mapped and decision.volume.content.fstype == "LVM2_member":
        return decision.doubted("it holds no logical volumes")
    return decision


def _survey_disk(source: Source, seconds: float) -> tuple[FreeRanges, list[_Decision]]:
    """Ranges and decisions for one disk. Raises FenceError."""
    fence.protect(source.path)
    volumes = sorted(source.volumes, key=lambda volume: volume.start_bytes)
    try:
        return _look_at_disk(source, volumes, time.monotonic() + seconds)
    except Exception as error:  # nor must a disk that nobody thought of
        LOG.exception("the survey of disk %d failed", source.disk.index)
        reason = f"the survey failed ({type(error).__name__}: {error})"
        return FreeRanges(), [_Decision(volume, mapped=False, reason=reason) for volume in volumes]


def _look_at_disk(source: Source, volumes: Sequence[Volume], deadline: float) -> tuple[FreeRanges, list[_Decision]]:
    found = FreeRanges()
    fd, read = open_reader(source.path)
    try:
        disk = _Disk(source, read, deadline)
        decisions = [decision for volume in volumes for decision in _decide(disk, volume, found)]
        if len(decisions) > MAX_AREAS:
            found.forget_from(decisions[MAX_AREAS].volume.start_bytes)
            del decisions[MAX_AREAS:]
        try:
            disk.check_table()
        except (Doubt, ToolError) as doubt:  # what sleeps on the disk counts all the same
            return FreeRanges(), [item.doubted(str(doubt)) for item in decisions]
        return found, decisions
    finally:
        os.close(fd)


def _free_map(source: Source, found: FreeRanges, decisions: Sequence[_Decision]) -> FreeMap:
    sizes = _free_bytes(found, decisions)
    areas = [decision.area(free) for decision, free in zip(decisions, sizes, strict=True)]
    return FreeMap(source.disk.index, source.disk.size_bytes, found, areas)


def _free_bytes(found: FreeRanges, decisions: Sequence[_Decision]) -> list[int]:
    """Free bytes of every area; areas are in ascending order and the mapped ones do not overlap."""
    sizes = [0] * len(decisions)
    at = 0
    for start, stop in zip(found.starts, found.stops, strict=True):
        while not _holds(decisions[at], start):
            at += 1
        sizes[at] += stop - start
    return sizes


def _holds(decision: _Decision, position: int) -> bool:
    volume = decision.volume
    return decision.mapped and volume.start_bytes <= position < volume.start_bytes + volume.size_bytes


def _asleep(decisions: Sequence[Sequence[_Decision]]) -> Unclean | None:
    """The hibernation image, if a disk of this machine holds one: its system keeps all file systems open."""
    problems = [decision.problem for each in decisions for decision in each]
    return next((problem for problem in problems if isinstance(problem, Hibernated)), None)


def survey(
    sources: Sequence[Source], seconds: float = DISK_SECONDS, say: Callable[[str], None] = lambda _words: None
) -> Survey:
    """Survey all disks of a machine, ``seconds`` for each. Raises FenceError; any other trouble means: copy everything.

    A hibernated system on one disk keeps the file systems of all disks from being looked at. ``say`` is told which disk
    is being looked at, for the console.
    """
    results = []
    for source in sources:
        say(f"finding out what is free on disk {source.disk.index} ({source.path})")
        results.append(_survey_disk(source, seconds))
    sleeper = _asleep([decisions for _found, decisions in results])
    surveyed: list[Source] = []
    notices: list[Notice] = []
    for source, (found, decisions) in zip(sources, results, strict=True):
        kept, ranges = decisions, found
        if sleeper is not None:
            ranges = FreeRanges()
            kept = [item.doubted("a hibernated system keeps it open") for item in decisions]
        free_map = _free_map(source, ranges, kept)
        disk = replace(source.disk, used_bytes=free_map.used_bytes, free_map=free_map.describe())
        surveyed.append(replace(source, disk=disk, free_map=free_map))
        notices += [told for item in kept if (told := item.notice()) is not None]
        for area in free_map.areas:
            LOG.info(
                "disk %d, partition %s (%s): %s, %d bytes free: %s",
                free_map.disk, area.partition, area.fstype, area.decision, area.free_bytes, area.reason,
            )  # fmt: skip
    return Survey(tuple(surveyed), tuple(notices))
