# SPDX-License-Identifier: GPL-3.0-or-later
"""Members of RAID sets, pools and caches: what is made here, blkid names in the same way."""

from __future__ import annotations

import random
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, need, run

from coldmig_agent.discovery import members, zfs
from coldmig_agent.discovery.filesystems import Content, probe
from coldmig_agent.discovery.tables import ReadAt

SIZE = 16 * MIB
SECTOR = 512


def reader(data: bytes | bytearray) -> ReadAt:
    return lambda offset, length: bytes(data[offset : offset + length]) if offset >= 0 else b""


def at_end(sectors: int, content: bytes) -> dict[int, bytes]:
    return {SIZE - sectors * SECTOR: content}


def ddf() -> bytes:
    block = bytearray(b"\xff" * 512)
    block[:4] = bytes.fromhex("de11de11")
    block[4:8] = b"\xff" * 4
    struct.pack_into(">QQ", block, 96, 0, 0)
    struct.pack_into(">I", block, 4, zlib.crc32(block))
    return bytes(block)


def silicon() -> bytes:
    block = bytearray(512)
    struct.pack_into("<I", block, 0x60, 0x2F000000)
    struct.pack_into("<H", block, 0x110, 128)
    struct.pack_into("<H", block, 0x13E, -sum(struct.unpack_from("<159H", block)) & 0xFFFF)
    return bytes(block)


def nvidia() -> bytes:
    words = [*struct.unpack("<2I", b"NVIDIA  "), 30, 0, 100, *[0] * 25]
    words[3] = -sum(words) & 0xFFFFFFFF
    return struct.pack("<30I", *words)


def via() -> bytes:
    block = bytearray(51)
    block[:4] = b"\x55\xaa\x01\x07"
    block[50] = sum(block[:50]) & 0xFF
    return bytes(block)


def jmicron() -> bytes:
    block = bytearray(128)
    block[:4] = b"JM\x01\x00"
    block[0x30] = 1
    struct.pack_into("<H", block, 4, -sum(struct.unpack("<64H", block)) & 0xFFFF)
    return bytes(block)


def adaptec() -> bytes:
    block = bytearray(512)
    block[:4] = bytes.fromhex("37fc4d1e")
    block[256:260] = b"DPTM"
    return bytes(block)


SETS: dict[str, dict[int, bytes]] = {
    "isw_raid_member": at_end(2, b"Intel Raid ISM Cfg Sig. 1.3.00"),
    "ddf_raid_member": at_end(1, ddf()),
    "lsi_mega_raid_member": at_end(1, b"$XIDE$"),
    "nvidia_raid_member": at_end(2, nvidia()),
    "promise_fasttrack_raid_member": at_end(63, b"Promise Technology, Inc."),
    "hpt37x_raid_member": {9 * SECTOR + 32: bytes.fromhex("f016785a")},
    "hpt45x_raid_member": at_end(11, bytes.fromhex("f316785a")),
    "adaptec_raid_member": at_end(1, adaptec()),
    "silicon_medley_raid_member": at_end(1, silicon()),
    "jmicron_raid_member": at_end(1, jmicron()),
    "via_raid_member": at_end(1, via()),
}


def image(path: Path, parts: dict[int, bytes]) -> Path:
    empty_image(path, SIZE)
    with path.open("r+b") as file:
        for offset, content in parts.items():
            file.seek(offset)
            file.write(content)
    return path


def blkid(path: Path, field: str = "TYPE") -> str:
    need("blkid")
    done = subprocess.run(["blkid", "-p", "-o", "value", "-s", field, path], capture_output=True, check=False)
    return done.stdout.decode().strip()


@pytest.mark.parametrize("name", SETS)
def test_a_member_is_named_as_blkid_names_it(tmp_path: Path, name: str) -> None:
    path = image(tmp_path / "disk.img", SETS[name])
    assert blkid(path) == name
    assert members.fake_raid(reader(path.read_bytes()), SIZE) == name
    assert name in members.NAMES


@pytest.mark.parametrize("name", ["nvidia_raid_member", "silicon_medley_raid_member", "jmicron_raid_member"])
def test_a_weak_mark_with_a_wrong_checksum_is_no_member(tmp_path: Path, name: str) -> None:
    ((offset, content),) = SETS[name].items()
    broken = bytearray(content)
    broken[20] ^= 4
    path = image(tmp_path / "disk.img", {offset: bytes(broken)})
    assert members.fake_raid(reader(path.read_bytes()), SIZE) == ""


def test_disks_of_any_size_and_noise_are_no_members() -> None:
    chance = random.Random(1)
    for size in (0, 512, 4096, MIB, 2 * MIB, SIZE):
        assert members.fake_raid(reader(bytes(size)), size) == ""
        assert members.fake_raid(lambda _offset, _length: b"", size) == ""
    for _ in range(20):
        noise = chance.randbytes(4 * MIB)
        assert members.fake_raid(reader(noise), len(noise)) == ""


# --- identities as blkid writes them


@pytest.mark.parametrize(
    ("megabytes", "command"),
    [
        (16, ["mkfs.ext4", "-q"]),
        (320, ["mkfs.xfs", "-q"]),
        (128, ["mkfs.btrfs", "-q"]),
        (16, ["mkfs.vfat"]),
        (64, ["mkfs.vfat", "-F", "32"]),
        (16, ["mkfs.ntfs", "-q", "-F"]),
        (16, ["mkfs.exfat"]),
        (8, ["mkswap"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_file_system_has_the_identity_that_blkid_shows(tmp_path: Path, megabytes: int, command: list[str]) -> None:
    need(command[0])
    path = empty_image(tmp_path / "fs.img", megabytes * MIB)
    run(*command, path)
    data = path.read_bytes()
    found = probe(reader(data), len(data))
    assert (found.fstype, found.uuid) == (blkid(path), blkid(path, "UUID"))


def test_a_physical_volume_has_the_identity_that_lvm_shows(tmp_path: Path) -> None:
    identity = "aBcDeF-1234-5678-90ab-cdef-GHIJ-klmnop"
    head = bytes(512) + b"LABELONE" + bytes(16) + b"LVM2 001" + identity.replace("-", "").encode() + bytes(8192)
    assert probe(reader(head), len(head)) == Content("LVM2_member", uuid=identity)


@pytest.mark.parametrize("version", [b"\1\0\0\0", b"\0\0\0\0"], ids=["1.2", "0.90"])
def test_an_array_has_the_identity_that_blkid_shows(tmp_path: Path, version: bytes) -> None:
    block = bytearray(4096)
    block[:8] = bytes.fromhex("fc4e2ba9") + version
    if version[0]:
        block[16:32] = bytes(range(16))
        block[32:38] = b"host:0"
        struct.pack_into("<Q", block, 144, 8)  # super_offset in sectors
    else:
        struct.pack_into("<I", block, 8, 90)
        for offset, word in ((20, 0x01020304), (52, 0x05060708), (56, 0x090A0B0C), (60, 0x0D0E0F10)):
            struct.pack_into("<I", block, offset, word)
    offset = 4096 if version[0] else SIZE - 65536
    path = image(tmp_path / "member.img", {offset: bytes(block)})
    data = path.read_bytes()
    found = probe(reader(data), len(data))
    assert (found.fstype, found.uuid) == ("linux_raid_member", blkid(path, "UUID"))
    assert found.label == ("host:0" if version[0] else "")


def bcache(version: int, flags: int = 0) -> bytes:
    block = bytearray(4096)
    struct.pack_into("<QQ", block, 8, 8, version)
    block[24:40] = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
    block[40:56] = bytes(range(16))
    struct.pack_into("<Q", block, 104, flags)
    return bytes(block)


@pytest.mark.parametrize(
    ("version", "flags", "role"),
    [
        (0, 0, "a cache device"),
        (3, 2 << 61, "a cache device"),
        (1, 1 << 61, "a backing device"),
        (4, 2 << 61, "a backing device with changes in its cache"),
    ],
)
def test_the_two_sides_of_bcache_are_told_apart(version: int, flags: int, role: str) -> None:
    data = bytes(4096) + bcache(version, flags) + bytes(8192)
    found = probe(reader(data), len(data))
    assert (found.fstype, found.detail) == ("bcache", role)


@pytest.mark.parametrize(("place", "magic"), [(8192, 0x00011954), (65536, 0x19540119)], ids=["UFS1", "UFS2"])
def test_file_systems_of_the_bsds_are_named(tmp_path: Path, place: int, magic: int) -> None:
    block = bytearray(1376)
    struct.pack_into("<II", block, 144, 0x5F000000, 0xABCD)
    struct.pack_into("<I", block, 1372, magic)
    path = image(tmp_path / "ufs.img", {place: bytes(block)})
    data = path.read_bytes()
    found = probe(reader(data), len(data))
    assert (found.fstype, found.uuid) == ("ufs", "5f0000000000abcd")
    assert blkid(path) == "ufs"


# --- ZFS


def xdr_text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack(">I", len(raw)) + raw + bytes(-len(raw) % 4)


def pair(name: str, kind: int, value: bytes) -> bytes:
    body = xdr_text(name) + struct.pack(">II", kind, 1) + value
    return struct.pack(">II", len(body) + 8, 64) + body


def number(name: str, value: int) -> bytes:
    return pair(name, 8, struct.pack(">Q", value))


def name_values(*pairs: bytes) -> bytes:
    return bytes([1, 1, 0, 0]) + struct.pack(">II", 0, 1) + b"".join(pairs) + bytes(8)


POOL = name_values(
    number("version", 5000),
    pair("name", 9, xdr_text("tank")),
    number("state", 0),
    number("pool_guid", 1234567890123456789),
    number("hostid", 7),
    pair("hostname", 9, xdr_text("filer1")),
    pair("vdev_tree", 19, name_values(number("guid", 1), pair("name", 9, xdr_text("not the pool")))),
)


def zfs_member(area: bytes, label: int = 0) -> dict[int, bytes]:
    """A label with uberblocks; ``label`` 2 is the first of the two at the end."""
    start = (0, 256 << 10, SIZE - (512 << 10), SIZE - (256 << 10))[label]
    uberblocks = b"".join(struct.pack("<QQ", 0x00BAB10C, 5000).ljust(1024, b"\0") for _ in range(128))
    return {start + (16 << 10): area, start + (128 << 10): uberblocks}


@pytest.mark.parametrize("label", [0, 1, 2, 3])
def test_pool_and_computer_are_read_from_any_label(tmp_path: Path, label: int) -> None:
    data = image(tmp_path / "zfs.img", zfs_member(POOL, label)).read_bytes()
    found = probe(reader(data), SIZE)
    assert found == Content("zfs_member", "tank", uuid="1234567890123456789", owner="filer1")


def test_a_member_with_a_damaged_label_is_still_a_member(tmp_path: Path) -> None:
    data = image(tmp_path / "zfs.img", zfs_member(b"\xff" * 4096)).read_bytes()
    assert probe(reader(data), SIZE) == Content("zfs_member")


def test_a_label_without_an_uberblock_is_what_a_former_pool_left(tmp_path: Path) -> None:
    data = image(tmp_path / "zfs.img", {16 << 10: POOL}).read_bytes()
    assert probe(reader(data), SIZE) == Content()


@pytest.mark.parametrize(
    "area",
    [
        b"",
        b"\x01\x01\x00\x00",
        name_values(struct.pack(">III", 0xFFFFFFFF, 0, 4) + b"name" * 100),
        name_values(struct.pack(">III", 0, 0, 0) * 1000),
        name_values(struct.pack(">III", 24, 0, 0xFFFFFFFC) + bytes(100)),
        name_values(pair("name", 9, struct.pack(">I", 0xFFFFFFFF) + b"x")),
        name_values(*[number(f"n{n}", n) for n in range(5000)]),
    ],
)
def test_hostile_labels_end(area: bytes) -> None:
    found = zfs.parse(area)
    assert found is None or len(found.pool) <= 128


def _flipped(chance: random.Random) -> bytes:
    broken = bytearray(POOL)
    for _ in range(chance.randrange(1, 10)):
        broken[chance.randrange(len(broken))] = chance.randrange(256)
    return bytes(broken)


def _cut(chance: random.Random) -> bytes:
    return POOL[: chance.randrange(len(POOL))]


@pytest.mark.parametrize("damage", [_flipped, _cut])
def test_damaged_labels_neither_fail_nor_hang(damage: Callable[[random.Random], bytes]) -> None:
    chance = random.Random(9)
    for _ in range(1000):
        zfs.parse(damage(chance))
