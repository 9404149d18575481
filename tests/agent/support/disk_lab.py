# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems with a past, surveyed and rebuilt from what would be copied with noise in the place of all the rest."""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent_lab import MIB, empty_image, need, run

from coldmig_agent.discovery import notices
from coldmig_agent.discovery.disks import read_image_files
from coldmig_agent.freespace.maps import FreeMap
from coldmig_agent.freespace.survey import Survey, survey
from coldmig_agent.machine import FreeArea, Notice

#: Mount options without which a damaged image would be mended in silence.
_LOOK = {"ext2": "ro", "ext3": "ro,noload", "ext4": "ro,noload", "xfs": "ro,norecovery", "btrfs": "ro"}


def content(name: str, size: int) -> bytes:
    """Bytes that are different for every name and do not compress."""
    return random.Random(name).randbytes(size)


def files_with_a_past(root: Path, megabytes: int) -> None:
    """Write files of many sizes, delete two thirds of them, and write some anew: what is left lies between old data."""
    chance = random.Random(megabytes)
    written: list[Path] = []
    budget = megabytes * MIB
    while budget > 0:
        name = f"d{len(written) % 7}/sub {len(written) % 3}/file-{len(written)}"
        size = chance.choice([0, 1, 700, 4096, 5000, 65_537, 300_000, 1_500_000])
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(name, size))
        written.append(path)
        budget -= size
    for index, path in enumerate(written):
        if index % 3:
            path.unlink()
    for index, path in enumerate(written[:40]):
        if index % 6 == 1:
            path.write_bytes(content(f"new {path.name}", 10_000 + index))
    with (root / "holes").open("wb") as file:
        file.seek(3 * MIB)
        file.write(b"behind a hole")


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


@contextmanager
def attached(image: Path) -> Iterator[str]:
    """A writable loop device over the image; when the block is left, everything is in the image."""
    device = run("losetup", "--find", "--show", image).decode().strip()
    try:
        run("blockdev", "--setrw", device)  # the flag outlives whoever had this device before
        yield device
    finally:
        run("losetup", "--detach", device)
        while run("losetup", "--associated", image):  # until a driver has written everything and closed it
            time.sleep(0.02)


@contextmanager
def mounted(image: Path, place: Path, options: str = "rw", fstype: str | None = None) -> Iterator[Path]:
    """The image's file system by the kernel."""
    place.mkdir(exist_ok=True)
    kind = ("-t", fstype) if fstype else ()
    with attached(image) as device:
        run("mount", *kind, "-o", options, device, place)
        try:
            yield place
        finally:
            run("umount", place)


@contextmanager
def fuse_mounted(tool: str, image: Path, place: Path, options: str = "rw") -> Iterator[Path]:
    """The image's file system by a FUSE driver: ``ntfs-3g``, ``mount.exfat-fuse``."""
    need(tool)
    place.mkdir(exist_ok=True)
    with attached(image) as device:
        run(tool, "-o", options, device, place)
        try:
            yield place
        finally:
            run("umount", place)


@dataclass(frozen=True)
class Maker:
    """How to make, look at and check one kind of file system. ``look`` gives the files' digests."""

    fstype: str
    megabytes: int
    mkfs: tuple[str, ...]
    fill: Callable[[Path, Path], None]
    look: Callable[[Path, Path], dict[str, str]]
    check: tuple[str, ...]
    needs: tuple[str, ...] = field(default=())

    def image(self, tmp_path: Path) -> Path:
        """A file system with a past."""
        need(self.mkfs[0], self.check[0], *self.needs)
        image = empty_image(tmp_path / f"{self.fstype}.img", self.megabytes * MIB)
        run(*self.mkfs, image)
        self.fill(image, tmp_path / "mnt")
        return image


def kernel_fill(image: Path, place: Path, megabytes: int = 24) -> None:
    """Files by the kernel's driver; what is deleted has reached the disk before."""
    with mounted(image, place):
        files_with_a_past(place, megabytes // 2)
    with mounted(image, place):
        run("sync", "-f", place)
        (place / "second").mkdir()
        files_with_a_past(place / "second", megabytes // 2)


def kernel_look(fstype: str) -> Callable[[Path, Path], dict[str, str]]:
    """Digests as the kernel's driver sees the files, without replaying anything."""

    def look(image: Path, place: Path) -> dict[str, str]:
        with mounted(image, place, _LOOK[fstype], fstype):
            return digests(place)

    return look


def fuse_fill(tool: str) -> Callable[[Path, Path], None]:
    """Files by a FUSE driver."""

    def fill(image: Path, place: Path) -> None:
        with fuse_mounted(tool, image, place):
            files_with_a_past(place, 12)

    return fill


def fuse_look(tool: str) -> Callable[[Path, Path], dict[str, str]]:
    """Digests as a FUSE driver sees the files."""

    def look(image: Path, place: Path) -> dict[str, str]:
        with fuse_mounted(tool, image, place, "ro"):
            return digests(place)

    return look


def mtools_fill(image: Path, place: Path) -> None:
    """Files by mtools, which needs no driver."""
    need("mcopy", "mdel")
    files_with_a_past(place / "first", 8)
    run("mcopy", "-s", "-i", image, place / "first", "::/")
    run("mdeltree", "-i", image, "::/first/d3")
    for index in range(6):
        path = place / f"later-{index}"
        path.write_bytes(content(path.name, 90_000 * index))
        run("mcopy", "-i", image, path, "::/")
    run("mdel", "-i", image, "::/later-4")
    shutil.rmtree(place)


def mtools_look(image: Path, place: Path) -> dict[str, str]:
    """Digests of the files that mtools copies out."""
    place.mkdir(exist_ok=True)
    run("mcopy", "-s", "-n", "-i", image, "::/*", place)
    found = digests(place)
    shutil.rmtree(place)
    return found


def survey_image(image: Path) -> Survey:
    """The survey of one image, which must not change it."""
    before = image.stat().st_mtime_ns
    found = survey(read_image_files([image]))
    assert image.stat().st_mtime_ns == before, "the survey wrote to the source"
    return found


def notices_of(found: Survey) -> list[Notice]:
    """What a person is told about the disks, by their signatures and by the survey."""
    return [*notices.of_disks(found.sources), *found.notices]


def map_of(found: Survey) -> FreeMap:
    """The map of the only disk."""
    free_map = found.sources[0].free_map
    assert free_map is not None
    return free_map


def area_of(found: Survey, partition: int | None = None) -> FreeArea:
    """The decision about a partition of the only disk, or about the disk without a table."""
    return next(area for area in map_of(found).areas if area.partition == partition)


def noise(size: int) -> bytes:
    """Bytes that look like anything but zeros or a file system."""
    return (random.Random(size).randbytes(min(size, 65_521)) * (size // 65_521 + 1))[:size]


def rebuild(image: Path, free_map: FreeMap, target: Path) -> Path:
    """The disk as it would arrive, with noise in every byte that was not copied."""
    shutil.copyfile(image, target)
    with target.open("r+b") as file:
        for start, stop in free_map.ranges():
            for position in range(start, stop, 8 * MIB):
                file.seek(position)
                file.write(noise(min(8 * MIB, stop - position)))
    return target


def patch(image: Path, changes: Mapping[int, bytes]) -> None:
    """Change bytes of an image."""
    with image.open("r+b") as file:
        for offset, data in changes.items():
            file.seek(offset)
            file.write(data)
