# SPDX-License-Identifier: GPL-3.0-or-later
"""Loop devices and device-mapper: the bricks of the overlays.

Every device that the inspection makes has a node of its own in :data:`NODES`, a directory with nothing else in it. LVM
and mdadm look for devices only there, so no disk of the source has a name for them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from coldmig_agent.inspection import commands
from coldmig_agent.inspection.errors import InspectionError
from coldmig_agent.interfaces import read_text

#: Names of our devices in device-mapper begin so; nothing else in the live system does.
PREFIX = "coldmig-"
NODES = Path("/dev/coldmig")
SYS_BLOCK = Path("/sys/block")
_SECTOR = 512


def have_device_mapper(seconds: float = commands.SECONDS) -> bool:
    """Whether the kernel can make snapshots; loads the module where it is one."""
    with suppress(InspectionError):
        commands.run(["modprobe", "-q", "dm_snapshot"], seconds, caged=False)
    try:
        targets = commands.check(["dmsetup", "targets"], seconds, caged=False)
    except InspectionError:
        return False
    return any(line.split()[:1] == ["snapshot"] for line in targets.splitlines())


def attach_loop(path: Path, seconds: float, *arguments: str) -> Path:
    """A loop device over a file or device. Raises InspectionError."""
    return Path(
        commands.check(["losetup", "--find", "--show", *arguments, str(path.absolute())], seconds, caged=False).strip()
    )


def detach_loop(device: Path, seconds: float) -> None:
    """Raises InspectionError."""
    commands.check(["losetup", "--detach", str(device)], seconds, caged=False)


@contextmanager
def read_only_loop(path: Path, start_bytes: int, size_bytes: int) -> Iterator[Path]:
    """A block device that shows a part of a disk or image and cannot be written to. Raises InspectionError."""
    area = ("--read-only", "--offset", str(start_bytes), "--sizelimit", str(size_bytes))
    device = attach_loop(path, commands.SECONDS, *area)
    try:
        yield device
    finally:
        with suppress(InspectionError):
            detach_loop(device, commands.SECONDS)


def create(tables: Mapping[str, str], seconds: float) -> dict[str, Path]:
    """Device-mapper devices with one line as their table; gives their nodes in :data:`NODES`. Raises InspectionError.

    All or none, so that nothing is built on half of them.
    """
    concise = ";".join(f"{PREFIX}{name},,,rw,{table}" for name, table in tables.items())
    commands.check(["dmsetup", "create", "--noudevsync", "--concise", concise], seconds, caged=False)
    wanted = {PREFIX + name: name for name in tables}
    found = {mapped: entry for entry in SYS_BLOCK.glob("dm-*") if (mapped := read_text(entry / "dm/name")) in wanted}
    if missing := wanted.keys() - found.keys():
        raise InspectionError(f"the kernel does not show {', '.join(sorted(missing))}, which it has made")
    return {wanted[str(mapped)]: make_node(wanted[str(mapped)], entry) for mapped, entry in found.items()}


def linear(device: Path, start_bytes: int, size_bytes: int) -> str:
    """Table of a part of another device of ours."""
    return f"0 {size_bytes // _SECTOR} linear {device} {start_bytes // _SECTOR}"


def make_node(name: str, entry: Path) -> Path:
    """A node in :data:`NODES` for the block device whose directory in sysfs is ``entry``. Raises InspectionError."""
    major, _unused, minor = (read_text(entry / "dev") or "").partition(":")
    node = NODES / name
    try:
        NODES.mkdir(mode=0o700, exist_ok=True)
        node.unlink(missing_ok=True)
        os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(int(major), int(minor)))
    except (OSError, ValueError) as error:
        raise InspectionError(f"the node {node} cannot be made: {error}") from error
    return node


def size_of(node: Path) -> int:
    """Bytes of a block device. Raises InspectionError."""
    try:
        fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InspectionError(f"{node} cannot be opened: {error.strerror}") from error
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)
