# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof for every file system: copy only what the survey asks for, put noise everywhere else, lose nothing."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, need, run
from disk_lab import (
    Maker,
    area_of,
    content,
    fuse_fill,
    fuse_look,
    kernel_fill,
    kernel_look,
    map_of,
    mtools_fill,
    mtools_look,
    rebuild,
    survey_image,
)

from coldmig_agent.freespace.maps import FreeMap

pytestmark = pytest.mark.usefixtures("loop_devices")

EXT = Maker("ext4", 64, ("mkfs.ext4", "-q"), kernel_fill, kernel_look("ext4"), ("e2fsck", "-fn"))
XFS = Maker("xfs", 320, ("mkfs.xfs", "-q"), kernel_fill, kernel_look("xfs"), ("xfs_repair", "-n"), ("xfs_db",))
BTRFS = Maker(
    "btrfs", 160, ("mkfs.btrfs", "-q"), kernel_fill, kernel_look("btrfs"), ("btrfs", "check", "--readonly")
)  # fmt: skip
NTFS = Maker(
    "ntfs", 64, ("mkfs.ntfs", "-q", "-F"), fuse_fill("ntfs-3g"), fuse_look("ntfs-3g"), ("ntfsfix", "-n"),
    ("partclone.ntfs",),
)  # fmt: skip
FAT = Maker(
    "vfat", 64, ("mkfs.vfat", "-F", "16"), mtools_fill, mtools_look, ("fsck.vfat", "-n"), ("partclone.fat",)
)  # fmt: skip
EXFAT = Maker(
    "exfat", 64, ("mkfs.exfat",), fuse_fill("mount.exfat-fuse"), fuse_look("mount.exfat-fuse"),
    ("fsck.exfat", "-n"), ("partclone.exfat",),
)  # fmt: skip

MAKERS = {
    "ext4": EXT,
    "ext2": replace(EXT, fstype="ext2", mkfs=("mkfs.ext2", "-q"), look=kernel_look("ext2")),
    "ext3": replace(EXT, fstype="ext3", mkfs=("mkfs.ext3", "-q"), look=kernel_look("ext3")),
    "ext4-4k-blocks": replace(EXT, megabytes=128, mkfs=("mkfs.ext4", "-q", "-b", "4096")),
    "ext4-old-layout": replace(EXT, mkfs=("mkfs.ext4", "-q", "-O", "^64bit,^flex_bg,^metadata_csum,^resize_inode")),
    "ext4-meta-bg": replace(
        EXT, mkfs=("mkfs.ext4", "-q", "-O", "meta_bg,^resize_inode,sparse_super2,inline_data", "-I", "256")
    ),
    "xfs": XFS,
    "xfs-1k-blocks-rmap": replace(
        XFS, mkfs=("mkfs.xfs", "-q", "-b", "size=1024", "-m", "rmapbt=1,reflink=1,bigtime=1", "-i", "nrext64=1")
    ),
    "btrfs": BTRFS,
    "btrfs-mixed": replace(BTRFS, mkfs=("mkfs.btrfs", "-q", "--mixed")),
    "ntfs": NTFS,
    "ntfs-small-clusters": replace(NTFS, mkfs=("mkfs.ntfs", "-q", "-F", "-c", "512")),
    "fat16": FAT,
    "fat32": replace(FAT, megabytes=80, mkfs=("mkfs.vfat", "-F", "32")),
    "exfat": EXFAT,
}


def check(maker: Maker, image: Path) -> None:
    done = subprocess.run([*maker.check, str(image)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BAD" not in done.stdout


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())
def test_nothing_is_lost_when_free_space_holds_noise(maker: Maker, tmp_path: Path) -> None:
    image = maker.image(tmp_path)
    before = maker.look(image, tmp_path / "mnt")
    assert len(before) > 10
    found = survey_image(image)
    area = area_of(found)
    assert (area.decision, area.fstype) == ("mapped", maker.fstype), area.reason
    assert found.notices == ()
    # Half of the disk at least was never used or is stale: a map that finds nothing would prove nothing.
    assert area.free_bytes == map_of(found).free_bytes > image.stat().st_size // 2
    arrived = rebuild(image, map_of(found), tmp_path / "arrived.img")
    check(maker, arrived)
    assert maker.look(arrived, tmp_path / "mnt") == before


def test_the_proof_notices_a_map_that_is_wrong(tmp_path: Path) -> None:
    image = EXT.image(tmp_path)
    before = EXT.look(image, tmp_path / "mnt")
    at = image.read_bytes().index(content("d0/sub 0/file-0", 1_500_000)[:4096])
    wrong = FreeMap(0, image.stat().st_size, [(at, at + 4096)])
    assert EXT.look(rebuild(image, wrong, tmp_path / "arrived.img"), tmp_path / "mnt") != before


def test_xfs_of_version_4_which_this_kernel_may_not_mount(tmp_path: Path) -> None:
    need("mkfs.xfs", "xfs_db", "xfs_repair")
    names = [f"file-{index}" for index in range(12)]
    for index, name in enumerate(names):
        (tmp_path / name).write_bytes(content(name, 50_000 * index + 5_000))
    files = "\n".join(f"{name} ---644 0 0 {tmp_path / name}" for name in names)
    prototype = tmp_path / "prototype"
    prototype.write_text(f"boot 0 0\nd--755 0 0\n{files}\n$\n")
    image = empty_image(tmp_path / "xfs.img", 320 * MIB)
    run("mkfs.xfs", "-q", "-m", "crc=0", "-p", prototype, image)
    source = image.read_bytes()
    found = survey_image(image)
    assert (area_of(found).decision, area_of(found).fstype) == ("mapped", "xfs"), area_of(found).reason
    arrived = rebuild(image, map_of(found), tmp_path / "arrived.img")
    check(XFS, arrived)
    result = arrived.read_bytes()
    for name in names:
        data = (tmp_path / name).read_bytes()
        at = source.index(data)
        assert result[at : at + len(data)] == data
