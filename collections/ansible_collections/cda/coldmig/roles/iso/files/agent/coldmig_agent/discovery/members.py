# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures of RAID sets that mainboards and old controllers write, as blkid names them.

Such a signature lies at the end of the whole disk, beside a partition table that looks like any other. Places and magic
numbers: libblkid/src/superblocks of util-linux.
"""

from __future__ import annotations

import struct

from coldmig_agent.discovery.tables import ReadAt

_SECTOR = 512
_ISW = b"Intel Raid ISM Cfg Sig. "
_DDF = struct.pack(">I", 0xDE11DE11)
_PROMISE = b"Promise Technology, Inc."
#: Sectors before the end at which Promise's controllers are known to write.
_PROMISE_SECTORS = (63, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087)
_SILICON_MAGIC = 0x2F000000
_HIGHPOINT_37X = {0x5A7816F0, 0x5A7816FD}
_HIGHPOINT_45X = {0x5A7816F3, 0x5A7816FD}
_ADAPTEC_MAGIC = bytes.fromhex("37fc4d1e")

#: What people call them.
NAMES = {
    "isw_raid_member": "Intel Rapid Storage",
    "ddf_raid_member": "DDF",
    "lsi_mega_raid_member": "LSI MegaRAID",
    "nvidia_raid_member": "NVIDIA",
    "promise_fasttrack_raid_member": "Promise FastTrak",
    "silicon_medley_raid_member": "Silicon Image",
    "hpt37x_raid_member": "HighPoint",
    "hpt45x_raid_member": "HighPoint",
    "jmicron_raid_member": "JMicron",
    "adaptec_raid_member": "Adaptec HostRAID",
    "via_raid_member": "VIA",
}


def _word(data: bytes, offset: int) -> int:
    return int(struct.unpack_from("<I", data, offset)[0]) if offset + 4 <= len(data) else 0


def _silicon(last: bytes) -> bool:
    """Its magic alone is weak: the sum of the first 160 words must come out as the metadata says."""
    if _word(last, 0x60) != _SILICON_MAGIC:
        return False
    *words, checksum = struct.unpack_from("<160H", last)
    return bool(-sum(words) & 0xFFFF == checksum)


def _jmicron(last: bytes) -> bool:
    """``JM`` and a sum over the first 64 words that must be 0 or 1."""
    return last[:2] == b"JM" and last[0x30] <= 5 and sum(struct.unpack_from("<64H", last)) & 0xFFFF in {0, 1}


def _via(last: bytes) -> bool:
    """0xAA55, a version up to 2, and the sum of the first 50 bytes in the 51st."""
    return last[:2] == b"\x55\xaa" and last[2] <= 2 and sum(last[:50]) & 0xFF == last[50] and any(last[3:50])


def _nvidia(block: bytes) -> bool:
    """Vendor, its own length of 30 words, and a sum of all of them of zero."""
    return block[:8] == b"NVIDIA  " and _word(block, 8) == 30 and sum(struct.unpack_from("<30I", block)) % 2**32 == 0


def fake_raid(read: ReadAt, size: int) -> str:
    """The format of the set that this whole disk belongs to; empty where there is none."""
    sectors = size // _SECTOR
    if sectors < 4096:
        return ""

    def back(count: int) -> bytes:
        return read((sectors - count) * _SECTOR, _SECTOR).ljust(_SECTOR, b"\0")

    last, second = back(1), back(2)
    seen = {
        "isw_raid_member": second.startswith(_ISW),
        "ddf_raid_member": _DDF in {last[:4], back(257)[:4]},
        "lsi_mega_raid_member": last.startswith(b"$XIDE$"),
        "nvidia_raid_member": _nvidia(second),
        "promise_fasttrack_raid_member": any(back(count).startswith(_PROMISE) for count in _PROMISE_SECTORS),
        "hpt37x_raid_member": _word(read(9 * _SECTOR, _SECTOR), 32) in _HIGHPOINT_37X,
        "hpt45x_raid_member": _word(back(11), 0) in _HIGHPOINT_45X,
        "adaptec_raid_member": last.startswith(_ADAPTEC_MAGIC) and last[256:260] == b"DPTM",
        "silicon_medley_raid_member": _silicon(last),
        "jmicron_raid_member": _jmicron(last),
        "via_raid_member": _via(last),
    }
    return next((name for name, found in seen.items() if found), "")
