# SPDX-License-Identifier: GPL-3.0-or-later
"""The write fence: no source disk is opened before the kernel holds it read-only.

udev sets the flag as disks appear; here it is set again (a driver may have taken it back) and checked. The flag stops
user space and mounts, not everything inside the kernel, which is why the kernel's own write counters are reported too.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from coldmig_agent.interfaces import read_text

_BLKROSET = 0x125D  # linux/fs.h
_BLKROGET = 0x125E


class FenceError(RuntimeError):
    """A source disk can be written to. Nothing is done with it then."""


@dataclass(frozen=True, slots=True)
class WriteCounters:
    """Write and discard requests, and 512-byte sectors, that the kernel completed on a disk since boot."""

    ios: int
    sectors: int


def is_read_only(fd: int) -> bool:
    """The kernel's read-only flag of an open block device."""
    answer = fcntl.ioctl(fd, _BLKROGET, struct.pack("i", 0))
    return any(answer)


def protect(path: Path) -> None:
    """Set a block device read-only and make sure that it is. Raises :class:`FenceError`; files are left alone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise FenceError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        if not stat.S_ISBLK(os.fstat(fd).st_mode):
            return
        if not is_read_only(fd):
            fcntl.ioctl(fd, _BLKROSET, struct.pack("i", 1))
        if not is_read_only(fd):
            raise FenceError(f"{path} is not read-only, and the kernel does not make it so; nothing is read from it")
    except OSError as error:
        raise FenceError(f"{path} cannot be set read-only: {error.strerror}") from error
    finally:
        os.close(fd)


def check(fd: int, path: Path) -> None:
    """Refuse an open source that has become writable. Raises :class:`FenceError`."""
    if stat.S_ISBLK(os.fstat(fd).st_mode) and not is_read_only(fd):
        raise FenceError(f"{path} has become writable during the copy; the copy stops here")


def write_counters(path: Path, sys: Path) -> WriteCounters:
    """Counters of the whole disk (Documentation/admin-guide/iostats.rst); zeros for an image file."""
    name = str(path).removeprefix("/dev/").replace("/", "!")
    fields = (read_text(sys / "block" / name / "stat") or "").split()
    try:
        numbers = [int(field) for field in fields]
    except ValueError:
        numbers = []
    if len(numbers) < 11:
        return WriteCounters(0, 0)
    discards = (numbers[11], numbers[13]) if len(numbers) >= 15 else (0, 0)
    return WriteCounters(numbers[4] + discards[0], numbers[6] + discards[1])
