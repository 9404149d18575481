# SPDX-License-Identifier: GPL-3.0-or-later
"""Room in the staging area. Sizes in bytes.

A copy may begin only when it fits even if nothing of it can be compressed, beside everything that was promised to the
others: a copy that stops after a day because the disk is full is worse than a refusal in the beginning.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from coldmig_wire.geometry import CHUNK, chunk_count

# Per chunk of 1 MiB: frame header (64) and grain table (64) in the pack, slot in the index (64).
_PER_CHUNK = 192
_PER_DISK = 2 * 4096  # headers of pack and index
_BITMAPS = 4  # bits per chunk of the disk
_SPREAD = 2  # what is used lies scattered, so it touches more chunks than it would fill
_LEAST_RESERVE = 256 << 20
_BASE = ".base-"  # in the names of files that are hard links to an earlier attempt's


@dataclass(frozen=True, slots=True)
class Space:
    """Size of the staging file system and what is free of it for the gateway."""

    total: int
    free: int


def needed_for(size: int, used: int | None = None) -> int:
    """The most that the copy of a disk of this size can occupy when ``used`` bytes of it (None: all) are copied."""
    chunks = chunk_count(size)
    touched = chunks
    if used is not None:
        size = min(size, used)
        touched = min(chunks, _SPREAD * -(-size // CHUNK))
    return size + touched * _PER_CHUNK + chunks * _BITMAPS // 8 + _PER_DISK


def reserve_for(total: int, setting: int | None) -> int:
    """What copies leave free of a file system of ``total`` bytes; ``setting`` None: a part of it."""
    return max(_LEAST_RESERVE, total // 100) if setting is None else setting


def measure(staging: Path, reserve: int | None = 0) -> Space:
    """Look at the file system of the staging directory, without the reserve (see ``reserve_for``)."""
    status = os.statvfs(staging)
    total, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    kept = reserve_for(total, reserve)
    return Space(total=max(0, total - kept), free=max(0, free - kept))


def staged(staging: Path, migration_id: str) -> int:
    """What the copy of one migration occupies already, without what it shares with earlier attempts."""
    return sum(size for name, size in _files(staging / migration_id) if _BASE not in name)


def held(staging: Path, migration_id: str, disk: int) -> int:
    """What an attempt holds of one disk, itself or shared: another attempt that shares it needs no room for it."""
    own, bases = f"disk-{disk}.pack", f"disk-{disk}{_BASE}"
    return sum(
        size
        for name, size in _files(staging / migration_id)
        if name == own or (name.startswith(bases) and name.endswith(".pack"))
    )


def unreserved(space: Space, reservations: Iterable[tuple[int, int]]) -> int:
    """Free space that nobody was promised; reservations are pairs (needed, occupied already)."""
    promised = sum(max(0, needed - occupied) for needed, occupied in reservations)
    return max(0, space.free - promised)


def _files(directory: Path) -> Iterable[tuple[str, int]]:
    """Names of the files there and what they occupy; nothing when there is no such directory (any more)."""
    found = []
    try:
        with os.scandir(directory) as files:
            for file in files:
                try:
                    found.append((file.name, file.stat(follow_symlinks=False).st_blocks * 512))
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        pass
    return found
