# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures of file systems that the real tools made."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, need, run

from coldmig_agent.discovery.filesystems import Content, probe


def probed(path: Path) -> Content:
    data = path.read_bytes()
    return probe(lambda offset, length: data[offset : offset + length], len(data))


@pytest.mark.parametrize(
    ("fstype", "megabytes", "command"),
    [
        ("ext2", 8, ["mkfs.ext2", "-q", "-L", "mylabel"]),
        ("ext3", 16, ["mkfs.ext3", "-q", "-L", "mylabel"]),
        ("ext4", 16, ["mkfs.ext4", "-q", "-L", "mylabel"]),
        ("xfs", 320, ["mkfs.xfs", "-q", "-L", "mylabel"]),
        ("btrfs", 128, ["mkfs.btrfs", "-q", "-L", "mylabel"]),
        ("vfat", 16, ["mkfs.vfat", "-n", "MYLABEL"]),
        ("vfat", 64, ["mkfs.vfat", "-F", "32", "-n", "MYLABEL"]),
        ("swap", 8, ["mkswap", "-L", "mylabel"]),
    ],
)
def test_type_and_label_are_found(tmp_path: Path, fstype: str, megabytes: int, command: list[str]) -> None:
    need(command[0])
    path = empty_image(tmp_path / "fs.img", megabytes * MIB)
    run(*command, path)
    found = probed(path)
    assert (found.fstype, found.label.lower(), found.unclean) == (fstype, "mylabel", False)


def test_an_ext4_journal_with_changes_is_unclean(tmp_path: Path) -> None:
    need("mkfs.ext4", "debugfs")
    path = empty_image(tmp_path / "fs.img", 16 * MIB)
    run("mkfs.ext4", "-q", path)
    run("debugfs", "-w", "-R", "feature needs_recovery", path)
    assert probed(path).unclean


def test_a_hibernated_linux_is_noticed(tmp_path: Path) -> None:
    need("mkswap")
    path = empty_image(tmp_path / "swap.img", 8 * MIB)
    run("mkswap", path)
    with path.open("r+b") as file:
        file.seek(4096 - 10)
        file.write(b"S1SUSPEND\0")
    found = probed(path)
    assert (found.fstype, found.hibernated) == ("swap", True)


def test_luks_is_found(tmp_path: Path) -> None:
    need("cryptsetup")
    path = empty_image(tmp_path / "luks.img", 32 * MIB)
    run(
        "cryptsetup", "luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", path, stdin=b"secret"
    )
    assert probed(path).fstype == "crypto_LUKS"


def at(offset: int, magic: bytes, size: int = MIB) -> Content:
    data = bytearray(size)
    data[offset : offset + len(magic)] = magic
    return probe(lambda start, length: bytes(data[start : start + length]), size)


@pytest.mark.parametrize(
    ("offset", "magic", "fstype"),
    [
        (3, b"NTFS    ", "ntfs"),
        (3, b"-FVE-FS-", "BitLocker"),
        (424, bytes.fromhex("3bd66749292ed84a"), "BitLocker"),
        (512, b"LABELONE" + bytes(16) + b"LVM2 001", "LVM2_member"),
        (4096, bytes.fromhex("fc4e2ba9"), "linux_raid_member"),
        (MIB - 8192, bytes.fromhex("fc4e2ba9"), "linux_raid_member"),
        (MIB - 65536, bytes.fromhex("fc4e2ba9"), "linux_raid_member"),
        (131072 + 4096, bytes.fromhex("0cb1ba0000000000"), "zfs_member"),
        (32769, b"CD001", "iso9660"),
    ],
)
def test_containers_and_foreign_file_systems_are_named(offset: int, magic: bytes, fstype: str) -> None:
    assert at(offset, magic).fstype == fstype


def test_nothing_is_found_in_nothing() -> None:
    assert at(0, b"") == Content()
    assert probe(lambda _offset, _length: b"", 0) == Content()


def test_noise_neither_fails_nor_hangs() -> None:
    chance = random.Random(3)
    for _ in range(100):
        data = chance.randbytes(256 * 1024)
        probe(lambda offset, length, data=data: data[offset : offset + length], len(data))  # type: ignore[misc]
