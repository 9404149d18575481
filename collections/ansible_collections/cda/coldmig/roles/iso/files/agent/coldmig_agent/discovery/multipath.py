# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds out which block devices are paths to one and the same disk.

Two disks that are taken for one would lose data, so the identity alone is not enough: size, serial number and what
stands on them must agree too. Cheap disks and converters repeat their identities.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from coldmig_agent.discovery.blockdevices import BlockDevice
from coldmig_agent.discovery.tables import ReadAt

MAX_PATHS = 16
_SAMPLE = 64 << 10
#: Ways to a disk on which there can be several paths.
_MANY_PATHS = frozenset({"fc", "iscsi", "sas", "scsi", "nvme", "virtio"})
#: Among these a serial number is unique enough where there is no world-wide name.
_SERIALS = frozenset({"fc", "iscsi", "sas"})
_EMPTY_NAME = re.compile(r"^(?:naa|eui|nvme|uuid|t10)?[.:]?(?:0x)?[0 .:-]*$", re.IGNORECASE)

Path = tuple[BlockDevice, ReadAt]


def identity(device: BlockDevice) -> tuple[str, ...] | None:
    """What must be equal for two devices to be the same disk; None where there can be one path only."""
    if device.transport not in _MANY_PATHS:
        return None
    common = (str(device.size_bytes), str(device.logical_sector), device.serial, device.model)
    if not _EMPTY_NAME.match(device.wwn):
        return ("name", device.wwn, *common)
    if device.serial and device.model and device.transport in _SERIALS:
        return ("serial", *common)
    return None


def _samples(path: Path) -> list[bytes]:
    device, read = path
    places = (0, device.size_bytes // 2 // 4096 * 4096, max(0, device.size_bytes - _SAMPLE))
    return [read(place, _SAMPLE) for place in places]


def _readable(path: Path) -> bool:
    """A path that a storage array keeps in reserve answers, but gives no data."""
    device, read = path
    return len(read(0, device.logical_sector)) == device.logical_sector


def merge(devices: Sequence[Path]) -> list[list[Path]]:
    """Groups of paths in the order of their first; within a group the ones that give data come first."""
    groups: list[list[Path]] = []
    for path in devices:
        key = identity(path[0])
        group = next(
            (group for group in groups if key is not None and identity(group[0][0]) == key and _same(group[0], path)),
            None,
        )
        if group is None:
            groups.append([path])
        elif len(group) < MAX_PATHS:
            group.append(path)
    return [sorted(group, key=lambda path: not _readable(path)) if len(group) > 1 else group for group in groups]


def _same(one: Path, other: Path) -> bool:
    if not _readable(one) or not _readable(other):
        return True
    return _samples(one) == _samples(other)
