# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies in a partition, by its signature: names as blkid uses them, plus what a signature alone tells.

Only a handful of small reads at fixed places; nothing is mounted and no size in the data is trusted.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from coldmig_agent.discovery.tables import ReadAt
from coldmig_agent.text import clean, clean_bytes

_PAGE_SIZES = (4096, 8192, 16384, 65536)
_HIBERNATED = (b"S1SUSPEND\0", b"S2SUSPEND\0", b"ULSUSPEND\0", b"LINHIB0001")
_BITLOCKER_TO_GO = bytes.fromhex("3bd66749292ed84a")
_ZFS_UBERBLOCKS = 128 << 10
_ZFS_MAGIC = (struct.pack("<Q", 0x00BAB10C), struct.pack(">Q", 0x00BAB10C))
_MD_MAGIC = struct.pack("<I", 0xA92B4EFC)


@dataclass(frozen=True, slots=True)
class Content:
    """Type and label of a file system or container. ``fstype`` is empty where nothing is known.

    ``unclean``: its journal holds changes. ``hibernated``: it holds the memory image of a sleeping Linux.
    """

    fstype: str = ""
    label: str = ""
    unclean: bool = False
    hibernated: bool = False


def _ext(block: bytes) -> Content | None:
    """ext2/3/4 superblock, 1024 bytes at 1024 (Documentation/filesystems/ext4/super.rst)."""
    if block[56:58] != b"\x53\xef":
        return None
    compat, incompat, ro_compat = struct.unpack_from("<III", block, 92)
    if incompat & 0x8:
        return Content("jbd")
    old = "ext3" if compat & 0x4 else "ext2"
    kind = "ext4" if ro_compat & ~0x7 or incompat & ~0x16 else old
    return Content(kind, clean_bytes(block[120:136]), unclean=bool(incompat & 0x4))


def _swap(read: ReadAt) -> Content | None:
    for page in _PAGE_SIZES:
        mark = read(page - 10, 10)
        if mark in {b"SWAPSPACE2", b"SWAP-SPACE"}:
            return Content("swap", clean_bytes(read(1024 + 28, 16)))
        if mark in _HIBERNATED:
            return Content("swap", clean_bytes(read(1024 + 28, 16)), hibernated=True)
    return None


def _boot_sector(sector: bytes) -> Content | None:  # noqa: PLR0911 - one return per signature
    """File systems that begin with a PC boot sector."""
    if sector[3:11] == b"NTFS    ":
        return Content("ntfs")
    if sector[3:11] == b"-FVE-FS-" or sector[424:432] == _BITLOCKER_TO_GO:
        return Content("BitLocker")
    if sector[3:11] == b"EXFAT   ":
        return Content("exfat")
    if sector[510:512] != b"\x55\xaa" or sector[0] not in {0xEB, 0xE9}:
        return None
    if sector[82:87] == b"FAT32":
        return Content("vfat", _fat_label(sector[71:82]))
    if sector[54:57] == b"FAT":
        return Content("vfat", _fat_label(sector[43:54]))
    return None


def _fat_label(raw: bytes) -> str:
    label = clean(raw.decode("cp437", "replace"))
    return "" if label == "NO NAME" else label


def _luks(head: bytes) -> Content | None:
    if head[:6] not in {b"LUKS\xba\xbe", b"SKUL\xba\xbe"}:
        return None
    version = struct.unpack_from(">H", head, 6)[0]
    return Content("crypto_LUKS", clean_bytes(head[24:72]) if version == 2 else "")


def _lvm(head: bytes) -> Content | None:
    for sector in range(4):
        start = sector * 512
        if head[start : start + 8] == b"LABELONE" and head[start + 24 : start + 32] == b"LVM2 001":
            return Content("LVM2_member")
    return None


def _md(read: ReadAt, head: bytes, size: int) -> Content | None:
    if _MD_MAGIC in {head[:4], read(4096, 4)}:
        return Content("linux_raid_member")
    # Format 1.0 lies 8 KiB before the end, rounded down to 4 KiB; 0.90 in the last whole 64 KiB but one.
    ends = ((size - 8192) // 4096 * 4096, size // 65536 * 65536 - 65536)
    if any(read(end, 4) == _MD_MAGIC for end in ends if end > 0):
        return Content("linux_raid_member")
    return None


def probe(read: ReadAt, size: int) -> Content:  # noqa: PLR0911 - one return per signature
    """Look at the start (and, for RAID members, the end) of a partition of ``size`` bytes.

    Containers come first: a RAID-1 member also looks like the file system inside it.
    """
    head = read(0, 4096)
    if len(head) < 4096:
        return Content()
    for found in (_luks(head), _lvm(head), _md(read, head, size), _swap(read)):
        if found is not None:
            return found
    if head[:4] == b"XFSB":
        return Content("xfs", clean_bytes(head[108:120]))
    ext = _ext(head[1024:2048])
    if ext is not None:
        return ext
    btrfs = read(0x10000, 0x400)
    if btrfs[0x40:0x48] == b"_BHRfS_M":
        return Content("btrfs", clean_bytes(btrfs[0x12B:0x22B]), unclean=any(btrfs[0x60:0x68]))  # log_root
    boot = _boot_sector(head[:512])
    if boot is not None:
        return boot
    if head[1024:1028] == b"\x10\x20\xf5\xf2":
        return Content("f2fs")
    if head[:4] == b"hsqs":
        return Content("squashfs")
    if read(32769, 5) == b"CD001":
        return Content("iso9660", clean_bytes(read(32808, 32)))
    uberblocks = read(_ZFS_UBERBLOCKS, 128 << 10)
    if any(uberblocks[at : at + 8] in _ZFS_MAGIC for at in range(0, len(uberblocks), 1024)):
        return Content("zfs_member")
    return Content()
