# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel modules that write to disks on their own account, for as long as every disk has its overlay.

In the live system they lie apart from the others (iso-build/modules-assembly.txt), where modprobe does not look unless
it is told so. Outside the live system the directory is missing, and what the kernel cannot do is left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from coldmig_agent.inspection import commands
from coldmig_agent.inspection.errors import InspectionError
from coldmig_agent.inspection.limits import Clock
from coldmig_agent.interfaces import read_text

DIRECTORY = Path("/usr/lib/coldmig/assembly")
#: From the most dependent to the one that all others need.
APART = (
    "dm_raid", "raid456", "raid10", "raid1", "raid0", "linear", "dm_cache_smq", "dm_cache", "dm_writecache", "md_mod"
)  # fmt: skip
#: What those need, and nobody else in the live system.
_BELOW = ("async_raid6_recov", "async_memcpy", "async_pq", "async_xor", "async_tx")
_MODPROBE = ("modprobe", "-q", "-d", str(DIRECTORY), "-C", "/dev/null")
_SPEED = Path("/proc/sys/dev/raid")


def load(names: Sequence[str], clock: Clock) -> None:
    """Load modules, those that lie apart too. Never complains: whoever needs one will see that it is not there."""
    for name in names:
        command = [*_MODPROBE, name] if name in APART else ["modprobe", "-q", name]
        with contextlib.suppress(InspectionError):
            commands.run(command, min(10.0, clock.left), caged=False)
    hold_back_resync()


def hold_back_resync() -> None:
    """Arrays that were in use when power went would copy all of a member into the overlay otherwise."""
    for name, value in (("speed_limit_min", "0"), ("speed_limit_max", "0")):
        with contextlib.suppress(OSError):
            (_SPEED / name).write_text(value, encoding="ascii")


def unload(clock: Clock) -> list[str]:
    """Unload what lies apart. Names of the modules that stay."""
    if not DIRECTORY.is_dir():
        return []
    with contextlib.suppress(InspectionError):
        names = [name for name in (*APART, *_BELOW) if name in loaded()]
        if names:
            commands.run([*_MODPROBE, "-r", *names], max(2.0, clock.left), caged=False)
    return [name for name in APART if name in loaded()]


def loaded() -> set[str]:
    """Names of the loaded modules."""
    return {line.split()[0] for line in (read_text(Path("/proc/modules"), 1 << 20) or "").splitlines() if line.strip()}
