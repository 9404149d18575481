# SPDX-License-Identifier: GPL-3.0-or-later
"""How each file system is mounted for reading: with its journal replayed on an overlay, or with the journal left alone.

Mounting is always read-only; on an overlay the kernel may still write what the journal asks for, into memory.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Not a driver of the kernel: the program ntfs-3g mounts it.
NTFS = "ntfs"


@dataclass(frozen=True, slots=True)
class Way:
    """One try: the kernel's driver and its options."""

    driver: str
    options: str = ""


_REPLAY: dict[str, tuple[Way, ...]] = {
    "ext2": (Way("ext4"),),
    "ext3": (Way("ext4"),),
    "ext4": (Way("ext4"),),
    # "nouuid": a snapshot has the same identity as what it was made of.
    "xfs": (Way("xfs", "nouuid"), Way("xfs", "nouuid,norecovery")),
    "btrfs": (
        Way("btrfs", "subvolid=5"),
        Way("btrfs", "subvolid=5,degraded"),
        Way("btrfs", "subvolid=5,degraded,rescue=nologreplay"),
    ),
    "f2fs": (Way("f2fs"), Way("f2fs", "norecovery")),
    "reiserfs": (Way("reiserfs"), Way("reiserfs", "nolog")),
}
_NO_REPLAY: dict[str, tuple[Way, ...]] = {
    "ext2": (Way("ext4"),),
    "ext3": (Way("ext4", "noload"),),
    "ext4": (Way("ext4", "noload"),),
    "xfs": (Way("xfs", "nouuid,norecovery"),),
    "btrfs": (Way("btrfs", "subvolid=5,rescue=nologreplay"), Way("btrfs", "subvolid=5,rescue=nologreplay,degraded")),
    "f2fs": (Way("f2fs", "norecovery"),),
    "reiserfs": (Way("reiserfs", "nolog"),),
}
#: Those without a journal, or whose drivers do not touch it.
_EITHER: dict[str, tuple[Way, ...]] = {
    "vfat": (Way("vfat"),),
    "exfat": (Way("exfat"),),
    "jfs": (Way("jfs"),),
    "ufs": (Way("ufs", "ufstype=ufs2"), Way("ufs", "ufstype=44bsd")),
    NTFS: (Way(NTFS),),
}
MOUNTABLE = frozenset({*_REPLAY, *_EITHER})


def ways(fstype: str, *, replay: bool) -> tuple[Way, ...]:
    """What to try, in this order; empty for what cannot be mounted."""
    return _EITHER.get(fstype) or (_REPLAY if replay else _NO_REPLAY).get(fstype, ())
