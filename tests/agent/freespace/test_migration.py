# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole migration of a disk with stale data: the real agent, a real gateway, and the disk that arrives."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, need, place, run
from disk_lab import digests, files_with_a_past, map_of, mounted, survey_image

from support.agent import Agent, build_zipapp
from support.gateway import Gateway

pytestmark = pytest.mark.usefixtures("loop_devices")


@pytest.fixture
def stale_disk(tmp_path: Path) -> Path:
    """A GPT disk with an ext4 in which most blocks that hold data belong to nobody."""
    need("mkfs.ext4", "sgdisk", "dumpe2fs")
    root = empty_image(tmp_path / "root.img", 94 * MIB)
    run("mkfs.ext4", "-q", root)
    with mounted(root, tmp_path / "mnt"):
        files_with_a_past(tmp_path / "mnt", 60)
    disk = empty_image(tmp_path / "disk.img", 96 * MIB)
    run("sgdisk", "-n1:2048:+94M", "-t1:8300", disk)
    place(disk, root, MIB)
    return disk


def files_of(disk: Path, scratch: Path) -> dict[str, str]:
    part = scratch / "part.img"
    with disk.open("rb") as file:
        file.seek(MIB)
        part.write_bytes(file.read(94 * MIB))
    run("e2fsck", "-fn", part)
    with mounted(part, scratch / "mnt", "ro,noload"):
        return digests(scratch / "mnt")


def test_stale_data_stays_behind_and_files_arrive(gateway: Gateway, stale_disk: Path, tmp_path: Path) -> None:
    before = files_of(stale_disk, tmp_path)
    with Agent(tmp_path / "agent", gateway.iso("stale"), [stale_disk], zipapp=build_zipapp(tmp_path / "a")) as agent:
        identity = agent.migration_id
        assert agent.finish() == 0, agent.text
    migration = gateway.migration(identity)
    assert migration["state"] == "copied"
    (disk,) = migration["machine"]["disks"]
    (area,) = disk["free_map"]["areas"]
    assert (area["decision"], area["fstype"], area["partition"]) == ("mapped", "ext4", 1)
    assert disk["used_bytes"] == 96 * MIB - area["free_bytes"] < 60 * MIB
    arrived = gateway.image(identity, 0, tmp_path / "arrived.img")
    assert files_of(arrived, tmp_path) == before != {}
    assert b"No problems found" in run("sgdisk", "-v", arrived)
    free_map = map_of(survey_image(stale_disk))
    assert disk["free_map"]["digest"] == free_map.digest
    expected = bytearray(stale_disk.read_bytes())
    for start, stop in free_map.ranges():
        expected[start:stop] = bytes(stop - start)
    assert expected != stale_disk.read_bytes(), "there was nothing stale"
    assert arrived.read_bytes() == expected
