# SPDX-License-Identifier: GPL-3.0-or-later
"""A view of a partition that can be mounted without a single write reaching the disk.

``losetup -r`` over the partition's bytes is the origin of a dm-snapshot whose changes go to memory: a journal can be
replayed there, and the file system is seen as its owner left it. Without device-mapper the loop device is mounted as it
is, with the option that leaves the journal alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOG = logging.getLogger(__name__)

#: Where the changes of an overlay go: a file system in memory.
WORK_DIR = Path("/run/coldmig")
COW_BYTES = 64 << 20
_TOOL_SECONDS = 30
#: dm-snapshot chunk: 8 sectors = 4 KiB, the block size of nearly all file systems.
_COW_CHUNK = 8

_NO_REPLAY = {"ext2": "", "ext3": "noload", "ext4": "noload", "xfs": "norecovery", "btrfs": "rescue=nologreplay"}
_DRIVER = {"ext2": "ext4", "ext3": "ext4"}
#: File systems that are looked into.
MOUNTABLE = frozenset({*_NO_REPLAY, "vfat"})


class OverlayError(RuntimeError):
    """A view could not be set up."""


@dataclass(frozen=True, slots=True)
class View:
    """What to give to mount(2): the device, the kernel's name of the file system, options beside read-only."""

    device: Path
    fstype: str
    options: str


def _tool(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OverlayError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise OverlayError(f"{' '.join(command[:2])}: {done.stderr.strip()[:200] or done.returncode}")
    return done.stdout.strip()


def have_device_mapper() -> bool:
    """Whether the kernel can make snapshots; loads the module where it is one."""
    with contextlib.suppress(OverlayError):
        _tool("modprobe", "-q", "dm_snapshot")
    try:
        return any(line.split()[:1] == ["snapshot"] for line in _tool("dmsetup", "targets").splitlines())
    except OverlayError:
        return False


@contextmanager
def _loop(*arguments: str) -> Iterator[Path]:
    device = _tool("losetup", "--find", "--show", *arguments)
    try:
        yield Path(device)
    finally:
        try:
            _tool("losetup", "--detach", device)
        except OverlayError as error:
            LOG.warning("teardown: %s", error)


@contextmanager
def _snapshot(origin: Path, size_bytes: int) -> Iterator[Path]:
    WORK_DIR.mkdir(parents=True, exist_ok=True)
    name = f"coldmig-view-{os.getpid()}"
    cow_file = WORK_DIR / f"{name}.cow"
    try:
        with cow_file.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.truncate(COW_BYTES)
        with _loop(str(cow_file)) as cow:
            table = f"0 {size_bytes // 512} snapshot {origin} {cow} N {_COW_CHUNK}"
            _tool("dmsetup", "create", name, "--table", table)
            try:
                yield Path("/dev/mapper") / name
            finally:
                try:
                    _tool("dmsetup", "remove", "--retry", name)
                except OverlayError as error:
                    LOG.warning("teardown: %s", error)
    finally:
        cow_file.unlink(missing_ok=True)


@contextmanager
def read_only_loop(path: Path, start_bytes: int, size_bytes: int) -> Iterator[Path]:
    """A block device that shows a part of a disk or image and cannot be written to. Raises :class:`OverlayError`."""
    area = ("--read-only", "--offset", str(start_bytes), "--sizelimit", str(size_bytes), str(path))
    with _loop(*area) as device:
        yield device


@contextmanager
def view(path: Path, start_bytes: int, size_bytes: int, fstype: str, *, replay: bool) -> Iterator[View]:
    """A view of ``size_bytes`` bytes at ``start_bytes`` of a disk or image, gone again when the block is left.

    ``replay`` asks for the snapshot; without it the journal is left alone. Raises :class:`OverlayError`.
    """
    driver = _DRIVER.get(fstype, fstype)
    with read_only_loop(path, start_bytes, size_bytes) as origin:
        if not replay:
            yield View(origin, driver, _NO_REPLAY.get(fstype, ""))
            return
        with _snapshot(origin, size_bytes) as device:
            yield View(device, driver, "")
