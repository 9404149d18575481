# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes everything down that the inspection has put together, whatever state it is in.

What there is to take down is read from the kernel, not remembered: our devices are known by their names, and everything
that holds one of them by sysfs. So what an agent left that was killed goes too.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from coldmig_agent.inspection import commands, devices, modules
from coldmig_agent.inspection.errors import InspectionError
from coldmig_agent.inspection.limits import Clock
from coldmig_agent.inspection.overlay import WORK_DIR
from coldmig_agent.interfaces import read_text

_BTRFS_IOC_FORGET_DEV = 0x50009405  # linux/btrfs.h: _IOW(0x94, 5, struct btrfs_ioctl_vol_args) of 4096 bytes
_MAX_DEPTH = 16


def our_devices(sys_block: Path | None = None) -> list[str]:
    """Kernel names of our overlays and of all that is built on them, the topmost first."""
    root = sys_block or devices.SYS_BLOCK
    depth: dict[str, int] = {}

    def visit(name: str, level: int) -> None:
        if level > _MAX_DEPTH or depth.get(name, -1) >= level:
            return
        depth[name] = level
        for holder in _names(root / name / "holders"):
            visit(holder, level + 1)

    for name in _names(root):
        if (read_text(root / name / "dm/name") or "").startswith(devices.PREFIX):
            visit(name, 0)
    return sorted(depth, key=lambda name: (-depth[name], name))


def _names(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError:
        return []


def _loops_below(names: list[str]) -> Iterator[str]:
    for name in names:
        for below in _names(devices.SYS_BLOCK / name / "slaves"):
            if below.startswith("loop"):
                yield below


def _loops_of_changes() -> Iterator[str]:
    for name in _names(devices.SYS_BLOCK):
        if (read_text(devices.SYS_BLOCK / name / "loop/backing_file") or "").startswith(f"{WORK_DIR}/"):
            yield name


def take_down(clock: Clock) -> list[str]:
    """Remove all devices, loops, nodes, memory and modules of the inspection. What could not be removed, in words."""
    names = our_devices()
    loops = sorted({*_loops_below(names), *_loops_of_changes()})
    problems: list[str] = []
    for is_array, run in itertools.groupby(names, key=lambda name: name.startswith("md")):
        group = list(run)
        problems += [text for name in group if (text := _stop(name, clock))] if is_array else _remove(group, clock)
    for loop in loops:
        try:
            devices.detach_loop(Path("/dev") / loop, max(1.0, clock.left))
        except InspectionError as error:
            problems.append(f"{loop} stays: {error}")
    if WORK_DIR.is_mount():
        try:
            commands.check(["umount", str(WORK_DIR)], max(1.0, clock.left), caged=False)
        except InspectionError as error:
            problems.append(f"the memory of the overlays stays in use: {error}")
    shutil.rmtree(devices.NODES, ignore_errors=True)
    forget_btrfs()
    problems += [f"the kernel module {name} stays loaded" for name in modules.unload(clock)]
    return problems


def _stop(name: str, clock: Clock) -> str:
    """Empty when the array is stopped."""
    try:
        done = commands.run(["mdadm", "--stop", f"/dev/{name}"], max(2.0, clock.left))
    except InspectionError as error:
        return f"{name} stays: {error}"
    return f"{name} stays ({done.complaint})" if done.status != 0 else ""


def _remove(names: Sequence[str], clock: Clock) -> list[str]:
    """What stays of device-mapper's devices, the topmost of which come first, in words."""
    mapped = {name: read_text(devices.SYS_BLOCK / name / "dm/name") or "" for name in names}
    command = ["dmsetup", "remove", "--noudevsync", "--retry"]
    with suppress(InspectionError):
        if commands.run([*command, *mapped.values()], max(2.0, clock.left), caged=False).status == 0:
            return []
    problems: list[str] = []
    for name, text in mapped.items():
        if read_text(devices.SYS_BLOCK / name / "dm/name") != text:
            continue
        try:
            done = commands.run([*command, text], max(2.0, clock.left), caged=False)
            if done.status != 0:
                # Whoever still holds it reads errors from now on; it goes when it is closed.
                commands.run([*command[:3], "--force", "--deferred", text], max(2.0, clock.left), caged=False)
                problems.append(f"{text} is still in use ({done.complaint})")
        except InspectionError as error:
            problems.append(f"{text} stays: {error}")
    return problems


def forget_btrfs() -> None:
    """The kernel remembers the devices of every Btrfs that it has seen; ours are gone."""
    with suppress(OSError):
        fd = os.open("/dev/btrfs-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            # Python takes no immutable argument beyond 1024 bytes.
            fcntl.ioctl(fd, _BTRFS_IOC_FORGET_DEV, bytearray(4096))
        finally:
            os.close(fd)
