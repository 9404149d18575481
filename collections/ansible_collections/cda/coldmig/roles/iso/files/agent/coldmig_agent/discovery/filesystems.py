# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies in a partition, by its signature: names as blkid uses them, plus what a signature alone tells.

Only a handful of small reads at fixed places; nothing is mounted and no size in the data is trusted.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from itertools import pairwise

from coldmig_agent.discovery import zfs
from coldmig_agent.discovery.tables import ReadAt
from coldmig_agent.text import clean, clean_bytes

_PAGE_SIZES = (4096, 8192, 16384, 65536)
_HIBERNATED = (b"S1SUSPEND\0", b"S2SUSPEND\0", b"ULSUSPEND\0", b"LINHIB0001")
_BITLOCKER_TO_GO = bytes.fromhex("3bd66749292ed84a")
_BCACHE_MAGIC = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
_BCACHEFS_MAGIC = bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")
_BCACHE_CACHES = frozenset({0, 3, 5})
_BCACHE_DIRTY = 2
_UFS_MAGICS = frozenset({0x19540119, 0x00011954})
_UFS_PLACES = (65536, 8192, 0, 262144)
_MD_MAGIC = struct.pack("<I", 0xA92B4EFC)


def _uuid(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw)) if len(raw) == 16 and any(raw) else ""


def _serial(raw: bytes) -> str:
    """A volume's serial number as DOS writes it."""
    return f"{raw[3]:02X}{raw[2]:02X}-{raw[1]:02X}{raw[0]:02X}" if len(raw) == 4 else ""


@dataclass(frozen=True, slots=True)
class Content:
    """Type and label of a file system or container. ``fstype`` is empty where nothing is known.

    ``unclean``: its journal holds changes. ``hibernated``: it holds the memory image of a sleeping Linux.
    ``uuid`` is written as blkid does. ``owner``: the computer that a ZFS pool says it belongs to. ``detail``: the role
    of a bcache device.
    """

    fstype: str = ""
    label: str = ""
    unclean: bool = False
    hibernated: bool = False
    uuid: str = ""
    owner: str = ""
    detail: str = ""


def _ext(block: bytes) -> Content | None:
    """ext2/3/4 superblock, 1024 bytes at 1024 (Documentation/filesystems/ext4/super.rst)."""
    if block[56:58] != b"\x53\xef":
        return None
    compat, incompat, ro_compat = struct.unpack_from("<III", block, 92)
    if incompat & 0x8:
        return Content("jbd")
    old = "ext3" if compat & 0x4 else "ext2"
    kind = "ext4" if ro_compat & ~0x7 or incompat & ~0x16 else old
    return Content(kind, clean_bytes(block[120:136]), unclean=bool(incompat & 0x4), uuid=_uuid(block[104:120]))


def _swap(read: ReadAt) -> Content | None:
    for page in _PAGE_SIZES:
        mark = read(page - 10, 10)
        if mark in {b"SWAPSPACE2", b"SWAP-SPACE", *_HIBERNATED}:
            names = read(1024 + 12, 32)
            return Content("swap", clean_bytes(names[16:]), hibernated=mark in _HIBERNATED, uuid=_uuid(names[:16]))
    return None


def _boot_sector(sector: bytes) -> Content | None:  # noqa: PLR0911 - one return per signature
    """File systems that begin with a PC boot sector."""
    if sector[3:11] == b"NTFS    ":
        return Content("ntfs", uuid=sector[72:80][::-1].hex().upper())
    if sector[3:11] == b"-FVE-FS-" or sector[424:432] == _BITLOCKER_TO_GO:
        return Content("BitLocker")
    if sector[3:11] == b"EXFAT   ":
        return Content("exfat", uuid=_serial(sector[100:104]))
    if sector[510:512] != b"\x55\xaa" or sector[0] not in {0xEB, 0xE9}:
        return None
    if sector[82:87] == b"FAT32":
        return Content("vfat", _fat_label(sector[71:82]), uuid=_serial(sector[67:71]))
    if sector[54:57] == b"FAT":
        return Content("vfat", _fat_label(sector[43:54]), uuid=_serial(sector[39:43]))
    return None


def _fat_label(raw: bytes) -> str:
    label = clean(raw.decode("cp437", "replace"))
    return "" if label == "NO NAME" else label


def _luks(head: bytes) -> Content | None:
    if head[:6] not in {b"LUKS\xba\xbe", b"SKUL\xba\xbe"}:
        return None
    version = struct.unpack_from(">H", head, 6)[0]
    return Content("crypto_LUKS", clean_bytes(head[24:72]) if version == 2 else "", uuid=clean_bytes(head[168:208], 40))


def _lvm(head: bytes) -> Content | None:
    for sector in range(4):
        start = sector * 512
        if head[start : start + 8] == b"LABELONE" and head[start + 24 : start + 32] == b"LVM2 001":
            raw = clean_bytes(head[start + 32 : start + 64], 32)
            cuts = (0, 6, 10, 14, 18, 22, 26, 32)
            return Content("LVM2_member", uuid="-".join(raw[a:b] for a, b in pairwise(cuts)))
    return None


def _md(read: ReadAt, head: bytes, size: int) -> Content | None:
    # Format 1.0 lies 8 KiB before the end, rounded down to 4 KiB; 0.90 in the last whole 64 KiB but one.
    ends = [end for end in ((size - 8192) // 4096 * 4096, size // 65536 * 65536 - 65536) if end > 0]
    for place in (0, 4096, *ends):
        block = head[:256] if place == 0 else read(place, 256)
        if block[:4] != _MD_MAGIC:
            continue
        if block[4:8] == b"\1\0\0\0":
            return Content("linux_raid_member", clean_bytes(block[32:64]), uuid=_uuid(block[16:32]))
        raw = b"".join(block[at : at + 4][::-1] for at in (20, 52, 56, 60))  # 0.90 keeps it in four words
        return Content("linux_raid_member", uuid=_uuid(raw))
    return None


def _bcache(read: ReadAt) -> Content | None:
    """Superblock at 4096 (drivers/md/bcache/bcache_ondisk.h): version, magic, uuids, label, flags."""
    block = read(4096, 128)
    if len(block) < 128 or block[24:40] not in {_BCACHE_MAGIC, _BCACHEFS_MAGIC}:
        return None
    if block[24:40] == _BCACHEFS_MAGIC:
        return Content("bcachefs", clean_bytes(block[72:104]), uuid=_uuid(block[56:72]))
    version, flags = struct.unpack_from("<Q", block, 16)[0], struct.unpack_from("<Q", block, 104)[0]
    if version in _BCACHE_CACHES:
        role = "a cache device"
    else:
        role = "a backing device with changes in its cache" if flags >> 61 & 3 == _BCACHE_DIRTY else "a backing device"
    return Content("bcache", clean_bytes(block[72:104]), uuid=_uuid(block[40:56]), detail=role)


def _ufs(read: ReadAt) -> Content | None:
    for place in _UFS_PLACES:
        block = read(place, 1376)
        if len(block) == 1376 and struct.unpack_from("<I", block, 1372)[0] in _UFS_MAGICS:
            first, second = struct.unpack_from("<II", block, 144)
            label = clean_bytes(block[680:712]) if struct.unpack_from("<I", block, 1372)[0] == 0x19540119 else ""
            return Content("ufs", label, uuid=f"{first:08x}{second:08x}" if first or second else "")
    return None


def _zfs(read: ReadAt, size: int) -> Content | None:
    label = zfs.read_label(read, size)
    return Content("zfs_member", label.pool, uuid=str(label.guid or ""), owner=label.host) if label else None


def probe(read: ReadAt, size: int) -> Content:  # noqa: PLR0911 - one return per signature
    """Look at the start (and, for RAID members, the end) of a partition of ``size`` bytes.

    Containers come first: a RAID-1 member also looks like the file system inside it.
    """
    head = read(0, 4096)
    if len(head) < 4096:
        return Content()
    for found in (_luks(head), _lvm(head), _md(read, head, size), _bcache(read), _swap(read)):
        if found is not None:
            return found
    if head[:8] == b"dmvdo001":
        return Content("vdo", uuid=_uuid(head[40:56]))
    if head[:4] == b"XFSB":
        return Content("xfs", clean_bytes(head[108:120]), uuid=_uuid(head[32:48]))
    ext = _ext(head[1024:2048])
    if ext is not None:
        return ext
    btrfs = read(0x10000, 0x400)
    if btrfs[0x40:0x48] == b"_BHRfS_M":
        label, changed = clean_bytes(btrfs[0x12B:0x22B]), any(btrfs[0x60:0x68])  # log_root
        return Content("btrfs", label, unclean=changed, uuid=_uuid(btrfs[0x20:0x30]))
    boot = _boot_sector(head[:512])
    if boot is not None:
        return boot
    if head[1024:1028] == b"\x10\x20\xf5\xf2":
        return Content("f2fs", uuid=_uuid(head[1132:1148]))
    if head[:4] == b"hsqs":
        return Content("squashfs")
    if read(32769, 5) == b"CD001":
        return Content("iso9660", clean_bytes(read(32808, 32)))
    return _ufs(read) or _zfs(read, size) or Content()
