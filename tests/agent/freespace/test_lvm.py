# SPDX-License-Identifier: GPL-3.0-or-later
"""Linear logical volumes that LVM itself made, and every condition under which they are believed."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, need, place, run
from disk_lab import attached, digests, files_with_a_past, map_of, mounted, patch, rebuild, survey_image

from coldmig_agent.freespace import lvm
from coldmig_agent.freespace.area import Doubt

pytestmark = pytest.mark.usefixtures("loop_devices")

PV_MIB = 220
EXTENT = 4 * MIB


def lvm_command(device: str, *command: str) -> None:
    """LVM without device-mapper, udev or anything of this machine's configuration."""
    settings = (
        f'devices {{ filter=["a|^{device}$|","r|.*|"] use_devicesfile=0 }} backup {{ backup=0 archive=0 }}'
        " activation { udev_sync=0 udev_rules=0 } global { event_activation=0 }"
    )
    run(command[0], "--driverloaded", "n", "-q", "--config", settings, *command[1:])


@pytest.fixture(scope="module")
def volume_group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A physical volume with vg/root (ext4 with a past), vg/swap, vg/split in two pieces and vg/data (empty)."""
    need("pvcreate", "lvcreate", "mkfs.ext4", "mkswap")
    directory = tmp_path_factory.mktemp("lvm")
    image = empty_image(directory / "pv.img", PV_MIB * MIB)
    with attached(image) as device:
        lvm_command(device, "pvcreate", device)
        lvm_command(device, "vgcreate", "vg", device)
        for name, size in (("root", 64), ("swap", 32), ("split", 16), ("data", 24)):
            lvm_command(device, "lvcreate", "-an", "-Zn", "-Wn", "-n", name, "-L", f"{size}M", "vg")
        lvm_command(device, "lvextend", "-L", "+8M", "vg/split")
    root = empty_image(directory / "root.img", 64 * MIB)
    run("mkfs.ext4", "-q", root)
    with mounted(root, directory / "mnt"):
        files_with_a_past(directory / "mnt", 12)
    swap = empty_image(directory / "swap.img", 32 * MIB)
    swap.chmod(0o600)
    run("mkswap", swap)
    place(image, root, MIB)
    place(image, swap, MIB + 16 * EXTENT)
    return image


def areas(image: Path) -> dict[str, tuple[str, str | None]]:
    """Name of the volume → decision and file system."""
    found = {}
    for area in map_of(survey_image(image)).areas:
        name = area.reason.partition(":")[0].removeprefix("volume ")
        found[name] = (area.decision, area.fstype)
    return found


def test_file_systems_in_linear_volumes_are_mapped(volume_group: Path) -> None:
    assert areas(volume_group) == {
        "vg/root": ("mapped", "ext4"),
        "vg/swap": ("mapped", "swap"),
        "vg/split": ("whole", None),
        "vg/data": ("whole", None),
    }


def test_only_what_lies_in_mapped_volumes_is_left_out(volume_group: Path) -> None:
    inside = [(MIB, MIB + 16 * EXTENT), (MIB + 16 * EXTENT, MIB + 24 * EXTENT)]
    free_map = map_of(survey_image(volume_group))
    assert free_map.free_bytes > 60 * MIB
    for start, stop in free_map.ranges():
        assert any(first + 65536 <= start < stop <= last for first, last in inside)


def test_a_volume_group_arrives_with_its_files(volume_group: Path, tmp_path: Path) -> None:
    need("sgdisk")
    disk = empty_image(tmp_path / "disk.img", (PV_MIB + 4) * MIB)
    run("sgdisk", "-n1:4096:+220M", "-t1:8e00", disk)
    place(disk, volume_group, 2 * MIB)
    found = survey_image(disk)
    assert {area.partition for area in map_of(found).areas} == {1}
    arrived = rebuild(disk, map_of(found), tmp_path / "arrived.img")
    files = {}
    for image in (disk, arrived):
        part = tmp_path / "root.img"
        with image.open("rb") as source:
            source.seek(3 * MIB)
            part.write_bytes(source.read(64 * MIB))
        run("e2fsck", "-fn", part)
        with mounted(part, tmp_path / "mnt", "ro,noload"):
            files[image] = digests(tmp_path / "mnt")
    assert files[arrived] == files[disk] != {}
    with disk.open("rb") as first, arrived.open("rb") as second:
        assert first.read(3 * MIB) == second.read(3 * MIB), "tables, label and metadata"


def test_a_dirty_file_system_in_a_volume_is_named(volume_group: Path, tmp_path: Path) -> None:
    image = tmp_path / "pv.img"
    run("cp", "--sparse=always", volume_group, image)
    with image.open("rb") as file:
        file.seek(MIB + 1024 + 96)
        incompatible = struct.unpack("<I", file.read(4))[0]
    patch(image, {MIB + 1024 + 96: struct.pack("<I", incompatible | 0x4)})
    found = survey_image(image)
    assert [notice.code for notice in found.notices] == ["unclean-filesystem"]
    assert "volume vg/root (ext4)" in found.notices[0].message
    assert areas(image)["vg/swap"] == ("mapped", "swap")


def test_a_hibernated_linux_in_a_volume_stops_everything(volume_group: Path, tmp_path: Path) -> None:
    image = tmp_path / "pv.img"
    run("cp", "--sparse=always", volume_group, image)
    patch(image, {MIB + 16 * EXTENT + 4086: b"S1SUSPEND\0"})
    found = survey_image(image)
    assert map_of(found).count == 0
    assert [notice.code for notice in found.notices] == ["hibernated"]


def read_volumes(data: bytes) -> list[lvm.LogicalVolume]:
    return lvm.linear_volumes(lambda offset, length: data[offset : offset + length], PV_MIB * MIB)


@pytest.fixture(scope="module")
def head(volume_group: Path) -> bytes:
    """Label and metadata."""
    with volume_group.open("rb") as file:
        return file.read(MIB)


def crc(data: bytes) -> int:
    return zlib.crc32(data, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def with_text(head: bytes, old: str, new: str) -> bytes:
    """The same with another metadata text, checksums and all."""
    offset, length = struct.unpack_from("<QQ", head, 4096 + 40)
    text = head[4096 + offset : 4096 + offset + length]
    assert old.encode() in text, text.decode()
    text = text.replace(old.encode(), new.encode(), 1)
    changed = bytearray(head)
    changed[4096 + offset : 4096 + offset + len(text)] = text
    struct.pack_into("<QI", changed, 4096 + 48, len(text), crc(text))
    struct.pack_into("<I", changed, 4096, crc(bytes(changed[4100 : 4096 + 512])))
    return bytes(changed)


def test_volumes_and_their_places(head: bytes) -> None:
    found = {volume.name: volume for volume in read_volumes(head)}
    assert list(found) == ["vg/root", "vg/swap", "vg/split", "vg/data"]
    assert (found["vg/root"].start_bytes, found["vg/root"].size_bytes, found["vg/root"].pieces) == (MIB, 64 * MIB, 1)
    assert found["vg/split"].pieces == 2
    assert read_volumes(with_text(head, "vg {", "vg{")) == list(found.values())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('["RESIZEABLE", "READ", "WRITE"]', '["RESIZEABLE", "READ", "WRITE", "EXPORTED"]', "volume group has status"),
        ('["RESIZEABLE", "READ", "WRITE"]\nflags = []', '["READ"]\nflags = ["X"]', "flags"),
        ('format = "lvm2"', 'format = "lvm1"', "old format"),
        ("max_lv = 0", 'max_lv = 0\nlock_type = "sanlock"', "shared"),
        ("pv0 {", "pv1 {\n}\npv0 {", "2 physical volumes"),
        ('["ALLOCATABLE"]', '["ALLOCATABLE", "MISSING"]', "physical volume has status"),
        ("pe_count = 54", "pe_count = 55", "55 extents"),
        ("extent_size = 8192", "extent_size = 0", "extents of 0"),
        ("extent_size = 8192", "", "no number extent_size"),
        ('["READ", "WRITE", "VISIBLE"]', '["READ", "WRITE"]', "hidden"),
        ('["READ", "WRITE", "VISIBLE"]', '["READ", "WRITE", "VISIBLE", "PVMOVE"]', "PVMOVE"),
        ('type = "striped"', 'type = "snapshot"', r"not a plain linear one \(snapshot\)"),
        ('type = "striped"', 'type = "thin-pool"', "not a plain linear one"),
        ("stripe_count = 1", "stripe_count = 2", "not a plain linear one"),
        ('"pv0", 0', '"pv9", 0', "not a plain linear one"),
        ('"pv0", 0', '"pv0", 0, "pv0", 5', "not a plain linear one"),
        ('"pv0", 0', '"pv0", "0"', "does not fit"),
        ('"pv0", 0', '"pv0", 50', "does not fit"),
        ('"pv0", 0', '"pv0", 4', "overlap"),
        ("start_extent = 0", "start_extent = 1", "does not fit"),
        ("extent_count = 16", "extent_count = 0", "does not fit"),
        ("stripe_count = 1", 'stripe_count = 1\norigin = "x"', "not a plain linear one"),
        ("segment_count = 1", "segment_count = 2", "not a plain linear one"),
        ("segment_count = 1", "segment_count = 99999999", "segments"),
        ("seqno =", "id =", "twice"),
        ("version = 1", "version = 2", "not that of a volume group"),
        ('contents = "Text Format Volume Group"', 'contents = "x"', "not that of a volume group"),
        ("vg {", "vg [", "cannot be read"),
        ("vg {", "vg {{", "cannot be read"),
        ("vg {", "} vg {", "cannot be read"),
        ("max_lv = 0", "max_lv = [[[[1]]]", "cannot be read"),
        ("max_lv = 0", "max_lv = -", "cannot be read"),
        ("max_lv = 0", "max_lv = \x01", "cannot be read"),
        ("max_lv = 0", 'max_lv = "', "cannot be read"),
        ("max_lv = 0", "a { b { c { d { e { f { g { h { i = 1 } } } } } } } }", "cannot be read"),
    ],
)
def test_metadata_that_is_not_plain_is_refused(head: bytes, old: str, new: str, words: str) -> None:
    with pytest.raises(Doubt, match=words):
        read_volumes(with_text(head, old, new))


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (512, b"LABELTWO", "0 labels"),
        (1024, b"LABELONE", "2 labels"),
        (512 + 8, b"\2", "label of LVM is damaged"),
        (512 + 33, b"xyz", "label of LVM is damaged"),
        (4096 + 10, b"y", "header of LVM's metadata is damaged"),
    ],
)
def test_a_damaged_physical_volume_is_refused(head: bytes, offset: int, value: bytes, words: str) -> None:
    changed = bytearray(head)
    changed[offset : offset + len(value)] = value
    with pytest.raises(Doubt, match=words):
        read_volumes(bytes(changed))


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (40, struct.pack("<Q", 1 << 40), "bytes at"),
        (40, struct.pack("<Q", 0), "bytes at"),
        (48, struct.pack("<Q", 1 << 40), "bytes at"),
        (48, struct.pack("<Q", 40), "checksum of LVM's metadata"),
        (56, struct.pack("<I", 7), "checksum of LVM's metadata"),
        (60, struct.pack("<I", 1), "kept elsewhere"),
        (64, struct.pack("<Q", 4096), "being changed"),
        (20, struct.pack("<I", 2), "header of LVM's metadata"),
        (24, struct.pack("<Q", 8192), "header of LVM's metadata"),
    ],
)
def test_a_metadata_area_that_is_not_settled_is_refused(head: bytes, offset: int, value: bytes, words: str) -> None:
    changed = bytearray(head)
    changed[4096 + offset : 4096 + offset + len(value)] = value
    struct.pack_into("<I", changed, 4096, crc(bytes(changed[4100 : 4096 + 512])))
    with pytest.raises(Doubt, match=words):
        read_volumes(bytes(changed))


def test_metadata_of_another_physical_volume_is_refused(head: bytes) -> None:
    at = 512 + struct.unpack_from("<I", head, 512 + 20)[0]
    changed = bytearray(head)
    changed[at : at + 4] = b"abcd"
    struct.pack_into("<I", changed, 512 + 16, crc(bytes(changed[512 + 20 : 1024])))
    with pytest.raises(Doubt, match="another physical volume"):
        read_volumes(bytes(changed))


def test_metadata_that_goes_around_the_ring(head: bytes) -> None:
    offset, length = struct.unpack_from("<QQ", head, 4096 + 40)
    size = struct.unpack_from("<Q", head, 4096 + 32)[0]
    text = head[4096 + offset : 4096 + offset + length]
    changed = bytearray(head)
    changed[4096 + size - 512 : 4096 + size] = text[:512]
    changed[4096 + 512 : 4096 + 512 + length - 512] = text[512:]
    struct.pack_into("<Q", changed, 4096 + 40, size - 512)
    struct.pack_into("<I", changed, 4096, crc(bytes(changed[4100 : 4096 + 512])))
    assert read_volumes(bytes(changed)) == read_volumes(head)
