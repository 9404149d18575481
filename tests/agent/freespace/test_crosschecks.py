# SPDX-License-Identifier: GPL-3.0-or-later
"""Tools whose answers look right and do not agree with the file system's own counters, or that complain beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agent_lab import MIB, empty_image, need, run

from coldmig_agent.freespace import btrfs, exfat, ext, fat, xfs
from coldmig_agent.freespace.area import Area, Doubt, Ranges


@dataclass
class FakeRun:
    """What a tool would have said."""

    text: bytes
    stderr: bytes = b""
    returncode: int = 0

    def __enter__(self) -> FakeRun:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def lines(self) -> Iterator[bytes]:
        yield from self.text.splitlines()

    def output(self) -> bytes:
        return self.text

    def failure(self) -> str:
        return "the tool failed"


@dataclass
class FakeSandbox:
    """Runs nothing: answers by the tool's name."""

    answers: Mapping[str, FakeRun]
    deadline: float = float("inf")

    def run(self, *command: str) -> FakeRun:
        return self.answers[command[0]]


def area_of(image: Path, **answers: FakeRun) -> Area:
    """The image as an area; ``partclone_fat`` stands for ``partclone.fat``."""
    data = image.read_bytes()
    names = {name: name.replace("partclone_", "partclone.") for name in answers}
    fake: Any = FakeSandbox({names[name]: answer for name, answer in answers.items()})
    return Area(len(data), lambda offset, length: data[offset : offset + length], fake)


def one_cluster_less(text: bytes, size: int) -> bytes:
    """The same map with the beginning of its last free range used."""
    head, _newline, last = text.rstrip(b"\n").rpartition(b"\n")
    assert last.endswith(b"?")
    start, length = (int(word, 16) for word in last.split()[:2])
    rest = b"0x%08X  0x%08X  +\n0x%08X  0x%08X  ?\n" % (start, size, start + size, length - size)
    return head + b"\n" + rest


Make = tuple[str, int, tuple[str, ...], int, Callable[[Area], Ranges]]
PARTCLONE: list[Make] = [
    ("fat", 64, ("mkfs.vfat", "-F", "16", "-s", "4"), 2048, fat.free_ranges),
    ("exfat", 32, ("mkfs.exfat",), 4096, exfat.free_ranges),
]


@pytest.mark.parametrize("make", PARTCLONE, ids=[item[0] for item in PARTCLONE])
def test_a_map_of_partclone_must_agree_with_our_own_count(make: Make, tmp_path: Path) -> None:
    name, megabytes, mkfs, cluster, gate = make
    need(mkfs[0], f"partclone.{name}")
    image = empty_image(tmp_path / "fs.img", megabytes * MIB)
    run(*mkfs, image)
    command = f"partclone.{name}", "-D", "-q", "-B", "-L", "/dev/null", "-s", str(image), "-o", "-"
    right = run(*command)
    assert list(gate(area_of(image, **{f"partclone_{name}": FakeRun(right)})))
    for wrong, words in (
        (one_cluster_less(right, cluster), "partclone's map"),
        (one_cluster_less(right, 512), "not whole clusters"),
    ):
        with pytest.raises(Doubt, match=words):
            list(gate(area_of(image, **{f"partclone_{name}": FakeRun(wrong)})))


def test_a_map_of_btrfs_must_not_call_more_free_than_its_counters(tmp_path: Path) -> None:
    need("mkfs.btrfs")
    image = empty_image(tmp_path / "fs.img", 128 * MIB)
    run("mkfs.btrfs", "-q", image)
    head = b"0x08000000     ?\n"
    assert list(btrfs.free_ranges(area_of(image, partclone_btrfs=FakeRun(head + b"0x00000000  0x08000000  +\n")))) == []
    for wrong, words in (
        (b"0x00000000  0x08000000  ?\n", "bytes in use, partclone's map 0"),
        (b"0x00000000  0x07FFFE00  +\n0x07FFFE00  0x00000200  ?\n", "not whole sectors"),
    ):
        with pytest.raises(Doubt, match=words):
            list(btrfs.free_ranges(area_of(image, partclone_btrfs=FakeRun(head + wrong))))


def test_dumpe2fs_must_not_complain(tmp_path: Path) -> None:
    need("mkfs.ext4", "dumpe2fs")
    image = empty_image(tmp_path / "fs.img", 16 * MIB)
    run("mkfs.ext4", "-q", image)
    listing = run("dumpe2fs", image)
    version = b"dumpe2fs 1.47.0 (5-Feb-2023)\n"
    assert list(ext.free_ranges(area_of(image, dumpe2fs=FakeRun(listing, version))))
    with pytest.raises(Doubt, match="dumpe2fs says"):
        list(ext.free_ranges(area_of(image, dumpe2fs=FakeRun(listing, version + b"something is wrong\n"))))


def test_the_tools_of_xfs_must_not_complain(tmp_path: Path) -> None:
    need("mkfs.xfs", "xfs_db")
    image = empty_image(tmp_path / "fs.img", 320 * MIB)
    run("mkfs.xfs", "-q", image)
    listing = run("xfs_db", "-r", "-c", "freesp -d", image)
    clean = FakeRun(b"log tail: 2 head: 2 state: <CLEAN>")
    harmless = b"xfs_db: Flushing the data device failed, err=13!\nxfs_db: flush of device 1794 failed, err=-13"
    assert list(xfs.free_ranges(area_of(image, xfs_logprint=clean, xfs_db=FakeRun(listing, harmless))))
    noise = harmless + b"\nMetadata CRC error detected at 0x1"
    with pytest.raises(Doubt, match="xfs_db says: Metadata CRC error"):
        list(xfs.free_ranges(area_of(image, xfs_logprint=clean, xfs_db=FakeRun(listing, noise))))
    with pytest.raises(Doubt, match="the tool failed"):
        list(xfs.free_ranges(area_of(image, xfs_logprint=FakeRun(clean.text, returncode=1), xfs_db=FakeRun(listing))))
