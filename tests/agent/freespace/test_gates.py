# SPDX-License-Identifier: GPL-3.0-or-later
"""Every condition under which free space is believed, one by one: what breaks it gives the whole area."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, need, run
from disk_lab import patch

from coldmig_agent.freespace import btrfs, exfat, ext, fat, ntfs, swap, xfs
from coldmig_agent.freespace.area import Area, Doubt, Hibernated, Unclean
from coldmig_agent.freespace.crc32c import crc32c
from coldmig_agent.freespace.tools import Sandbox

NO_TOOLS = Sandbox(Path("/nonexistent"), float("inf"))


Image = bytes | bytearray
Change = tuple[int, bytes]


def area_over(data: Image, change: Change = (0, b"")) -> Area:
    """An area that shows the data with some bytes changed; nothing is copied."""
    at, new = change

    def read(offset: int, length: int) -> bytes:
        piece = bytearray(data[offset : offset + length])
        first, last = max(at, offset), min(at + len(new), offset + len(piece))
        if first < last:
            piece[first - offset : last - offset] = new[first - at : last - at]
        return bytes(piece)

    return Area(len(data), read, NO_TOOLS)


def made(path: Path, megabytes: int, *mkfs: str) -> bytearray:
    need(mkfs[0])
    run(*mkfs, empty_image(path, megabytes * MIB))
    return bytearray(path.read_bytes())


def le(kind: str, value: int) -> bytes:
    return struct.pack("<" + kind, value)


def be(kind: str, value: int) -> bytes:
    return struct.pack(">" + kind, value)


Judge = Callable[[Area], object]


def refused(judge: Judge, data: Image, change: Change, kind: type[Doubt], words: str) -> None:
    """The data pass, and with the change (offset, bytes) they raise exactly ``kind`` with these words."""
    judge(area_over(data))
    with pytest.raises(Doubt, match=words) as caught:
        judge(area_over(data, change))
    assert caught.type is kind


@pytest.fixture(scope="module")
def ext_image(tmp_path_factory: pytest.TempPathFactory) -> bytearray:
    return made(tmp_path_factory.mktemp("ext") / "fs.img", 16, "mkfs.ext4", "-q")


@pytest.mark.parametrize(
    ("offset", "value", "kind", "words"),
    [
        (56, b"\0\0", Doubt, "magic"),
        (76, le("I", 2), Doubt, "revision"),
        (76, le("I", 0), Doubt, "revision 0"),
        (58, le("H", 0), Unclean, "state"),
        (58, le("H", 3), Unclean, "state"),
        (58, le("H", 5), Unclean, "state"),
        (96, le("I", 0x2C2 | 0x4), Unclean, "journal holds changes"),
        (100, le("I", 0x46B | 0x10000), Unclean, "deleted while they were open"),
        (232, le("I", 12), Unclean, "deleted while they were open"),
        (404, le("I", 1), Unclean, "errors were recorded"),
        (96, le("I", 0x2C2 | 0x8), Doubt, "journal of another"),
        (96, le("I", 0x2C2 | 0x1), Doubt, "unknown incompatible features 0x1"),
        (96, le("I", 0x2C2 | 0x100), Doubt, "unknown incompatible features 0x100"),
        (96, le("I", 0x2C2 | 0x80000000), Doubt, "unknown incompatible"),
        (100, le("I", 0x46B | 0x200), Doubt, "unknown read-only compatible features 0x200"),
        (100, le("I", 0x46B | 0x4000), Doubt, "unknown read-only compatible"),
        (92, le("I", 0x3C | 0x100), Doubt, "unknown compatible features 0x100"),
        (224, le("I", 0), Doubt, "journal lies elsewhere"),
        (228, le("I", 0x801), Doubt, "journal lies elsewhere"),
        (24, le("I", 7), Doubt, "block size"),
        (28, le("I", 4), Doubt, "cluster size"),
        (20, le("I", 2), Doubt, "first block"),
        (32, le("I", 0) + le("I", 0), Doubt, "blocks in a group"),
        (32, le("I", 8200) + le("I", 8200), Doubt, "blocks in a group"),
        (4, le("I", 16 * 1024 + 1), Doubt, "the partition has"),
        (336, le("I", 1), Doubt, "the partition has"),
        (12, le("I", 17_000), Doubt, "free"),
    ],
)
def test_ext_superblock(ext_image: bytearray, offset: int, value: bytes, kind: type[Doubt], words: str) -> None:
    refused(
        lambda area: ext.check_superblock(area.read(1024, 1024), area.size_bytes),
        ext_image,
        (1024 + offset, value),
        kind,
        words,
    )


@pytest.fixture(scope="module")
def xfs_image(tmp_path_factory: pytest.TempPathFactory) -> bytearray:
    return made(tmp_path_factory.mktemp("xfs") / "fs.img", 320, "mkfs.xfs", "-q")


@pytest.mark.parametrize(
    ("offset", "value", "kind", "words"),
    [
        (0, b"XFSC", Doubt, "magic"),
        (100, be("H", 0xB4A6), Doubt, "version 6"),
        (100, be("H", 0xB4A5 | 0x200), Doubt, "version flags 0x200"),
        (126, b"\1", Unclean, "not created completely"),
        (48, be("Q", 0), Doubt, "another device"),
        (16, be("Q", 5), Doubt, "realtime"),
        (24, be("Q", 5), Doubt, "realtime"),
        (4, be("I", 3000), Doubt, "block size"),
        (4, be("I", 1 << 20), Doubt, "block size"),
        (102, be("H", 100), Doubt, "sector size"),
        (84, be("I", 0), Doubt, "groups"),
        (88, be("I", 5), Doubt, "groups"),
        (88, be("I", 0xFFFFFFFF), Doubt, "groups"),
        (8, be("Q", 81_921), Doubt, "must fit together|the partition has"),
        (144, be("Q", 90_000), Doubt, "free"),
        (208, be("I", 1), Doubt, "unknown compatible features 0x1"),
        (212, be("I", 0x10), Doubt, "unknown read-only compatible features 0x10"),
        (216, be("I", 0x10), Unclean, "repair"),
        (216, be("I", 0x100), Doubt, "unknown incompatible features 0x100"),
        (216, be("I", 0x40), Doubt, "unknown incompatible features 0x40"),
        (220, be("I", 1), Doubt, "unknown incompatible log features"),
        (200, be("I", 0x18A | 0x10) * 2, Doubt, "features2 0x10"),
        (204, be("I", 0x2), Doubt, "features2"),
    ],
)
def test_xfs_superblock(xfs_image: bytearray, offset: int, value: bytes, kind: type[Doubt], words: str) -> None:
    refused(
        lambda area: xfs.check_superblock(area.read(0, 512), area.size_bytes), xfs_image, (offset, value), kind, words
    )


def test_an_xfs_larger_than_its_partition_is_refused(xfs_image: bytearray) -> None:
    with pytest.raises(Doubt, match="the partition has"):
        xfs.check_superblock(bytes(xfs_image[:512]), 320 * MIB - 512)


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (0, b"XAGX", "header of allocation group 1"),
        (4, be("I", 2), "header of allocation group 1"),
        (8, be("I", 2), "header of allocation group 1"),
        (12, be("I", 77), "header of allocation group 1"),
        (52, be("I", 0xFFFFFFF), "free blocks of"),
        (52, be("I", 5), "allocation groups"),
        (48, be("I", 5), "allocation groups"),
        (60, be("I", 5), "allocation groups"),
    ],
)
def test_xfs_allocation_groups(xfs_image: bytearray, offset: int, value: bytes, words: str) -> None:
    layout = xfs.check_superblock(bytes(xfs_image[:512]), 320 * MIB)
    header = layout.group_blocks * layout.block_bytes + layout.sector_bytes
    refused(lambda area: xfs.check_groups(area, layout), xfs_image, (header + offset, value), Doubt, words)


@pytest.mark.parametrize(
    ("said", "kind"),
    [(b"state: <DIRTY>", Unclean), (b"", Doubt), (b"state: <CLEAN> state: <DIRTY>", Doubt), (b"state: <OLD>", Doubt)],
)
def test_xfs_log(said: bytes, kind: type[Doubt]) -> None:
    xfs.check_log(b"log tail: 2 head: 2 state: <CLEAN>")
    with pytest.raises(Doubt) as caught:
        xfs.check_log(b"log tail: 2 head: 2 " + said)
    assert caught.type is kind


@pytest.fixture(scope="module")
def btrfs_image(tmp_path_factory: pytest.TempPathFactory) -> bytearray:
    return made(tmp_path_factory.mktemp("btrfs") / "fs.img", 128, "mkfs.btrfs", "-q")


@pytest.mark.parametrize(
    ("offset", "value", "kind", "words"),
    [
        (96, le("Q", 1 << 20), Unclean, "log holds changes"),
        (56, le("Q", 1 << 32), Doubt, "flags"),
        (136, le("Q", 2), Doubt, "2 devices"),
        (201, le("Q", 2), Doubt, "number 2"),
        (196, le("H", 1), Doubt, "type 1"),
        (172, le("Q", 1), Doubt, "unknown compatible features"),
        (180, le("Q", 8), Doubt, "unknown read-only compatible features 0x8"),
        (188, le("Q", 0x361 | 0x80), Doubt, "unknown incompatible features 0x80"),
        (188, le("Q", 0x361 | 0x1000), Doubt, "unknown incompatible features 0x1000"),
        (188, le("Q", 1 << 40), Doubt, "unknown incompatible"),
        (144, le("I", 512), Doubt, "sectors of 512"),
        (112, le("Q", 129 * MIB), Doubt, "the partition has"),
        (209, le("Q", 64 * MIB), Doubt, "the partition has"),
        (120, le("Q", 1 << 60), Doubt, "the partition has"),
    ],
)
def test_btrfs_superblock(btrfs_image: bytearray, offset: int, value: bytes, kind: type[Doubt], words: str) -> None:
    refused(
        lambda area: btrfs.check_superblock(area.read(65536, btrfs.SIZE), area.size_bytes),
        btrfs_image,
        (65536 + offset, value),
        kind,
        words,
    )


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (64 << 10 | 64, b"_BHRfS_X", "superblock at 65536 is damaged"),
        (64 << 20 | 64, b"\0" * 8, "superblock at 67108864 is damaged"),
        (64 << 20 | 48, le("Q", 65536), "superblock at 67108864 is damaged"),
        (64 << 20 | 299, b"label", "checksum of the superblock at 67108864"),
    ],
)
def test_btrfs_copies_of_the_superblock(btrfs_image: bytearray, offset: int, value: bytes, words: str) -> None:
    refused(btrfs.newest_superblock, btrfs_image, (offset, value), Doubt, words)


def test_a_btrfs_whose_copy_is_newer_is_refused(btrfs_image: bytearray) -> None:
    copy = bytearray(btrfs_image[64 << 20 : (64 << 20) + btrfs.SIZE])
    copy[72:80] = le("Q", 1000)
    copy[:4] = le("I", crc32c(bytes(copy[32:])))
    refused(btrfs.newest_superblock, btrfs_image, (64 << 20, bytes(copy)), Doubt, "a copy 1000")


def test_a_btrfs_without_room_for_a_superblock_is_refused() -> None:
    with pytest.raises(Doubt, match="no superblock"):
        btrfs.newest_superblock(area_over(bytes(65_536)))


def test_crc32c_of_the_known_text() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@pytest.fixture(scope="module")
def ntfs_image(tmp_path_factory: pytest.TempPathFactory) -> bytearray:
    return made(tmp_path_factory.mktemp("ntfs") / "fs.img", 32, "mkfs.ntfs", "-q", "-F")


def judge_ntfs(area: Area) -> object:
    layout = ntfs.check_boot_sector(area.read(0, 512), area.size_bytes)
    ntfs.check_volume(area, layout)
    ntfs.check_shadow_copies(area)
    return list(ntfs.free_clusters(area, layout, ntfs.find_bitmap(area, layout)))


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (3, b"MSDOS5.0", "no NTFS boot sector"),
        (510, b"\0\0", "no NTFS boot sector"),
        (11, le("H", 500), "no sizes"),
        (13, b"\3", "power of two"),
        (13, b"\0", "no sizes"),
        (64, b"\0", "file records|cluster"),
        (64, b"\x85", "file records"),
        (40, le("Q", 0), "the partition has"),
        (40, le("Q", 65537), "the partition has"),
        (48, le("Q", 1 << 50), "the partition has"),
        (0x1E00 + 48, le("Q", 4096), "shadow copies"),
    ],
)
def test_ntfs_boot_area(ntfs_image: bytearray, offset: int, value: bytes, words: str) -> None:
    refused(judge_ntfs, ntfs_image, (offset, value), Doubt, words)


@pytest.mark.parametrize("cluster", [b"\xf7\0\0\0\0\0\0\0"])
def test_an_ntfs_with_its_mft_outside_is_refused(ntfs_image: bytearray, cluster: bytes) -> None:
    refused(judge_ntfs, ntfs_image, (48, cluster[::-1]), Doubt, "the partition has")


def record(data: Image, number: int) -> int:
    layout = ntfs.check_boot_sector(bytes(data[:512]), len(data))
    return layout.mft_offset + number * layout.record_bytes


def attribute(data: Image, number: int, kind: int) -> int:
    start = record(data, number)
    at = start + int.from_bytes(data[start + 20 : start + 22], "little")
    while data[at : at + 4] != le("I", kind):
        at += int.from_bytes(data[at + 4 : at + 8], "little")
    return at


@pytest.mark.parametrize(
    ("flags", "kind", "words"),
    [(0x1, Unclean, "dirty"), (0x8001, Unclean, "dirty"), (0x2, Doubt, "flags 0x2"), (0x4000, Doubt, "flags 0x4000")],
)
def test_ntfs_volume_flags(ntfs_image: bytearray, flags: int, kind: type[Doubt], words: str) -> None:
    data = ntfs_image
    at = attribute(data, 3, 0x70)
    value = at + struct.unpack_from("<H", data, at + 20)[0]
    refused(judge_ntfs, data, (value + 10, le("H", flags)), kind, words)
    refused(judge_ntfs, data, (value + 8, b"\1\2"), Doubt, "version 1.2")


def test_an_ntfs_without_volume_information(ntfs_image: bytearray) -> None:
    at = attribute(ntfs_image, 3, 0x70)
    refused(judge_ntfs, ntfs_image, (at + 8, b"\1"), Doubt, "no volume information")
    refused(judge_ntfs, ntfs_image, (at + 20, le("H", 60_000)), Doubt, "volume information is damaged")


@pytest.mark.parametrize(
    ("number", "offset", "value", "words"),
    [
        (3, 0, b"BAAD", "record 3 is damaged"),
        (3, 6, le("H", 9), "record 3 is damaged"),
        (3, 4, le("H", 600), "record 3 is damaged"),
        (3, 22, le("H", 0), "record 3 is not in use"),
        (6, 24, le("I", 70_000), "record 6 is not in use"),
        (6, 32, le("Q", 5), "record 6 is not in use"),
        (6, 510, b"\xff\xff", "record 6 was not written completely"),
        (6, 20, le("H", 1000), "attributes are damaged"),
    ],
)
def test_ntfs_system_files(ntfs_image: bytearray, number: int, offset: int, value: bytes, words: str) -> None:
    data = ntfs_image
    refused(judge_ntfs, data, (record(data, number) + offset, value), Doubt, words)


@pytest.mark.parametrize(
    ("kind", "offset", "value", "words"),
    [
        (0x10, 0, le("I", 0x20), "spread over several records"),
        (0x10, 4, le("I", 0), "attributes are damaged"),
        (0x10, 4, le("I", 0x7FFFFFF8), "attributes are damaged"),
        (0x80, 0, le("I", 0x90), "not where it must be"),
        (0x80, 8, b"\0", "not where it must be"),
        (0x80, 12, le("H", 1), "bytes for"),
        (0x80, 16, le("Q", 1), "bytes for"),
        (0x80, 48, le("Q", 8), "bytes for"),
        (0x80, 48, le("Q", 1 << 40) * 2, "bytes for"),
        (0x80, 56, le("Q", 8), "bytes for"),
        (0x80, 64, b"\0", "ends early"),
        (0x80, 64, b"\x11\x7f", "outside of it"),
        (0x80, 64, b"\xff", "outside of it"),
        (0x80, 64, b"\x01", "outside of it"),
    ],
)
def test_ntfs_cluster_bitmap(ntfs_image: bytearray, kind: int, offset: int, value: bytes, words: str) -> None:
    data = ntfs_image
    refused(judge_ntfs, data, (attribute(data, 6, kind) + offset, value), Doubt, words)


@pytest.mark.parametrize(("code", "kind"), [(14, Hibernated), (15, Unclean), (12, Doubt), (None, Doubt), (-9, Doubt)])
def test_what_ntfs_3g_says(code: int | None, kind: type[Doubt]) -> None:
    ntfs.check_probe(0, "")
    with pytest.raises(Doubt) as caught:
        ntfs.check_probe(code, "ntfs-3g.probe failed")
    assert caught.type is kind


@pytest.fixture(scope="module", params=["16", "32"])
def fat_image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytearray]:
    path = tmp_path_factory.mktemp("fat") / "fs.img"
    return request.param, made(path, 40, "mkfs.vfat", "-s", "1" if request.param == "32" else "8", "-F", request.param)


def judge_fat(area: Area) -> object:
    return fat.count_free(area, fat.check_boot_sector(area.read(0, 512), area.size_bytes))


def test_fat_conditions(fat_image: tuple[str, bytearray]) -> None:
    kind, image = fat_image
    data = bytes(image)
    layout = fat.check_boot_sector(bytes(data[:512]), len(data))
    size = layout.entry_bytes
    top = 8 * size - 1 if kind == "16" else 27
    fat_start = layout.fat_offset
    mark = int.from_bytes(data[fat_start + size : fat_start + 2 * size], "little")
    letter = "H" if kind == "16" else "I"

    def both(value: int) -> bytes:
        """The whole region from the first FAT's second entry to the second FAT's, with another mark in both."""
        region = bytearray(data[fat_start + size : fat_start + layout.fat_bytes + 2 * size])
        region[:size] = region[-size:] = le(letter, value)
        return bytes(region)

    cases: list[tuple[int, bytes, type[Doubt], str]] = [
        (65 if kind == "32" else 37, b"\1", Unclean, "dirty"),
        (65 if kind == "32" else 37, b"\2", Unclean, "dirty"),
        (fat_start + size, both(mark & ~(1 << top)), Unclean, "dirty or damaged"),
        (fat_start + size, both(mark & ~(1 << top - 1)), Unclean, "dirty or damaged"),
        (fat_start + layout.fat_bytes + 100 * size, b"\7", Doubt, "two FATs differ"),
        (11, le("H", 100), Doubt, "no sizes"),
        (13, b"\3", Doubt, "no sizes"),
        (16, b"\3", Doubt, "the partition has"),
        (16, b"\0", Doubt, "the partition has"),
        (14, le("H", 0), Doubt, "the partition has"),
        (19, le("H", 0) if kind == "32" else le("H", 50), Doubt, "the partition has|FAT12"),
        (32, le("I", 0xFFFFFFFF), Doubt, "the partition has"),
    ]
    if kind == "32":
        cases[-2] = (32, le("I", 4000), Doubt, "FAT12")
        cases += [
            (40, le("H", 0x80), Doubt, "not mirrored"),
            (42, le("H", 1), Doubt, "not mirrored"),
            (36, le("I", 10), Doubt, "too small"),
            (13, b"\2", Doubt, "neither"),
        ]
    else:
        cases[-1] = (19, le("H", 0) + b"\xf8" + data[22:32] + le("I", 0xFFFFFFFF), Doubt, "the partition has")
        cases.append((22, le("H", 10), Doubt, "too small"))
    for offset, value, expected, words in cases:
        refused(judge_fat, data, (offset, value), expected, words)


def test_fat12_is_refused(tmp_path: Path) -> None:
    data = bytes(made(tmp_path / "fs.img", 4, "mkfs.vfat", "-F", "12"))
    with pytest.raises(Doubt, match="FAT12"):
        judge_fat(area_over(data))


@pytest.fixture(scope="module")
def exfat_image(tmp_path_factory: pytest.TempPathFactory) -> bytearray:
    return made(tmp_path_factory.mktemp("exfat") / "fs.img", 32, "mkfs.exfat")


def judge_exfat(area: Area) -> object:
    layout = exfat.check_boot_sector(area.read(0, 512), area.size_bytes)
    exfat.check_boot_region(area)
    return exfat.count_free(area, layout)


@pytest.mark.parametrize(
    ("offset", "value", "kind", "words"),
    [
        (3, b"NTFS    ", Doubt, "no exFAT boot sector"),
        (20, b"\1", Doubt, "no exFAT boot sector"),
        (104, le("H", 0x101), Doubt, "revision"),
        (110, b"\2", Doubt, "2 FATs"),
        (106, le("H", 2), Unclean, "dirty"),
        (106, le("H", 4), Unclean, "dirty"),
        (106, le("H", 1), Doubt, "flags 0x1"),
        (106, le("H", 16), Doubt, "flags 0x10"),
        (108, b"\7", Doubt, "no sizes"),
        (109, b"\x20", Doubt, "no sizes"),
        (72, le("Q", 1 << 40), Doubt, "the partition has"),
        (92, le("I", 0xFFFFFFFF), Doubt, "the partition has"),
        (84, le("I", 1), Doubt, "FAT is too small"),
        (96, le("I", 1 << 20), Doubt, "checksum"),
        (120, b"x", Doubt, "checksum"),
    ],
)
def test_exfat_boot_sector(exfat_image: bytearray, offset: int, value: bytes, kind: type[Doubt], words: str) -> None:
    refused(judge_exfat, exfat_image, (offset, value), kind, words)


def test_exfat_allocation_bitmap(exfat_image: bytearray) -> None:
    data = exfat_image
    layout = exfat.check_boot_sector(bytes(data[:512]), len(data))
    root = layout.offset_of(layout.root_cluster)
    entry = next(at for at in range(root, root + 1024, 32) if data[at] == 0x81)
    cluster = struct.unpack_from("<I", data, entry + 20)[0]
    refused(judge_exfat, data, (entry, b"\x85"), Doubt, "not where it must be")
    refused(judge_exfat, data, (entry + 1, b"\1"), Doubt, "bytes for")
    refused(judge_exfat, data, (entry + 24, le("Q", 1 << 50)), Doubt, "bytes for")
    refused(judge_exfat, data, (entry + 20, le("I", 0xFFFFFF)), Doubt, "refers to cluster")
    refused(judge_exfat, data, (layout.fat_offset + 4 * cluster, le("I", 0)), Doubt, "one piece")


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({4086: b"S1SUSPEND\0"}, Hibernated, "hibernated"),
        ({4086: b"S2SUSPEND\0"}, Hibernated, "hibernated"),
        ({4086: b"ULSUSPEND\0"}, Hibernated, "hibernated"),
        ({4086: b"LINHIB0001"}, Hibernated, "hibernated"),
        ({4086: b"SWAP-SPACE"}, Doubt, "no signature"),
        ({4086: b"\0" * 10}, Doubt, "no signature"),
        ({8182: b"SWAPSPACE2"}, Doubt, "more than one"),
        ({1024: le("I", 2)}, Doubt, "version 2"),
        ({1028: le("I", 1 << 30)}, Doubt, "too large"),
        ({1028: le("I", 0)}, Doubt, "0 pages"),
    ],
)
def test_swap(tmp_path: Path, changes: dict[int, bytes], kind: type[Doubt], words: str) -> None:
    need("mkswap")
    image = empty_image(tmp_path / "swap.img", 8 * MIB)
    image.chmod(0o600)
    run("mkswap", image)
    assert list(swap.free_ranges(area_over(image.read_bytes()))) == [(65536, 8 * MIB)]
    patch(image, changes)
    with pytest.raises(Doubt, match=words) as caught:
        list(swap.free_ranges(area_over(image.read_bytes())))
    assert caught.type is kind
