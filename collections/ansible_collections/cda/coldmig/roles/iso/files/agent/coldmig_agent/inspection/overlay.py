# SPDX-License-Identifier: GPL-3.0-or-later
"""Copy-on-write overlays in memory: one over each disk, and the disk's partitions as parts of it.

Below is a read-only loop device over the disk, which refuses every write, whoever in the kernel it comes from; above a
dm-snapshot keeps the changes in a file in memory. All these files share one tmpfs of fixed size: when it is full, the
overlay that needed more becomes invalid, and nothing else happens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from coldmig_agent.discovery.disks import Source, Volume
from coldmig_agent.inspection import commands, devices
from coldmig_agent.inspection.errors import InspectionError
from coldmig_agent.inspection.limits import Clock

WORK_DIR = Path("/run/coldmig/inspection")
#: Snapshot chunk in sectors: 4 KiB, the block size of nearly all file systems.
_CHUNK = 8
_SECTOR = 512


def prepare(overlay_bytes: int, clock: Clock) -> None:
    """The tmpfs for all changes. Raises InspectionError."""
    WORK_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = f"size={overlay_bytes},mode=0700,nosuid,nodev,noexec"
    commands.check(["mount", "-t", "tmpfs", "-o", options, "coldmig-overlays", str(WORK_DIR)], clock.left, caged=False)


def add_disk(source: Source, overlay_bytes: int, clock: Clock) -> Path:
    """Put an overlay over a disk (or image file); gives its node. Raises InspectionError."""
    name = f"d{source.disk.index}"
    size = source.disk.size_bytes // _SECTOR * _SECTOR
    origin = devices.attach_loop(source.path, clock.left, "--read-only")
    try:
        changes = WORK_DIR / f"{name}.changes"
        with changes.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.truncate(overlay_bytes)
        store = devices.attach_loop(changes, clock.left)
    except (InspectionError, OSError) as error:
        devices.detach_loop(origin, commands.SECONDS)
        raise error if isinstance(error, InspectionError) else InspectionError(f"{name}: {error}") from error
    try:
        table = f"0 {size // _SECTOR} snapshot {origin} {store} N {_CHUNK}"
        return devices.create({name: table}, clock.left)[name]
    except InspectionError:
        for loop in (origin, store):
            devices.detach_loop(loop, commands.SECONDS)
        raise


def add_partitions(disk: Path, volumes: Sequence[Volume], clock: Clock) -> dict[int, Path]:
    """Parts of a disk's overlay: partition number → node. Raises InspectionError."""
    tables = {f"{disk.name}p{item.number}": devices.linear(disk, item.start_bytes, item.size_bytes) for item in volumes}
    nodes = devices.create(tables, clock.left)
    return {item.number: nodes[f"{disk.name}p{item.number}"] for item in volumes}


def used_bytes() -> int:
    """Memory that all changes take up."""
    return sum(path.stat().st_blocks * _SECTOR for path in WORK_DIR.glob("*.changes"))


def invalid(clock: Clock) -> list[int]:
    """Indexes of the disks whose overlay had no more room. Raises InspectionError."""
    found: list[int] = []
    for line in commands.check(["dmsetup", "status", "--target", "snapshot"], clock.left, caged=False).splitlines():
        name, _unused, status = line.partition(": ")
        number = name.removeprefix(f"{devices.PREFIX}d")
        if number.isdigit() and status.split()[-1:] in (["Invalid"], ["Overflow"]):
            found.append(int(number))
    return sorted(found)
