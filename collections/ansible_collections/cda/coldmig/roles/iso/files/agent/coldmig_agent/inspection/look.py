# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks into all file systems of the source: first with everything put together on overlays, then, where that did not
work, at each partition as it lies on its disk. Whatever happens, the answer says what is known."""

from __future__ import annotations

import logging
import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from coldmig_agent import encryption, fence
from coldmig_agent.discovery.disks import Source, open_reader
from coldmig_agent.encryption import Encryption
from coldmig_agent.guest.facts import InspectedFacts, VolumeFacts
from coldmig_agent.inspection import block as blocks
from coldmig_agent.inspection import commands, devices, filesystems, lvm, md, overlay, teardown
from coldmig_agent.inspection.block import Block
from coldmig_agent.inspection.errors import InspectionError, OutOfTimeError
from coldmig_agent.inspection.limits import MORE, Clock, Limits
from coldmig_agent.inspection.reader import Reader
from coldmig_agent.machine import InspectedVolume, Inspection, KernelWrites, Notice
from coldmig_agent.text import clean

LOG = logging.getLogger(__name__)

Say = Callable[[str], None]
MAX_FILE_SYSTEMS = 64
_MAX_PROBLEMS = 64
_ENCRYPTED = frozenset({"crypto_LUKS", "BitLocker"})
_MEMBERS = frozenset({blocks.LVM_MEMBER, blocks.RAID_MEMBER})


@dataclass(frozen=True, slots=True)
class Encrypted:
    """An encrypted array or logical volume and what opens it."""

    place: str
    key: str
    protectors: Encryption


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that holds something, in the order of the disks, and how looking at it went.

    ``encrypted`` are arrays and logical volumes only: partitions are known from :mod:`coldmig_agent.discovery`.
    """

    volumes: tuple[InspectedFacts, ...] = ()
    report: Inspection = field(default_factory=Inspection)
    encrypted: tuple[Encrypted, ...] = ()
    notices: tuple[Notice, ...] = ()

    def with_roles(self, roles: Mapping[str, str]) -> Inspection:
        """The report with what each file system is (:attr:`coldmig_agent.guest.assemble.Assembly.roles`)."""
        named = tuple(
            replace(row, role=clean(roles.get(volume.key, ""), 64))
            for volume, row in zip(self.volumes, self.report.volumes, strict=True)
        )
        return replace(self.report, volumes=named)


@dataclass(frozen=True, slots=True)
class _Eyes:
    """Who reads, and who is told."""

    reader: Reader
    say: Say


@dataclass(slots=True)
class _Result:
    """What is known so far."""

    blocks: list[Block]
    facts: dict[str, VolumeFacts] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    encrypted: list[Encrypted] = field(default_factory=list)
    overlay_bytes: int = 0

    def problem(self, text: str) -> None:
        LOG.warning("inspection: %s", text)
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(clean(text, 300))


def inspect(
    sources: Sequence[Source],
    limits: Limits | None,
    sys: Path = Path("/sys"),
    say: Callable[[str], None] = lambda _text: None,
) -> Look:
    """Look into the disks. ``limits`` None: not wanted. Never raises for what the disks hold or the tools do.

    ``say`` is told what is being done, in a few words for the console.
    """
    started = time.monotonic()
    result = _Result([blocks.of_volume(source, volume) for source in sources for volume in source.volumes])
    if limits is None:
        result.problem("switched off by the kernel argument coldmig.inspect")
    elif any(item.content.fstype in filesystems.MOUNTABLE | _MEMBERS for item in result.blocks):
        clock = Clock(limits.seconds)
        with Reader() as reader:
            _with_overlays(sources, limits, clock, result, _Eyes(reader, say))
            _without_overlays(limits, Clock(clock.left + limits.seconds * MORE), result, _Eyes(reader, say))
    seconds = round(time.monotonic() - started, 2)
    volumes = tuple(_inspected(item, result) for item in result.blocks if item.content.fstype not in _MEMBERS | {""})
    report = Inspection(
        seconds=seconds,
        overlay_bytes=result.overlay_bytes,
        volumes=tuple(InspectedVolume(v.place, v.fstype, clean(v.label, 64), "", v.problem) for v in volumes),
        writes=tuple(_writes(source, sys) for source in sources),
        problems=tuple(result.problems),
    )
    LOG.info("inspection: %d file systems in %.1f s, %d bytes of changes in memory", len(result.facts), seconds,
             result.overlay_bytes)  # fmt: skip
    return Look(volumes, report, tuple(result.encrypted), tuple(result.notices))


def _writes(source: Source, sys: Path) -> KernelWrites:
    counters = fence.write_counters(source.path, sys)
    return KernelWrites(source.disk.index, counters.ios, counters.sectors)


def _inspected(item: Block, result: _Result) -> InspectedFacts:
    return InspectedFacts(
        place=item.place,
        key=item.key,
        disk=item.disk,
        fstype=item.content.fstype,
        label=item.content.label,
        uuid=item.content.uuid,
        facts=result.facts.get(item.key),
        problem=clean(result.reasons.get(item.key, ""), 200),
        names=item.names,
        snapshot=item.snapshot,
    )


def _with_overlays(sources: Sequence[Source], limits: Limits, clock: Clock, result: _Result, eyes: _Eyes) -> None:
    """Put everything together, read it, and take it down again."""
    if not devices.have_device_mapper(min(commands.SECONDS, clock.left)):
        result.problem("the kernel has no device-mapper: nothing is put together, journals are left alone")
        return
    teardown.take_down(Clock(limits.seconds * MORE))  # what an agent left that was killed
    try:
        eyes.say("putting overlays over the disks, and volumes together on them")
        _assemble(sources, limits, clock, result)
        _read_all(limits, clock, result, eyes)
    except OutOfTimeError as error:
        result.problem(f"the time of {limits.seconds:.0f} s is over: {error}")
    except (InspectionError, OSError) as error:
        result.problem(str(error))
    finally:
        _finish(limits, result)


def _finish(limits: Limits, result: _Result) -> None:
    clock = Clock(limits.seconds * MORE)
    try:
        result.overlay_bytes = overlay.used_bytes()
        for index in overlay.invalid(clock):
            result.problem(f"disk {index}: its overlay in memory was too small; what was seen through it is incomplete")
    except (InspectionError, OSError) as error:
        LOG.info("inspection: %s", error)
    for text in teardown.take_down(clock):
        result.problem(text)
    result.blocks = [replace(item, node=None) for item in result.blocks]


def _assemble(sources: Sequence[Source], limits: Limits, clock: Clock, result: _Result) -> None:
    """Overlays over all disks first; only then arrays, and only then volume groups."""
    overlay.prepare(limits.overlay_bytes, clock)
    nodes: dict[str, Path] = {}
    for source in sources:
        wanted = [item for item in source.volumes if item.content.fstype in filesystems.MOUNTABLE | _MEMBERS]
        if not wanted:
            continue
        try:
            disk = overlay.add_disk(source, limits.overlay_bytes, clock)
            parts = overlay.add_partitions(disk, [item for item in wanted if item.number], clock)
        except OutOfTimeError:
            raise
        except InspectionError as error:
            result.problem(f"disk {source.disk.index}: {error}")
            continue
        nodes |= {blocks.of_volume(source, item).key: parts.get(item.number, disk) for item in wanted}
    result.blocks = [replace(item, node=nodes.get(item.key)) for item in result.blocks]
    for build in (md.assemble, lvm.activate):
        try:
            built = build(result.blocks, clock)
        except OutOfTimeError:
            raise
        except InspectionError as error:
            result.problem(str(error))
            continue
        result.blocks = [*result.blocks, *built.blocks]
        result.notices += built.notices
        for text in built.problems:
            result.problem(text)
    result.encrypted = _encrypted(result.blocks)


def _encrypted(found: Sequence[Block]) -> list[Encrypted]:
    """Encrypted arrays and logical volumes; those on partitions are seen without overlays."""
    volumes: list[Encrypted] = []
    for item in found:
        if item.origin is not None or item.node is None or item.content.fstype not in _ENCRYPTED:
            continue
        try:
            fd, read = open_reader(item.node)
        except OSError as error:
            LOG.info("inspection: %s: %s", item.place, error)
            continue
        try:
            protectors = encryption.read(read, item.content.fstype)
        finally:
            os.close(fd)
        if protectors is not None:
            volumes.append(Encrypted(item.place, item.key, protectors))
    return volumes


def _read_all(limits: Limits, clock: Clock, result: _Result, eyes: _Eyes) -> None:
    """Every file system on the overlays, snapshots of others last. Raises OutOfTimeError."""
    groups = _btrfs_groups(result.blocks)
    mountable = [
        item
        for item in sorted(result.blocks, key=lambda item: item.snapshot)
        if item.node is not None and item.content.fstype in filesystems.MOUNTABLE
    ]
    seen: set[bytes] = set()
    for item in mountable[:MAX_FILE_SYSTEMS]:
        nodes = [item.node] if item.node else []
        identity = groups.identity.get(item.key)
        if identity is not None:
            if identity in seen:
                result.reasons[item.key] = ""
                continue
            seen.add(identity)
            nodes += [node for node in groups.nodes[identity] if node != item.node]
        eyes.say(f"looking into {item.place} ({item.content.fstype})")
        try:
            result.facts[item.key] = eyes.reader.read(
                nodes, item.content.fstype, min(limits.one_file_system, clock.left), replay=True
            )
        except InspectionError as error:
            result.reasons[item.key] = str(error)
            LOG.info("inspection: %s: %s", item.place, error)
            if isinstance(error, OutOfTimeError) and clock.left <= 0:
                raise
    if len(mountable) > MAX_FILE_SYSTEMS:
        result.problem(f"only {MAX_FILE_SYSTEMS} of {len(mountable)} file systems were looked into")


@dataclass(frozen=True, slots=True)
class _BtrfsGroups:
    """Which Btrfs a block belongs to, and the nodes of each."""

    identity: dict[str, bytes]
    nodes: dict[bytes, list[Path]]


def _btrfs_groups(found: Sequence[Block]) -> _BtrfsGroups:
    groups = _BtrfsGroups({}, {})
    for item in found:
        if item.content.fstype == "btrfs" and item.node is not None:
            try:
                with item.node.open("rb") as file:
                    file.seek(0x10000)
                    head = file.read(0x90)
            except OSError:
                continue
            if len(head) == 0x90 and struct.unpack_from("<Q", head, 0x88)[0] > 1:  # num_devices
                identity = head[0x20:0x30]
                groups.identity[item.key] = identity
                groups.nodes.setdefault(identity, []).append(item.node)
    return groups


def _without_overlays(limits: Limits, clock: Clock, result: _Result, eyes: _Eyes) -> None:
    """What was not read, straight from its disk and without touching a journal."""
    for item in result.blocks[:MAX_FILE_SYSTEMS]:
        unread = item.key not in result.facts and (item.key not in result.reasons or result.reasons[item.key])
        if not unread or item.origin is None or item.content.fstype not in filesystems.MOUNTABLE:
            continue
        if clock.left <= 0:
            result.reasons.setdefault(item.key, "no time was left to look into it")
            continue
        path, start = item.origin
        eyes.say(f"looking into {item.place} ({item.content.fstype}) without its journal")
        try:
            with devices.read_only_loop(path, start, item.size_bytes) as node:
                seconds = min(limits.one_file_system, clock.left)
                result.facts[item.key] = eyes.reader.read([node], item.content.fstype, seconds, replay=False)
            if result.reasons.pop(item.key, ""):
                LOG.info("inspection: %s was read without its journal", item.place)
        except InspectionError as error:
            first = result.reasons.get(item.key, "")
            result.reasons[item.key] = first or str(error)
            LOG.info("inspection: %s, without its journal: %s", item.place, error)
