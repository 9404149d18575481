# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person should know about the disks before the copy, as far as their own signatures tell."""

from __future__ import annotations

from collections.abc import Sequence

from coldmig_agent.discovery import ldm, members
from coldmig_agent.discovery.disks import Source, Volume
from coldmig_agent.encryption import verdict
from coldmig_agent.machine import Disk, Notice
from coldmig_agent.text import human_bytes
from coldmig_agent.warnings import WARNING, notice


def disk_place(disk: Disk) -> str:
    """``disk 0 (/dev/sda)``."""
    return f"disk {disk.index} ({disk.path})"


def volume_place(disk: Disk, volume: Volume) -> str:
    """``disk 0 (/dev/sda), partition 2``."""
    where = disk_place(disk)
    return f"{where}, partition {volume.number}" if volume.number else where


def of_disks(sources: Sequence[Source]) -> list[Notice]:
    """Everything that table, signatures and headers tell."""
    found: list[Notice] = []
    for source in sources:
        found += _of_disk(source)
        for volume in source.volumes:
            found += _of_volume(volume, volume_place(source.disk, volume))
    return found


def _of_disk(source: Source) -> list[Notice]:
    disk, where = source.disk, disk_place(source.disk)
    found: list[Notice] = []
    if disk.logical_sector == 4096:
        if disk.partitions:
            found.append(notice("disk-4k-sectors", place=where, what="its partitions"))
        elif any(volume.content.fstype for volume in source.volumes):
            found.append(notice("disk-4k-sectors", place=where, what=f"its {source.volumes[0].content.fstype}"))
        else:
            found.append(notice("disk-4k-sectors", WARNING, place=where, what="what it may hold"))
    if source.table.damaged:
        found.append(notice("partition-table-damaged", place=where))
    if disk.paths:
        paths = ", ".join([disk.path, *disk.paths])
        found.append(notice("disk-multipath", place=where, count=1 + len(disk.paths), paths=paths))
    if source.raid:
        found.append(notice("fake-raid", place=where, format=members.NAMES.get(source.raid, source.raid)))
    if source.dynamic is not None:
        how = f"group {source.dynamic.name}" if source.dynamic.name else "its group cannot be read"
        found.append(notice("dynamic-disks", place=where, how=how))
    if source.removable:
        kind = {"usb": "USB", "mmc": "memory card"}.get(disk.transport, "removable")
        found.append(notice("disk-removable", place=where, kind=kind, size=human_bytes(disk.size_bytes)))
    return found


def _of_volume(volume: Volume, place: str) -> list[Notice]:
    content = volume.content
    found: list[Notice] = []
    if volume.encryption is not None:
        found.append(verdict.judge(place, volume.encryption))
    if volume.type == ldm.STORAGE_SPACES_GUID:
        found.append(notice("storage-spaces", place=place))
    if content.fstype == "zfs_member":
        host = f" of the computer {content.owner}" if content.owner else ""
        found.append(notice("zfs-pool", place=place, pool=content.label or "(its name is not readable)", host=host))
    elif content.fstype == "bcache":
        found.append(notice("bcache", place=place, role=content.detail))
    elif content.fstype == "vdo":
        found.append(notice("lvm-cache", place=place, how="VDO", why=""))
    if content.hibernated:
        found.append(notice("hibernated", place=place, system="Linux"))
    if content.unclean:
        found.append(
            notice("unclean-filesystem", place=place, fstype=content.fstype, reason="its journal holds changes")
        )
    return found
