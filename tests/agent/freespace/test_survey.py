# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole disks: what is always copied, what makes the survey copy everything, and what it tells about it."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, need, place, run
from disk_lab import (
    area_of,
    content,
    digests,
    files_with_a_past,
    map_of,
    mounted,
    notices_of,
    patch,
    rebuild,
    survey_image,
)

from coldmig_agent.discovery.disks import read_image_files
from coldmig_agent.freespace import survey as survey_module
from coldmig_agent.freespace import tools
from coldmig_agent.freespace.survey import survey
from coldmig_agent.inspection import commands

pytestmark = pytest.mark.usefixtures("loop_devices")


def ext4(path: Path, megabytes: int, *options: str) -> Path:
    need("mkfs.ext4")
    run("mkfs.ext4", "-q", *options, empty_image(path, megabytes * MIB))
    return path


def gpt_disk(path: Path, megabytes: int, *partitions: tuple[str, int, Path | None]) -> Path:
    """A GPT disk; each partition is (sgdisk's type code, MiB, an image for it), with a MiB of gap between them."""
    need("sgdisk")
    empty_image(path, megabytes * MIB)
    start = 2
    for number, (code, size, image) in enumerate(partitions, 1):
        run("sgdisk", f"-n{number}:{start * 2048}:+{size}M", f"-t{number}:{code}", path)
        if image is not None:
            place(path, image, start * MIB)
        start += size + 1
    return path


def sent(image: Path, start: int, stop: int) -> bool:
    """Whether every byte of a range would be copied."""
    return not any(first < stop and start < last for first, last in map_of(survey_image(image)).ranges())


@pytest.fixture(scope="module")
def whole_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BIOS boot, ESP, ext4, swap and FAT, with a gap before each; the last MiB belongs to the backup table."""
    directory = tmp_path_factory.mktemp("disk")
    need("mkfs.vfat", "mkswap", "partclone.fat")
    root = ext4(directory / "root.img", 60)
    with mounted(root, directory / "mnt"):
        files_with_a_past(directory / "mnt", 12)
    esp = empty_image(directory / "esp.img", 34 * MIB)
    run("mkfs.vfat", "-F", "32", "-s", "1", esp)
    swap = empty_image(directory / "swap.img", 16 * MIB)
    swap.chmod(0o600)
    run("mkswap", swap)
    data = empty_image(directory / "data.img", 40 * MIB)
    run("mkfs.vfat", "-F", "16", data)
    disk = gpt_disk(
        directory / "disk.img", 166, ("ef02", 1, None), ("ef00", 34, esp), ("8300", 64, root), ("8200", 16, swap),
        ("0700", 40, data),
    )  # fmt: skip
    with disk.open("r+b") as file:
        file.seek(3 * 512 + 16384)
        file.write(content("vendor data in the first gap", 4096))
    return disk


def test_everything_around_the_file_systems_is_sent(whole_disk: Path) -> None:
    free_map = map_of(survey_image(whole_disk))
    areas = {area.partition: area for area in free_map.areas}
    assert [areas[number].decision for number in (1, 2, 3, 4, 5)] == ["whole", "whole", "mapped", "mapped", "mapped"]
    assert "BIOS boot" in areas[1].reason
    assert "EFI" in areas[2].reason
    root, swap, data = areas[3], areas[4], areas[5]
    inside = [(area.start_bytes, area.start_bytes + area.size_bytes) for area in (root, swap, data)]
    for start, stop in free_map.ranges():
        assert any(first + 65536 <= start < stop <= last for first, last in inside), "something else was left out"
        assert stop <= whole_disk.stat().st_size - MIB
    # The file system of partition 3 ends 4 MiB before the partition does.
    assert all(not (start < inside[0][1] and stop > inside[0][1] - 4 * MIB) for start, stop in free_map.ranges())
    assert free_map.free_bytes == sum(area.free_bytes for area in areas.values()) > 90 * MIB
    assert free_map.used_bytes == whole_disk.stat().st_size - free_map.free_bytes


def test_the_machine_is_told_what_has_to_be_copied(whole_disk: Path) -> None:
    found = survey_image(whole_disk)
    disk, free_map = found.sources[0].disk, map_of(found)
    assert disk.used_bytes == free_map.used_bytes
    assert disk.free_map is not None
    assert disk.free_map.areas == free_map.areas
    assert disk.free_map.digest == free_map.digest
    assert map_of(survey_image(whole_disk)).digest == free_map.digest, "the same disk gives the same map"


def test_a_disk_arrives_with_its_tables_and_files(whole_disk: Path, tmp_path: Path) -> None:
    arrived = rebuild(whole_disk, map_of(survey_image(whole_disk)), tmp_path / "arrived.img")
    assert b"No problems found" in run("sgdisk", "-v", arrived)
    found = {}
    for image in (whole_disk, arrived):
        part = tmp_path / "part.img"
        with image.open("rb") as source:
            source.seek(39 * MIB)
            part.write_bytes(source.read(60 * MIB))
        run("e2fsck", "-fn", part)
        with mounted(part, tmp_path / "mnt", "ro,noload"):
            found[image] = digests(tmp_path / "mnt")
    assert found[arrived] == found[whole_disk] != {}


def test_extended_boot_records_are_sent(tmp_path: Path) -> None:
    need("sfdisk")
    inner = ext4(tmp_path / "fs.img", 24)
    disk = empty_image(tmp_path / "disk.img", 64 * MIB)
    table = (
        "label: dos\nstart=2048,size=2048,type=83\nstart=6144,size=120000,type=5\n"
        "start=8192,size=49152,type=83\nstart=59392,size=49152,type=83\n"
    )
    run("sfdisk", "-q", disk, stdin=table.encode())
    place(disk, inner, 8192 * 512)
    place(disk, inner, 59392 * 512)
    free_map = map_of(survey_image(disk))
    assert {area.partition: area.decision for area in free_map.areas} == {1: "whole", 5: "mapped", 6: "mapped"}
    for start, stop in free_map.ranges():
        assert 8192 * 512 + 65536 <= start < stop <= 57344 * 512 or 59392 * 512 + 65536 <= start < stop
    assert sent(disk, 57344 * 512, 59392 * 512), "the second extended boot record lies here"


def test_a_file_system_without_a_partition_table(tmp_path: Path) -> None:
    found = survey_image(ext4(tmp_path / "disk.img", 32))
    area = area_of(found)
    assert (area.decision, area.partition, area.start_bytes) == ("mapped", None, 0)
    assert min(start for start, _stop in map_of(found).ranges()) >= 65536
    assert max(stop for _start, stop in map_of(found).ranges()) <= 31 * MIB


def whole(image: Path, words: str, partition: int | None = None) -> None:
    area = area_of(survey_image(image), partition)
    assert (area.decision, area.free_bytes) == ("whole", 0), area
    assert words in area.reason


def test_an_empty_disk_is_sent_whole(tmp_path: Path) -> None:
    whole(empty_image(tmp_path / "disk.img", MIB), "nothing that is known")


def test_a_file_system_that_is_larger_than_its_partition(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path / "disk.img", 40, ("8300", 16, ext4(tmp_path / "fs.img", 32)))
    whole(disk, "the partition has", 1)


def test_two_signatures_in_one_place(tmp_path: Path) -> None:
    image = ext4(tmp_path / "disk.img", 32)
    need("mkswap")
    other = empty_image(tmp_path / "swap.img", 32 * MIB)
    other.chmod(0o600)
    run("mkswap", other)
    patch(image, {4086: b"SWAPSPACE2", 1028 - 4: other.read_bytes()[1024:1028]})
    assert area_of(survey_image(image)).decision == "whole"
    minix = ext4(tmp_path / "both.img", 64)
    run("mkfs.ext4", "-q", "-F", minix)
    patch(minix, {0: b"XFSB" + struct.pack(">IQ", 4096, 16384) + bytes(84)})
    assert area_of(survey_image(minix)).decision == "whole"


def encrypted(path: Path) -> str:
    need("cryptsetup")
    options = ("-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    run("cryptsetup", "luksFormat", *options, empty_image(path, 32 * MIB), stdin=b"secret")
    return "encrypted (LUKS)"


def bitlocker(path: Path) -> str:
    patch(empty_image(path, 32 * MIB), {3: b"-FVE-FS-", 510: b"\x55\xaa"})
    return "encrypted (BitLocker)"


def raid_member(path: Path) -> str:
    ext4(path, 32)
    superblock = struct.pack("<II", 0xA92B4EFC, 1)
    patch(path, {32 * MIB - 8192: superblock})  # format 1.0: the file system begins at 0
    return "software RAID"


def physical_volume(path: Path) -> str:
    patch(empty_image(path, 32 * MIB), {512: b"LABELONE" + bytes(16) + b"LVM2 001"})
    return "LVM"


def zfs_member(path: Path) -> str:
    patch(empty_image(path, 32 * MIB), {(128 << 10): struct.pack("<Q", 0x00BAB10C)})
    return "ZFS"


def f2fs(path: Path) -> str:
    patch(empty_image(path, 32 * MIB), {1024: b"\x10\x20\xf5\xf2"})
    return "f2fs"


@pytest.mark.parametrize("make", [encrypted, bitlocker, raid_member, physical_volume, zfs_member, f2fs])
def test_what_is_no_plain_file_system_is_sent_whole(make: Callable[[Path], str], tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    words = make(image)
    whole(image, words)


@pytest.mark.parametrize("code", ["ef00", "ef02", "0c01", "4100", "4200", "fd00"])
def test_a_partition_type_that_means_more_than_a_file_system(code: str, tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path / "disk.img", 40, (code, 32, ext4(tmp_path / "fs.img", 32)))
    whole(disk, "its type", 1)


def test_a_disk_that_firmware_raid_uses(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path / "disk.img", 40, ("8300", 32, ext4(tmp_path / "fs.img", 32)))
    assert area_of(survey_image(disk), 1).decision == "mapped"
    size = disk.stat().st_size
    # Intel's metadata lies in the last sector but one; the checksum is the sum of all its words.
    metadata = bytearray(512)
    metadata[:32] = b"Intel Raid ISM Cfg Sig. 1.3.00\0\0"
    struct.pack_into("<II", metadata, 36, 512, 1)
    metadata[56], metadata[57] = 1, 1
    words = struct.unpack("<128I", bytes(metadata))
    struct.pack_into("<I", metadata, 32, sum(words) & 0xFFFFFFFF)
    patch(disk, {size - 1024: bytes(metadata)})
    whole(disk, "partition table and looks like", 1)


def test_a_damaged_partition_table(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path / "disk.img", 40, ("8300", 32, ext4(tmp_path / "fs.img", 32)))
    patch(disk, {512 + 16: b"\0\0\0\0"})
    whole(disk, "primary partition table is damaged", 1)


def test_two_partition_tables_that_disagree(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path / "disk.img", 40, ("8300", 32, ext4(tmp_path / "fs.img", 32)))
    other = gpt_disk(tmp_path / "other.img", 40, ("8300", 30, None))
    with other.open("rb") as file:
        file.seek(-33 * 512, os.SEEK_END)
        patch(disk, {40 * MIB - 33 * 512: file.read()})
    whole(disk, "say different things", 1)


def test_partitions_that_overlap(tmp_path: Path) -> None:
    need("sfdisk")
    disk = empty_image(tmp_path / "disk.img", 40 * MIB)
    run("sfdisk", "-q", disk, stdin=b"label: dos\nstart=2048,size=65536,type=83\n")
    place(disk, ext4(tmp_path / "fs.img", 32), MIB)
    assert area_of(survey_image(disk), 1).decision == "mapped"
    patch(disk, {446 + 16: struct.pack("<B3xB3xII", 0, 0x83, 40_000, 30_000)})
    whole(disk, "overlaps", 1)


def test_a_hybrid_partition_table_that_overlaps(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path / "disk.img", 40, ("8300", 32, ext4(tmp_path / "fs.img", 32)))
    patch(disk, {446 + 16: struct.pack("<B3xB3xII", 0, 0x83, 40_000, 30_000)})
    whole(disk, "overlaps", 1)


# What was not left cleanly


def test_a_crashed_ext4_loses_nothing(tmp_path: Path) -> None:
    crashed(tmp_path, "ext4", ext4(tmp_path / "fs.img", 32), "noload")


def test_a_crashed_xfs_loses_nothing(tmp_path: Path) -> None:
    need("mkfs.xfs")
    image = empty_image(tmp_path / "fs.img", 320 * MIB)
    run("mkfs.xfs", "-q", image)
    crashed(tmp_path, "xfs", image, "norecovery,nouuid")


def test_a_crashed_btrfs_loses_nothing(tmp_path: Path) -> None:
    need("mkfs.btrfs")
    image = empty_image(tmp_path / "fs.img", 128 * MIB)
    run("mkfs.btrfs", "-q", image)
    crashed(tmp_path, "btrfs", image, "")


def crashed(tmp_path: Path, fstype: str, image: Path, _look: str) -> None:
    """Copy the image while files that were written and fsynced are only in its journal; survey and mount the copy."""
    crash = tmp_path / "crash.img"
    names = [f"mail-{index}" for index in range(20)]
    with mounted(image, tmp_path / "mnt") as root:
        (root / "before").write_bytes(content("before", 100_000))
        os.sync()
        for name in names:
            with (root / name).open("wb") as file:
                file.write(content(name, 30_000))
                os.fsync(file.fileno())
        run("cp", "--sparse=always", image, crash)
    found = survey_image(crash)
    area = area_of(found)
    assert (area.decision, area.free_bytes) == ("whole", 0), area.reason
    assert map_of(found).count == 0
    notices = notices_of(found)
    assert [notice.code for notice in notices] == ["unclean-filesystem"]
    assert "was not left cleanly" in notices[0].message
    assert "copied whole, its free space too" in notices[0].message
    assert "shut it down properly" in notices[0].action
    with mounted(rebuild(crash, map_of(found), tmp_path / "arrived.img"), tmp_path / "mnt"):
        for name in names:
            assert (tmp_path / "mnt" / name).read_bytes() == content(name, 30_000)


def test_counters_of_an_ext4_that_disagree(tmp_path: Path) -> None:
    image = ext4(tmp_path / "disk.img", 32, "-O", "^metadata_csum,^64bit")
    assert area_of(survey_image(image)).decision == "mapped"
    with image.open("r+b") as file:
        file.seek(1024 + 12)
        free = struct.unpack("<I", file.read(4))[0]
    patch(image, {1024 + 12: struct.pack("<I", free - 1)})
    whole(image, "superblock counts")


def test_a_bitmap_of_an_ext4_that_has_changed(tmp_path: Path) -> None:
    need("dumpe2fs")
    image = ext4(tmp_path / "disk.img", 32, "-O", "^metadata_csum,^uninit_bg")
    block = int(run("dumpe2fs", image).decode().split("Block bitmap at ")[1].split()[0])
    patch(image, {block * 1024 + 1000: b"\x0f"})
    whole(image, "its bitmap")


def test_a_bitmap_of_an_ext4_that_only_its_checksum_betrays(tmp_path: Path) -> None:
    image = ext4(tmp_path / "disk.img", 32)
    block = int(run("dumpe2fs", image).decode().split("Block bitmap at ")[1].split()[0])
    data = image.read_bytes()[block * 1024 : block * 1024 + 1024]
    assert (data[0], data[1000]) == (0xFF, 0)
    patch(image, {block * 1024: b"\xdf", block * 1024 + 1000: b"\x01"})
    whole(image, "Run e2fsck now")


def test_the_journal_of_an_ext4_that_is_not_empty(tmp_path: Path) -> None:
    image = ext4(tmp_path / "disk.img", 32, "-O", "^metadata_csum")
    need("debugfs")
    block = int(run("debugfs", "-R", "blocks <8>", image).split()[0])
    assert image.read_bytes()[block * 1024 : block * 1024 + 4] == b"\xc0\x3b\x39\x98"
    patch(image, {block * 1024 + 28: struct.pack(">I", 1)})
    whole(image, "journal is not empty")


def ntfs_image(path: Path) -> Path:
    need("mkfs.ntfs", "partclone.ntfs", "ntfs-3g.probe")
    run("mkfs.ntfs", "-q", "-F", empty_image(path, 32 * MIB))
    return path


def test_a_dirty_ntfs(tmp_path: Path) -> None:
    need("ntfsfix")
    image = ntfs_image(tmp_path / "disk.img")
    run("ntfsfix", image)  # makes Windows check it
    found = survey_image(image)
    assert area_of(found).decision == "whole"
    assert [notice.code for notice in found.notices] == ["unclean-filesystem"]
    assert "shutdown /s" in found.notices[0].action


def hibernated_ntfs(path: Path, scratch: Path) -> Path:
    need("ntfscp")
    ntfs_image(path)
    scratch.write_bytes(b"hibr" + bytes(8188))
    run("ntfscp", "-f", path, scratch, "/hiberfil.sys")
    return path


def test_a_hibernated_windows_keeps_all_disks_from_being_looked_at(tmp_path: Path) -> None:
    windows = hibernated_ntfs(tmp_path / "windows.img", tmp_path / "hiberfil.sys")
    other = ext4(tmp_path / "other.img", 32)
    found = survey(read_image_files([windows, other]))
    assert [source.free_map and source.free_map.count for source in found.sources] == [0, 0]
    assert [notice.code for notice in found.notices] == ["hibernated"]
    disks = [source.disk.free_map for source in found.sources]
    assert disks[0] is not None
    assert disks[1] is not None
    assert "hibernated or fast-started Windows" in disks[0].areas[0].reason
    assert disks[1].areas[0].reason == "a hibernated system keeps it open"
    assert found.sources[1].disk.used_bytes == 32 * MIB


def test_a_hibernated_linux_keeps_its_file_systems_from_being_looked_at(tmp_path: Path) -> None:
    need("mkswap")
    swap = empty_image(tmp_path / "swap.img", 8 * MIB)
    swap.chmod(0o600)
    run("mkswap", swap)
    patch(swap, {4086: b"S1SUSPEND\0"})
    disk = gpt_disk(tmp_path / "disk.img", 48, ("8300", 32, ext4(tmp_path / "fs.img", 32)), ("8200", 8, swap))
    found = survey_image(disk)
    assert map_of(found).count == 0
    assert area_of(found, 2).decision == "whole"
    assert [notice.code for notice in notices_of(found)] == ["hibernated"]


# What may go wrong with the tools


def test_a_missing_tool_costs_only_the_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = ext4(tmp_path / "disk.img", 32)
    tools_only = tmp_path / "bin"
    tools_only.mkdir()
    for name in ("choom", "unshare", "prlimit", "setpriv", "blkid"):
        found = shutil.which(name)
        assert found is not None
        (tools_only / name).symlink_to(found)
    tools_only.chmod(0o755)
    monkeypatch.setattr(tools, "_ENVIRONMENT", {"PATH": str(tools_only)})
    whole(image, "dumpe2fs")


def test_no_loop_device_costs_only_the_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = ext4(tmp_path / "disk.img", 32)
    monkeypatch.setitem(commands._ENVIRONMENT, "PATH", str(tmp_path))
    whole(image, "the tools cannot be given a device")


def test_a_slow_disk_costs_only_the_free_space(tmp_path: Path) -> None:
    image = ext4(tmp_path / "disk.img", 32)
    found = survey(read_image_files([image]), seconds=0.0)
    assert area_of(found).decision == "whole"
    assert "too long" in area_of(found).reason


def test_a_fault_of_our_own_costs_only_the_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_area: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setitem(survey_module._GATES, "ext4", broken)
    whole(ext4(tmp_path / "disk.img", 32), "ZeroDivisionError")


def test_a_disk_that_fails_in_an_unforeseen_way_is_sent_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise IndexError("oops")

    monkeypatch.setattr(survey_module, "_identify", broken)
    whole(ext4(tmp_path / "disk.img", 32), "IndexError")
    monkeypatch.setattr(survey_module, "_decide", broken)
    whole(ext4(tmp_path / "disk.img", 32), "IndexError")


def test_ranges_of_an_area_that_fails_late_are_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_order(_area: object) -> object:
        yield (1 * MIB, 2 * MIB)
        yield (1 * MIB, 3 * MIB)

    fs = ext4(tmp_path / "fs.img", 16)
    disk = gpt_disk(tmp_path / "disk.img", 48, ("8300", 16, fs), ("8300", 16, fs))
    before = map_of(survey_image(disk))
    monkeypatch.setitem(survey_module._GATES, "ext4", out_of_order)
    found = survey_image(disk)
    assert before.count > 0
    assert map_of(found).count == 0
    assert "out of order" in area_of(found, 2).reason


def test_no_device_or_node_is_left_behind(tmp_path: Path) -> None:
    image = ext4(tmp_path / "disk.img", 32)
    survey_image(image)
    assert run("losetup", "--associated", image) == b""
    assert not list(Path("/dev").glob(f".coldmig-survey-{os.getpid()}-*"))


def test_tools_have_no_privileges_and_cannot_write(tmp_path: Path) -> None:
    image = empty_image(tmp_path / "disk.img", MIB)
    with tools.sandbox(image, 0, MIB, float("inf")) as box:
        script = (
            "id -u; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; cut -d: -f1 -s /proc/net/dev;"
            " printf x 2>/dev/null >%s && echo written; head -c1 /etc/shadow 2>/dev/null && echo read"
        )
        with box.run("sh", "-c", script % box.device) as tool:
            said = tool.output().decode()
    assert said.split() == [
        "65534", "CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1", "lo",
    ]  # fmt: skip
    assert image.read_bytes() == bytes(MIB)
