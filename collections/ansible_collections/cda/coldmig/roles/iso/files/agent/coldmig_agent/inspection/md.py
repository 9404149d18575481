# SPDX-License-Identifier: GPL-3.0-or-later
"""Linux software RAID, put together from overlays only; also where members are missing."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from coldmig_agent.discovery.filesystems import Content
from coldmig_agent.inspection import block as blocks
from coldmig_agent.inspection import commands, devices, modules
from coldmig_agent.inspection.block import Block, Built
from coldmig_agent.inspection.errors import InspectionError, OutOfTimeError
from coldmig_agent.inspection.limits import Clock
from coldmig_agent.inspection.overlay import WORK_DIR
from coldmig_agent.interfaces import read_text
from coldmig_agent.text import clean
from coldmig_agent.warnings import notice

MAX_ARRAYS = 32
#: Minor numbers from here on, so that nobody takes one of ours for the guest's.
_FIRST_MINOR = 200
_MODULE = {"raid4": "raid456", "raid5": "raid456", "raid6": "raid456"}
_STOPPED = frozenset({"", "clear", "inactive"})
_LEVEL = re.compile(r"^(?:raid(?:0|1|4|5|6|10)|linear)$")
_UUID = re.compile(r"^[0-9a-f:]{8,64}$")

_Members = Sequence[tuple[Block, Mapping[str, str]]]


def parse_export(text: str) -> dict[str, str]:
    """``KEY=value`` lines of ``mdadm --examine --export``."""
    return dict(line.split("=", 1) for line in text.splitlines() if line.startswith("MD_") and "=" in line)


def array_name(properties: Mapping[str, str]) -> str:
    """The name without the host that made it ("host:root" → "root"); empty where the superblock has none."""
    name = clean(properties.get("MD_NAME", "").rpartition(":")[2], 64)
    return name if re.fullmatch(r"[\w.+-]+", name, re.ASCII) else ""


def assemble(found: Sequence[Block], clock: Clock) -> Built:
    """Arrays that ``found`` holds members of."""
    built = Built()
    groups: dict[str, list[tuple[Block, dict[str, str]]]] = {}
    for member in found:
        if member.content.fstype != blocks.RAID_MEMBER or member.node is None:
            continue
        done = commands.run(["mdadm", "--examine", "--export", str(member.node)], clock.left)
        properties = parse_export(done.output)
        identity = properties.get("MD_UUID", "")
        if not _UUID.match(identity):
            built.problems.append(f"{member.place}: mdadm cannot read its RAID superblock")
            continue
        groups.setdefault(identity, []).append((member, properties))
    if not groups:
        return built
    levels = {_level(group) for group in groups.values()}
    modules.load(["md_mod", *sorted(_MODULE.get(level, level) for level in levels if level)], clock)
    config = WORK_DIR / "mdadm.conf"
    nodes = [str(member.node) for group in groups.values() for member, _unused in group]
    config.write_text(f"DEVICE {' '.join(nodes)}\nAUTO -all\n", encoding="ascii")
    names = [array_name(group[0][1]) for group in groups.values()]
    for number, (identity, group) in enumerate(list(groups.items())[:MAX_ARRAYS]):
        name = names[number] if names.count(names[number]) == 1 else ""
        place = f"RAID array {name or identity}"
        try:
            _start(number, group, config, clock)
            built.blocks += _blocks(number, name or identity, group[0][0].disk, clock)
        except OutOfTimeError:
            raise
        except InspectionError as error:
            built.problems.append(f"{place} could not be started: {error}")
        else:
            missing = read_text(_entry(number) / "md/degraded") or "0"
            if missing != "0":
                members = clean(group[0][1].get("MD_DEVICES", "?"), 8)
                built.notices.append(notice("raid-degraded", place=place, missing=missing, members=members))
    return built


def _level(group: _Members) -> str:
    level = group[0][1].get("MD_LEVEL", "")
    return level if _LEVEL.match(level) else ""


def _entry(number: int) -> Path:
    return devices.SYS_BLOCK / f"md{_FIRST_MINOR + number}"


def _start(number: int, group: _Members, config: Path, clock: Clock) -> None:
    """Raises InspectionError."""
    properties = group[0][1]
    if not _level(group):
        raise InspectionError(f"its level {clean(properties.get('MD_LEVEL', ''), 32)!r} is not known")
    if properties.get("MD_RESHAPE_ACTIVE") == "True":
        raise InspectionError("it is being reshaped")
    device = f"/dev/{_entry(number).name}"
    nodes = [str(member.node) for member, _unused in group]
    done = commands.run(["mdadm", "--assemble", device, f"--config={config}", "--run", *nodes], clock.left)
    if _state(number) in _STOPPED:
        # Members that do not agree: what cannot be healed here need not be.
        commands.run(["mdadm", "--stop", device], clock.left)
        done = commands.run(
            ["mdadm", "--assemble", device, f"--config={config}", "--run", "--force", *nodes], clock.left
        )
    if _state(number) in _STOPPED:
        raise InspectionError(done.complaint or "mdadm does not say why")
    with contextlib.suppress(OSError):
        (_entry(number) / "md/sync_action").write_text("frozen", encoding="ascii")


def _blocks(number: int, name: str, disk: int | None, clock: Clock) -> list[Block]:
    """The array and, where it has a table, its partitions. Raises InspectionError."""
    node = devices.make_node(f"m{number}", _entry(number))
    aliases = [f"/dev/md/{name}"] + ([f"/dev/md{name}"] if name.isdigit() else [])
    array = Block(
        key=f"md/{name}",
        place=f"RAID array {name}",
        disk=disk,
        size_bytes=devices.size_of(node),
        content=Content(),
        names=tuple(aliases),
        node=node,
    )
    return [_with_device(item, array, clock) for item in blocks.probe(array)]


def _with_device(item: Block, array: Block, clock: Clock) -> Block:
    """Partitions of an array become parts of it; the array itself is there already."""
    if item.start_bytes is None or array.node is None or item.node is None:
        return item
    if not item.content.fstype:
        return replace(item, node=None)
    table = devices.linear(array.node, item.start_bytes, item.size_bytes)
    return replace(item, node=devices.create({item.node.name: table}, clock.left)[item.node.name])


def _state(number: int) -> str:
    return read_text(_entry(number) / "md/array_state") or ""
