# SPDX-License-Identifier: GPL-3.0-or-later
"""A place where a file system may lie: a partition, a disk, an array, a logical volume; each seen through overlays."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from coldmig_agent.discovery import filesystems, tables
from coldmig_agent.discovery.disks import Source, Volume, open_reader
from coldmig_agent.discovery.filesystems import Content
from coldmig_agent.inspection import devices
from coldmig_agent.inspection.errors import InspectionError
from coldmig_agent.machine import Notice

LVM_MEMBER = "LVM2_member"
RAID_MEMBER = "linux_raid_member"
MAX_PARTITIONS = 32


@dataclass(frozen=True, slots=True)
class Block:
    """``node``: where it can be read, changes included; None without overlays. ``origin``: the same bytes on a disk.

    ``key``, ``place``, ``disk`` and ``names`` are those of :class:`coldmig_agent.guest.facts.InspectedFacts`.
    """

    key: str
    place: str
    disk: int | None
    size_bytes: int
    content: Content
    names: tuple[str, ...] = ()
    node: Path | None = None
    origin: tuple[Path, int] | None = None
    #: Where a partition begins inside the block that it is part of.
    start_bytes: int | None = None
    #: A logical volume that is an older state of another one.
    snapshot: bool = False


@dataclass(slots=True)
class Built:
    """What was put together: arrays or volumes, what did not work, and what a person should know."""

    blocks: list[Block] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)


def of_volume(source: Source, volume: Volume) -> Block:
    """A partition, or a whole disk without a table, before there is an overlay."""
    number = volume.number
    names: list[str] = []
    entry = next((item for item in source.table.entries if item.number == number), None)
    if entry is not None:
        names += [f"PARTUUID={entry.uuid}"] if entry.uuid else []
        names += [f"PARTLABEL={entry.name}"] if entry.name else []
    return Block(
        key=volume.key,
        place=f"disk {volume.disk}, partition {number}" if number else f"disk {volume.disk}",
        disk=volume.disk,
        size_bytes=volume.size_bytes,
        content=volume.content,
        names=tuple(names),
        origin=(source.path, volume.start_bytes),
    )


def probe(block: Block) -> list[Block]:
    """The block with what lies in it, read from its node; or its partitions, where it has a table of its own.

    Partitions get no nodes yet. Raises InspectionError.
    """
    if block.node is None:
        raise InspectionError(f"{block.place} has no device")
    try:
        fd, read = open_reader(block.node)
    except OSError as error:
        raise InspectionError(f"{block.place} cannot be opened: {error.strerror}") from error
    try:
        content = filesystems.probe(read, block.size_bytes)
        if content.fstype:
            return [replace(block, content=content)]
        table = tables.read_table(read, block.size_bytes, 512)
        found = [replace(block, content=content)]
        for entry in table.entries[:MAX_PARTITIONS]:
            size = min(entry.size_bytes, block.size_bytes - entry.start_bytes)
            node = devices.NODES / f"{block.node.name}p{entry.number}"
            place = f"{block.place}, partition {entry.number}"
            inside = filesystems.probe(tables.window(read, entry.start_bytes, size), size)
            key = f"{block.key}/{entry.number}"
            found.append(Block(key, place, block.disk, size, inside, node=node, start_bytes=entry.start_bytes))
        return found
    finally:
        os.close(fd)
