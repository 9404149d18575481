# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that need no kernel: a sleeping Windows, another live system, a namesake of our medium, foreign storage.

They complete dirty_disks.py; each is something that a live system, or a program on one, has been seen to write to.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

from e2e.qemu import Controller, Disk

MIB = 1 << 20
TOOLS = ("mkntfs", "ntfscp", "mke2fs")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

#: Serial numbers, by what is on the disk.
ASLEEP, LIVE, NAMESAKE, BCACHE, ZFS, SAN = (f"ODD-{number}" for number in range(6))
_BCACHE_MAGIC = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")


def missing_tools() -> list[str]:
    """Tools that this machine lacks."""
    return [name for name in TOOLS if shutil.which(name, path=_PATH) is None]


def make(directory: Path, medium: Path) -> list[Disk]:
    """Make all of them. ``medium``: the ISO from which the machine is going to boot."""
    virtio, scsi = Controller.VIRTIO_BLK, Controller.VIRTIO_SCSI
    return [
        Disk(_asleep(directory / "asleep.raw"), ASLEEP, controller=virtio),
        Disk(_live_system(directory / "live.raw"), LIVE, controller=virtio),
        Disk(_namesake(directory / "namesake.raw", medium), NAMESAKE, controller=virtio),
        Disk(_bcache(directory / "bcache.raw"), BCACHE, controller=virtio),
        # A disk that takes no writes at all would complain of each.
        Disk(_zfs(directory / "zfs.raw"), ZFS, controller=virtio, read_only=True),
        Disk(_san(directory / "san.raw"), SAN, controller=scsi, paths=2),
    ]


def _asleep(path: Path) -> Path:
    """NTFS of a Windows that hibernates: a driver that mounts it for writing takes its memory image away."""
    _empty(path, 32)
    _run("mkntfs", "-Q", "-F", "-q", "-L", "sleeping", path)
    image = path.with_suffix(".hiberfil")
    image.write_bytes(b"hibr".ljust(64 << 10, b"\xa5"))
    _run("ntfscp", path, image, "hiberfil.sys")
    image.unlink()
    data = bytearray(path.read_bytes())
    # $Volume is the fourth record of the MFT and of its mirror; in its attribute 0x70 bit 0 of the flags is "dirty".
    sector, cluster, *tables = struct.unpack_from("<HB", data, 11) + struct.unpack_from("<QQ", data, 48)
    for table in tables:
        record = table * sector * cluster + 3 * 1024
        at = record + struct.unpack_from("<H", data, record + 20)[0]
        while (kind := struct.unpack_from("<I", data, at)[0]) != 0x70:
            if kind == 0xFFFFFFFF:
                raise ValueError("the new NTFS has no attribute VOLUME_INFORMATION")
            at += struct.unpack_from("<I", data, at + 4)[0]
        data[at + struct.unpack_from("<H", data, at + 20)[0] + 10] |= 1
    data[510:512] = bytes(2)  # no disk to boot from, so that it comes behind those of dirty_disks.py
    path.write_bytes(data)
    return path


def _live_system(path: Path) -> Path:
    """What live-boot looks for on every disk, and mounts for writing: an overlay that is called persistence."""
    tree = path.with_suffix(".tree")
    (tree / "live").mkdir(parents=True)
    (tree / "persistence.conf").write_text("/ union\n")
    (tree / "live/filesystem.squashfs").write_bytes(b"hsqs".ljust(4096, b"\0"))
    _run("mke2fs", "-q", "-t", "ext4", "-L", "persistence", "-d", tree, _empty(path, 48))
    shutil.rmtree(tree)
    return path


def _namesake(path: Path, medium: Path) -> Path:
    """The beginning of our own ISO and nothing behind it: a stick of the same ISO that was written half, say."""
    _empty(path, 8)
    with medium.open("rb") as source, path.open("r+b") as target:
        target.write(source.read(2 * MIB))
    return path


def _bcache(path: Path) -> Path:
    """A backing device, by what it is known by; its driver writes into every one that it registers."""
    _empty(path, 16)
    block = bytearray(256)
    struct.pack_into("<QQ", block, 8, 8, 1)  # sector of this block; version 1: a backing device
    block[24:40] = _BCACHE_MAGIC
    block[40:56] = bytes(range(16))
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(block)
    return path


def _zfs(path: Path) -> Path:
    """A member of a pool, by its uberblocks; an import notes on every member who has done it."""
    _empty(path, 64)
    uberblocks = b"".join(struct.pack("<QQ", 0x00BAB10C, 5000).ljust(1024, b"\0") for _ in range(128))
    with path.open("r+b") as file:
        for label in (0, 256 << 10, 64 * MIB - (512 << 10), 64 * MIB - (256 << 10)):
            file.seek(label + (128 << 10))
            file.write(uberblocks)
    return path


def _san(path: Path) -> Path:
    """An ext4 that two ways lead to."""
    _run("mke2fs", "-q", "-t", "ext4", "-L", "san", _empty(path, 32))
    return path


def _empty(path: Path, mebibytes: int) -> Path:
    with path.open("wb") as image:
        image.truncate(mebibytes * MIB)
    return path


def _run(program: str, *arguments: str | Path) -> None:
    subprocess.run([program, *arguments], check=True, capture_output=True, env={"PATH": _PATH})
