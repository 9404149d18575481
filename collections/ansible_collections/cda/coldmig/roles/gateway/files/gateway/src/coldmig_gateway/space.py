# SPDX-License-Identifier: GPL-3.0-or-later
"""Room in the staging area. Sizes in bytes.

A migration is let in only when its disks fit even if nothing on them can be compressed, beside everything that was
promised to the others: a copy that stops after a day because the disk is full is worse than a refusal in the beginning.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from coldmig_wire.geometry import chunk_count

# Per chunk of 1 MiB: frame header (64) and grain table (64) in the pack, slot in the index (64).
_PER_CHUNK = 192
_PER_DISK = 2 * 4096  # headers of pack and index


@dataclass(frozen=True, slots=True)
class Space:
    """Size of the staging file system and what is free of it for the gateway."""

    total: int
    free: int


def needed_for(size: int) -> int:
    """The most that the copy of a disk of this size can occupy."""
    return size + chunk_count(size) * _PER_CHUNK + _PER_DISK


def measure(staging: Path) -> Space:
    """Look at the file system of the staging directory."""
    status = os.statvfs(staging)
    return Space(total=status.f_blocks * status.f_frsize, free=status.f_bavail * status.f_frsize)


def staged(staging: Path, migration_id: str) -> int:
    """What the copy of one migration occupies already."""
    try:
        with os.scandir(staging / migration_id) as files:
            return sum(file.stat(follow_symlinks=False).st_blocks * 512 for file in files)
    except FileNotFoundError:
        return 0


def unreserved(space: Space, reservations: Iterable[tuple[int, int]]) -> int:
    """Free space that nobody was promised; reservations are pairs (needed, occupied already)."""
    promised = sum(max(0, needed - occupied) for needed, occupied in reservations)
    return max(0, space.free - promised)
