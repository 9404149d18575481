# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks that are copied: random bytes, half-compressible bytes, and used disks with an ext4 or an NTFS.

All are written in full, holes would tell more than a block device does. The two with file systems have an MBR with one
partition; about a third of it is files, a quarter is blocks of an earlier life that are free now, the rest was never
written. Each run on a machine has the same.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MIB = 1 << 20
_SECTOR = 512
_BLOCK = 4096
_KEPT = 0.36
_DELETED = 0.09
_POOL = 96 * MIB
_STALE = (0.55, 0.73)  # what an earlier file system left behind, as a part of the partition


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk image. ``partition`` is where its file system lies: offset and length; None without one.

    ``used_only`` is the same disk with zeros in all free blocks, made by a tool that has nothing to do with those that
    are measured: what arrives must be like ``image`` or, block by block, like this.
    """

    name: str
    image: Path
    fstype: str | None = None
    partition: tuple[int, int] | None = None
    used_only: Path | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.image.stat().st_size

    def forget(self) -> None:
        """Have the kernel drop what it keeps of the image: a source that was just booted reads from its disk."""
        fd = os.open(self.image, os.O_RDONLY)
        try:
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def run(*command: str | Path, stdin: str | None = None) -> str:
    """Run a tool that must succeed; its output."""
    done = subprocess.run([str(word) for word in command], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


@cache
def _programs() -> bytes:
    """Programs and libraries of this machine: what servers' disks hold, and compressors are made for."""
    parts: list[bytes] = []
    size = 0
    for folder in ("/usr/bin", "/usr/lib"):
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and not path.is_symlink():
                parts.append(path.read_bytes()[: 8 * MIB])
                size += len(parts[-1])
            if size >= _POOL:
                return b"".join(parts)
    return b"".join(parts)


class HalfCompressible:
    """Bytes that fast compressors halve: programs and, for an eighth, noise. No two mebibytes are alike."""

    _NOISE = 8 << 10

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def mebibyte(self) -> bytes:
        """The next one."""
        programs = _programs()
        # In another alphabet, and from anywhere: the bytes are new, and compressors have the same work with them.
        table = list(range(256))
        self._chance.shuffle(table)
        start = self._chance.randrange(len(programs) - MIB)
        plain = programs[start : start + MIB].translate(bytes(table))
        step = 8 * self._NOISE
        parts = (
            plain[at : at + step - self._NOISE] + self._chance.randbytes(self._NOISE) for at in range(0, MIB, step)
        )
        return b"".join(parts)


def _write(path: Path, mebibytes: int, content: Callable[[], bytes]) -> Path:
    with path.open("wb") as file:
        for _ in range(mebibytes):
            file.write(content())
    return path


def random_disk(directory: Path, mebibytes: int) -> Disk:
    """Bytes that no compressor shrinks: an encrypted disk, or one full of videos."""
    chance = random.Random(1)
    return Disk("random", _write(directory / "random.img", mebibytes, lambda: chance.randbytes(MIB)))


def half_disk(directory: Path, mebibytes: int) -> Disk:
    """Bytes that compressors halve, and not one block of zeros."""
    return Disk("half", _write(directory / "half.img", mebibytes, HalfCompressible(2).mebibyte))


def _files(target: Path, total: int, seed: int) -> tuple[list[Path], list[Path]]:
    """Files of 4 KiB to 12 MiB, a fifth of the bytes below 64 KiB: (those to keep, those to delete)."""
    chance = random.Random(seed)
    source = HalfCompressible(seed)
    kept: list[Path] = []
    deleted: list[Path] = []
    sizes = {True: 0, False: 0}
    limits = {True: int(total * _KEPT), False: int(total * _DELETED)}
    number = 0
    while any(sizes[keep] < limits[keep] for keep in sizes):
        folder = target / f"d{number % 40}"
        folder.mkdir(parents=True, exist_ok=True)
        keep = sizes[True] * limits[False] <= sizes[False] * limits[True]
        content = b"".join(source.mebibyte() for _ in range(chance.randrange(1, 13)))
        cut = [chance.randrange(_BLOCK, 65536) for _ in range(30)] + [len(content)]
        start = 0
        for size in cut:
            path = folder / f"f{number}"
            path.write_bytes(content[start : start + size])
            (kept if keep else deleted).append(path)
            sizes[keep] += min(size, len(content) - start)
            start += size
            number += 1
    return kept, deleted


def _old_life(part: Path, size: int) -> None:
    """A partition as a quick format leaves it: old data in a part of it, zeros elsewhere."""
    source = HalfCompressible(9)
    first, last = (int(size * share) // MIB for share in _STALE)
    with part.open("wb") as file:
        for mebibyte in range(size // MIB):
            file.write(source.mebibyte() if first <= mebibyte < last else bytes(MIB))


def _disk_of(name: str, part: Path, used_only: Path, kind: int) -> Disk:
    """An MBR, the partition from 1 MiB on, and 1 MiB behind it."""
    size = part.stat().st_size
    image, reference = part.with_name(f"{name}.img"), part.with_name(f"{name}-used.img")
    entry = struct.pack("<B3sB3sII", 0x80, b"\0\2\0", kind, b"\xff\xff\xff", MIB // _SECTOR, size // _SECTOR)
    mbr = b"\x90" * 446 + entry + bytes(48) + b"\x55\xaa"
    for target, content in ((image, part), (reference, used_only)):
        with target.open("wb") as file, content.open("rb") as source:
            file.write(mbr.ljust(MIB, b"\0"))
            shutil.copyfileobj(source, file, MIB)
            file.write(bytes(MIB))
        content.unlink()
    return Disk(name, image, name, (MIB, size), reference)


def ext4_disk(directory: Path, mebibytes: int) -> Disk:
    """An ext4 with files between which others were deleted, on top of an older file system's remains."""
    size = (mebibytes - 2) * MIB
    part, tree = directory / "ext4.part", directory / "ext4.tree"
    _old_life(part, size)
    _kept, deleted = _files(tree, size, 3)
    options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0,hash_seed=4b9b0c5e-9c35-4f5d-8b64-2a4a9e0d1f00"
    identity = ["-U", "6f1c4bd2-32ab-4bb5-9b8b-3a6a2e0f7c11", "-E", options]
    run("mkfs.ext4", "-q", "-F", "-b", str(_BLOCK), *identity, "-d", tree, part)
    run("debugfs", "-w", "-f", "-", part, stdin="".join(f"rm /{path.relative_to(tree)}\n" for path in deleted))
    run("e2fsck", "-fy", part)
    shutil.rmtree(tree)
    used = directory / "ext4.used"
    run("e2image", "-r", "-a", part, used)
    os.truncate(used, size)
    return _disk_of("ext4", part, used, 0x83)


def ntfs_disk(directory: Path, mebibytes: int) -> Disk:
    """An NTFS with files, on top of an older file system's remains."""
    size = (mebibytes - 2) * MIB
    part, tree = directory / "ntfs.part", directory / "ntfs.tree"
    _old_life(part, size)
    kept, _deleted = _files(tree, size // 2, 4)
    run(
        "mkfs.ntfs",
        "-q",
        "-F",
        "-f",
        "-c",
        str(_BLOCK),
        "-s",
        str(_SECTOR),
        "-p",
        str(MIB // _SECTOR),
        "-H",
        "255",
        "-S",
        "63",
        part,
    )
    # One process for each file takes its time: what are many small files elsewhere is a large one here.
    large = directory / "ntfs.file"
    _write(large, int(size * _KEPT / 2) // MIB, HalfCompressible(5).mebibyte)
    run("ntfscp", "-q", part, large, "large")
    for number, path in enumerate(kept):
        run("ntfscp", "-q", part, path, f"file{number}")
    large.unlink()
    shutil.rmtree(tree)
    used = directory / "ntfs.used"
    used.unlink(missing_ok=True)
    run("ntfsclone", "-q", "-o", used, part)
    os.truncate(used, size)
    return _disk_of("ntfs", part, used, 0x07)


MAKERS: dict[str, Callable[[Path, int], Disk]] = {
    "random": random_disk,
    "half": half_disk,
    "ext4": ext4_disk,
    "ntfs": ntfs_disk,
}


def difference(disk: Disk, arrived: Path) -> str | None:
    """Where a copy differs from the disk; None if it does not. Free blocks may have become zeros."""
    if arrived.stat().st_size != disk.size:
        return f"{arrived.stat().st_size} bytes arrived of {disk.size}"
    with disk.image.open("rb") as source, arrived.open("rb") as target:
        reference = disk.used_only.open("rb") if disk.used_only else None
        try:
            for offset in range(0, disk.size, MIB):
                ours, theirs = source.read(MIB), target.read(MIB)
                used = reference.read(MIB) if reference else ours
                if ours == theirs:
                    continue
                for start in range(0, len(ours), _BLOCK):
                    block = slice(start, start + _BLOCK)
                    if theirs[block] not in (ours[block], used[block]):
                        return f"byte {offset + start}: the block is not the source's"
        finally:
            if reference is not None:
                reference.close()
    return None
