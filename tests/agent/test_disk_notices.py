# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said about the disks before the copy, from what stands on them."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, need, run
from machine_lab import Machine

from coldmig_agent.discovery import ldm, notices
from coldmig_agent.discovery.disks import Source, read_image_files
from coldmig_agent.machine import Notice

LDM_TYPES = (ldm.METADATA_GUID, ldm.DATA_GUID)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def notices_of(sources: list[Source]) -> dict[str, Notice]:
    found = notices.of_disks(sources)
    assert len({item.code for item in found}) == len(found)
    return {item.code: item for item in found}


def test_4k_sectors_block_only_a_disk_that_holds_something(machine: Machine) -> None:
    sectors = {"queue/logical_block_size": "4096\n"}
    machine.add(
        "sda", "pci0/host0", content=bytes(512) + b"LABELONE" + bytes(16) + b"LVM2 001" + bytes(5000), **sectors
    )
    found = notices_of(machine.read())["disk-4k-sectors"]
    assert found.severity == "block"
    assert "its LVM2_member will not be found there" in found.message


def test_4k_sectors_block_a_disk_with_partitions_whatever_they_hold(tmp_path: Path) -> None:
    need("sgdisk")
    path = empty_image(tmp_path / "disk.img", 64 * MIB)
    run("sgdisk", "-n1:2048:0", path)
    (source,) = read_image_files([path])
    source = replace(source, disk=replace(source.disk, logical_sector=4096))
    found = notices_of([source])["disk-4k-sectors"]
    assert found.severity == "block"
    assert "its partitions will not be found there" in found.message


def test_4k_sectors_of_an_empty_disk_only_warn(machine: Machine) -> None:
    machine.add("sda", "pci0/host0", **{"queue/logical_block_size": "4096\n"})
    assert notices_of(machine.read())["disk-4k-sectors"].severity == "warning"


def test_several_paths_are_named(machine: Machine) -> None:
    for host, name in ((1, "sda"), (2, "sdb")):
        machine.add(name, f"pci0/host{host}", wwid="naa.1\n")
    found = notices_of(machine.read())
    assert set(found) == {"disk-multipath"}
    assert found["disk-multipath"].severity == "info"
    assert "is reached by 2 paths" in found["disk-multipath"].message
    assert "sda, " in found["disk-multipath"].message


@pytest.mark.parametrize(
    ("place", "files", "kind"),
    [
        ("pci0/usb1/1-1/host3/x", {}, "a USB device of 8.0 MiB"),
        ("pci0/mmc_host/mmc0/mmc0:1", {}, "a memory card device of 8.0 MiB"),
        ("pci0/host0", {"removable": "1\n"}, "a removable device of 8.0 MiB"),
    ],
)
def test_sticks_and_cards_are_copied_with_a_warning(
    machine: Machine, place: str, files: dict[str, str], kind: str
) -> None:
    machine.add("sda", place, **files)
    assert kind in notices_of(machine.read())["disk-removable"].message


def test_a_disk_of_windows_groups_tells_its_group_and_computer(tmp_path: Path) -> None:
    need("sgdisk")
    path = empty_image(tmp_path / "disk.img", 64 * MIB)
    run("sgdisk", "-n1:2048:+1M", f"-t1:{LDM_TYPES[0]}", "-n2:0:0", f"-t2:{LDM_TYPES[1]}", path)
    (source,) = read_image_files([path])
    assert "its group cannot be read" in notices_of([source])["dynamic-disks"].message
    header = bytearray(512)
    header[:8] = b"PRIVHEAD"
    header[0xF0:0xFF] = b"FILESERVER1Dg0\0"
    with path.open("r+b") as file:
        file.seek(2 * MIB - 512)
        file.write(header)
    (source,) = read_image_files([path])
    assert "group FILESERVER1Dg0" in notices_of([source])["dynamic-disks"].message
    assert source.dynamic is not None
    assert source.dynamic.computer == "FILESERVER1"


def test_an_mbr_disk_of_windows_groups_is_known_by_its_type(tmp_path: Path) -> None:
    need("sfdisk")
    path = empty_image(tmp_path / "disk.img", 64 * MIB)
    run("sfdisk", "-q", path, stdin=b"label: dos\nstart=63, type=42\n")
    header = bytearray(512)
    header[:8] = b"PRIVHEAD"
    header[0xF0:0xF8] = b"Disk Dg\0"
    with path.open("r+b") as file:
        file.seek(6 * 512)
        file.write(header)
    (source,) = read_image_files([path])
    assert source.dynamic == ldm.Group("Disk Dg")
    assert source.dynamic.computer is None


def test_storage_spaces_are_known_by_their_type(tmp_path: Path) -> None:
    need("sgdisk")
    path = empty_image(tmp_path / "disk.img", 64 * MIB)
    run("sgdisk", "-n1:2048:0", f"-t1:{ldm.STORAGE_SPACES_GUID}", path)
    assert set(notices_of(read_image_files([path]))) == {"storage-spaces"}


def test_a_mainboards_raid_blocks_and_names_its_format(machine: Machine) -> None:
    path = machine.add("sda", "pci0/host0")
    with path.open("r+b") as file:
        file.seek(8 * MIB - 1024)
        file.write(b"Intel Raid ISM Cfg Sig. 1.3.00")
    found = notices_of(machine.read())["fake-raid"]
    assert found.severity == "block"
    assert "(Intel Rapid Storage)" in found.message


def test_a_backing_device_of_bcache_says_whether_its_cache_is_ahead(machine: Machine) -> None:
    head = bytearray(8192)
    head[4096 + 24 : 4096 + 40] = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
    struct.pack_into("<Q", head, 4096 + 16, 1)
    struct.pack_into("<Q", head, 4096 + 104, 2 << 61)
    machine.add("sda", "pci0/host0", content=bytes(head))
    assert "with changes in its cache" in notices_of(machine.read())["bcache"].message


def test_a_sleeping_linux_and_a_journal_with_changes_are_noticed(machine: Machine) -> None:
    swap = bytearray(8192)
    swap[4086:4096] = b"S1SUSPEND\0"
    ext = bytearray(8192)
    ext[1024 + 56 : 1024 + 58] = b"\x53\xef"
    struct.pack_into("<II", ext, 1024 + 92, 0x4, 0x4)
    machine.add("sda", "pci0/host0", content=bytes(swap))
    machine.add("sdb", "pci0/host1", content=bytes(ext))
    found = notices_of(machine.read())
    assert set(found) == {"hibernated", "unclean-filesystem"}
    assert "(ext3) was not left cleanly" in found["unclean-filesystem"].message
