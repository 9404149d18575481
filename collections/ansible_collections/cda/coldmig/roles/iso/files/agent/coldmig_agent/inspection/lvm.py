# SPDX-License-Identifier: GPL-3.0-or-later
"""Logical volumes, thin and RAID ones too, activated on overlays only.

LVM is given a device directory that holds nothing but the overlays' nodes, and a filter that names the physical volumes
among them one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from coldmig_agent.discovery.filesystems import Content
from coldmig_agent.inspection import block as blocks
from coldmig_agent.inspection import commands, devices, modules
from coldmig_agent.inspection.block import Block, Built
from coldmig_agent.inspection.errors import InspectionError, OutOfTimeError
from coldmig_agent.inspection.limits import Clock
from coldmig_agent.warnings import notice

MAX_VOLUMES = 128
_NAME = re.compile(r"^[A-Za-z0-9+_.-]{1,128}$")
_SYSTEM_ID = re.compile(r"^[A-Za-z0-9+_.:@-]{1,128}$")
_COLUMNS = "vg_name,lv_name,lv_kernel_major,lv_kernel_minor,lv_role,lv_size,segtype"
#: Modules for segment types; the kernel finds those by itself that do not lie apart.
_MODULES = {"raid": "dm_raid", "mirror": "dm_mirror", "thin": "dm_thin_pool", "cache": "dm_cache_smq"}


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """A row of ``lvs``; ``number`` is the active device's (major, minor), None where it is not active."""

    group: str
    name: str
    number: tuple[int, int] | None
    roles: frozenset[str]
    size_bytes: int
    kind: str


def configuration(nodes: Sequence[str], system_ids: Sequence[str] = ()) -> str:
    """Settings for ``lvm --config``: only ``nodes`` exist, and nothing outside them is written."""
    accepted = ",".join(f'"a|^{re.escape(node)}$|"' for node in nodes)
    others = ",".join(f'"{identity}"' for identity in system_ids)
    return (
        f'devices {{ dir="{devices.NODES}" scan=["{devices.NODES}"] global_filter=[{accepted},"r|.*|"]'
        " use_devicesfile=0 obtain_device_list_from_udev=0 md_component_detection=0 fw_raid_component_detection=0"
        ' multipath_component_detection=0 external_device_info_source="none" allow_changes_with_duplicate_pvs=1 }'
        " backup { backup=0 archive=0 }"
        " activation { udev_sync=0 udev_rules=0 monitoring=0 }"
        ' global { thin_check_executable="" cache_check_executable="" event_activation=0 use_lvmpolld=0 notify_dbus=0'
        " use_lvmlockd=0 }"
        f" local {{ extra_system_ids=[{others}] }}"
    )


def parse_report(text: str, section: str) -> list[Mapping[str, str]]:
    """Rows of ``--reportformat json``. Raises InspectionError."""
    try:
        document = json.loads(text)
        rows = [row for report in document["report"] for row in report[section]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InspectionError("the answer of LVM cannot be read") from None
    if not all(isinstance(row, dict) and all(isinstance(item, str) for item in row.values()) for row in rows):
        raise InspectionError("the answer of LVM cannot be read")
    return cast(list[Mapping[str, str]], rows)


def parse_volumes(text: str) -> list[LogicalVolume]:
    """Volumes that ``lvs`` lists. Raises InspectionError."""
    found: dict[tuple[str, str], LogicalVolume] = {}
    for row in parse_report(text, "lv"):
        group, name = row.get("vg_name", ""), row.get("lv_name", "").strip("[]")
        if not _NAME.match(group) or not _NAME.match(name):
            continue
        major, minor = _number(row.get("lv_kernel_major", "")), _number(row.get("lv_kernel_minor", ""))
        number = (major, minor) if major is not None and minor is not None else None
        roles = frozenset(row.get("lv_role", "").split(","))
        size = _number(row.get("lv_size", "").removesuffix("B")) or 0
        # One row for each segment.
        found.setdefault((group, name), LogicalVolume(group, name, number, roles, size, row.get("segtype", "")))
    return list(found.values())


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def mapper_name(group: str, name: str) -> str:
    """How device-mapper calls a volume: hyphens are doubled."""
    return f"{group.replace('-', '--')}-{name.replace('-', '--')}"


def activate(found: Sequence[Block], clock: Clock) -> Built:
    """Volumes of the groups that ``found`` holds physical volumes of. Raises InspectionError."""
    members = [item for item in found if item.content.fstype == blocks.LVM_MEMBER and item.node is not None]
    if not members:
        return Built()
    settings = configuration([str(item.node) for item in members])
    columns = "vg_name,vg_systemid,vg_missing_pv_count"
    groups = parse_report(_lvm(clock, settings, "vgs", "--foreign", "-o", columns), "vg")
    built = Built()
    built.notices += [
        notice("volume-group-incomplete", group=row["vg_name"], missing=row["vg_missing_pv_count"])
        for row in groups
        if row.get("vg_missing_pv_count", "0") not in {"", "0"}
    ]
    owners = sorted({row["vg_systemid"] for row in groups if _SYSTEM_ID.match(row.get("vg_systemid", ""))})
    settings = configuration([str(item.node) for item in members], owners)
    kinds = {volume.kind for volume in _volumes(clock, settings)}
    modules.load([name for word, name in _MODULES.items() if any(word in kind for kind in kinds)], clock)
    command = _command(settings, "vgchange", "--activate", "y", "--ignoreactivationskip", "--activationmode", "partial")
    done = commands.run(command, clock.left)
    if done.status != 0:
        built.problems.append(f"some logical volumes could not be activated ({done.complaint})")
    disk = members[0].disk
    for volume in _volumes(clock, settings)[:MAX_VOLUMES]:
        if "public" not in volume.roles or volume.kind == "thin-pool":
            continue
        try:
            built.blocks.append(_block(volume, disk))
        except OutOfTimeError:
            raise
        except InspectionError as error:
            built.problems.append(f"LVM volume {volume.group}/{volume.name}: {error}")
    return built


def _command(settings: str, command: str, *arguments: str) -> list[str]:
    return ["lvm", command, "--config", settings, *arguments]


def _lvm(clock: Clock, settings: str, command: str, *arguments: str) -> str:
    report = ("--reportformat", "json", "--units", "b", "--nosuffix")
    done = commands.run(_command(settings, command, *report, *arguments), clock.left)
    if not done.output.strip():
        raise InspectionError(f"lvm {command} ended with {done.status} ({done.complaint})")
    return done.output


def _volumes(clock: Clock, settings: str) -> list[LogicalVolume]:
    return parse_volumes(_lvm(clock, settings, "lvs", "--all", "-o", _COLUMNS))


def _block(volume: LogicalVolume, disk: int | None) -> Block:
    if volume.number is None:
        raise InspectionError("it is not active")
    entry = devices.SYS_BLOCK.parent / f"dev/block/{volume.number[0]}:{volume.number[1]}"
    node = devices.make_node(f"l{volume.number[1]}", entry)
    found = Block(
        key=f"lvm/{volume.group}/{volume.name}",
        place=f"LVM volume {volume.group}/{volume.name}",
        disk=disk,
        size_bytes=devices.size_of(node),
        content=Content(),
        names=(f"/dev/mapper/{mapper_name(volume.group, volume.name)}", f"/dev/{volume.group}/{volume.name}"),
        node=node,
        snapshot=bool(volume.roles & {"snapshot", "thinsnapshot"}),
    )
    # A table inside a volume is that of a virtual machine's disk: no system of this machine.
    return blocks.probe(found)[0]
