# SPDX-License-Identifier: GPL-3.0-or-later
"""Partition tables made by sgdisk and sfdisk, and hostile ones."""

from __future__ import annotations

import random
import struct
from pathlib import Path

from agent_lab import MIB, empty_image, need, run

from coldmig_agent.discovery import tables
from coldmig_agent.discovery.tables import ReadAt, read_table


def reader(data: bytes | bytearray) -> ReadAt:
    return lambda offset, length: bytes(data[offset : offset + length]) if offset >= 0 else b""


def table_of(path: Path, sector: int = 512) -> tables.Table:
    data = path.read_bytes()
    return read_table(reader(data), len(data), sector)


def gpt_image(path: Path) -> Path:
    need("sgdisk")
    empty_image(path, 64 * MIB)
    run("sgdisk", "-n1:2048:+1M", "-t1:ef02", "-n2:0:+16M", "-t2:ef00", "-c2:EFI System", "-n3:0:0", "-t3:8300", path)
    return path


def test_a_gpt_is_read_with_types_places_and_names(tmp_path: Path) -> None:
    table = table_of(gpt_image(tmp_path / "disk.img"))
    assert table.kind == "gpt"
    assert not table.damaged
    first, second, third = table.entries
    assert (first.number, first.start_bytes, first.size_bytes) == (1, MIB, MIB)
    assert first.type == tables.BIOS_BOOT_GUID
    assert (second.type, second.name) == (tables.ESP_GUID, "EFI System")
    assert third.type == "0fc63daf-8483-4772-8e79-3d69d8477de4"


def test_a_damaged_primary_gpt_is_replaced_by_the_backup_and_reported(tmp_path: Path) -> None:
    path = gpt_image(tmp_path / "disk.img")
    whole = table_of(path)
    with path.open("r+b") as file:
        file.seek(512 + 40)
        file.write(b"\xff" * 8)
    table = table_of(path)
    assert table.damaged
    assert table.entries == whole.entries


def test_an_mbr_with_logical_partitions_is_read(tmp_path: Path) -> None:
    need("sfdisk")
    path = empty_image(tmp_path / "disk.img", 64 * MIB)
    script = "label: dos\n1: size=16384, type=83, bootable\n2: size=65536, type=5\n5: size=8192, type=82\n6: type=83\n"
    run("sfdisk", "-q", path, stdin=script.encode())
    table = table_of(path)
    assert table.kind == "dos"
    assert [(entry.number, entry.type) for entry in table.entries] == [
        (1, "0x83"),
        (2, "0x05"),
        (5, "0x82"),
        (6, "0x83"),
    ]
    assert table.entries[0].active
    assert all(entry.start_bytes + entry.size_bytes <= 64 * MIB for entry in table.entries)


def test_a_chain_of_logical_partitions_that_is_a_loop_ends() -> None:
    disk = bytearray(MIB)
    struct.pack_into("<4xB3xII", disk, 446, 0x05, 8, 1000)
    disk[510:512] = b"\x55\xaa"
    ebr = 8 * 512
    struct.pack_into("<4xB3xII", disk, ebr + 446, 0x83, 1, 10)
    struct.pack_into("<4xB3xII", disk, ebr + 462, 0x05, 0, 1000)
    disk[ebr + 510 : ebr + 512] = b"\x55\xaa"
    assert len(read_table(reader(disk), len(disk), 512).entries) == 2


def test_an_empty_disk_has_no_table() -> None:
    table = read_table(reader(bytes(MIB)), MIB, 512)
    assert (table.kind, table.entries, table.boot_code) == (None, (), False)


def test_a_file_systems_boot_sector_is_no_table(tmp_path: Path) -> None:
    need("mkfs.vfat")
    path = empty_image(tmp_path / "fat.img", 16 * MIB)
    run("mkfs.vfat", path)
    assert table_of(path).kind is None


def test_a_gpt_with_a_huge_number_of_entries_is_refused_not_read() -> None:
    disk = bytearray(MIB)
    disk[510:512] = b"\x55\xaa"
    disk[450] = 0xEE
    struct.pack_into("<I", disk, 458, 2047)
    header = bytearray(92)
    header[:8] = b"EFI PART"
    struct.pack_into("<II", header, 12, 92, 0)
    struct.pack_into("<QIII", header, 72, 2, 0xFFFFFFFF, 0x80000000, 0)
    import zlib

    struct.pack_into("<I", header, 16, zlib.crc32(header))
    disk[512 : 512 + 92] = header
    table = read_table(reader(disk), len(disk), 512)
    assert table.damaged
    assert table.entries == ()


def test_random_damage_neither_fails_nor_gives_partitions_outside_the_disk(tmp_path: Path) -> None:
    data = gpt_image(tmp_path / "disk.img").read_bytes()[: 2 * MIB]
    chance = random.Random(2)
    for _ in range(300):
        broken = bytearray(data[: 40 * 512])
        for _ in range(chance.randrange(1, 20)):
            broken[chance.randrange(446, len(broken))] = chance.randrange(256)
        for entry in read_table(reader(broken), len(broken), 512).entries:
            assert 0 <= entry.start_bytes < len(broken)
            assert entry.size_bytes > 0
