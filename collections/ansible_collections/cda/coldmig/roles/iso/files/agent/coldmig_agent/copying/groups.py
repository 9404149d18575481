# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks can be read at the same time: those that are different devices.

Two paths to one disk, or two partitions of it given as sources, would only make its heads move.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from coldmig_agent.discovery.disks import Source


def device_key(source: Source, sys: Path) -> str:
    """The same text for sources that share a device: its world-wide name, else its place in the kernel's tree."""
    if source.disk.wwn:
        return f"wwn:{source.disk.wwn}"
    try:
        found = source.path.stat()
    except OSError:
        return f"path:{source.path}"
    if not stat.S_ISBLK(found.st_mode):
        return f"file:{found.st_dev}:{found.st_ino}"
    return place_key(sys, found.st_rdev)


def place_key(sys: Path, number: int) -> str:
    """The place of a block device in the kernel's tree; for a partition that of its disk."""
    entry = sys / "dev/block" / f"{os.major(number)}:{os.minor(number)}"
    try:
        place = entry.resolve(strict=True)
    except OSError:
        return f"device:{number}"
    return f"device:{place.parent if (place / 'partition').exists() else place}"


def groups(sources: Mapping[int, Source], disks: Iterable[int], sys: Path = Path("/sys")) -> list[list[int]]:
    """The disks in groups, each to be read one after the other while other groups are read, too."""
    found: dict[str, list[int]] = {}
    for disk in sorted(disks):
        found.setdefault(device_key(sources[disk], sys), []).append(disk)
    return list(found.values())
