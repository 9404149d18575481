# SPDX-License-Identifier: GPL-3.0-or-later
"""How a disk is cut: chunks of 1 MiB, grains of 64 KiB inside a chunk; the last of each may be short."""

from __future__ import annotations

CHUNK = 1 << 20
GRAIN = 1 << 16
GRAINS_PER_CHUNK = CHUNK // GRAIN


def chunk_count(size_bytes: int) -> int:
    """Number of chunks of a disk of ``size_bytes`` bytes."""
    if size_bytes < 1:
        raise ValueError(f"size_bytes={size_bytes}: a disk has at least one byte")
    return -(-size_bytes // CHUNK)


def chunk_length(chunk: int, size_bytes: int) -> int:
    """Bytes of chunk number ``chunk``: 1 MiB, or what is left for the disk's last chunk."""
    if not 0 <= chunk < chunk_count(size_bytes):
        raise ValueError(f"chunk={chunk}: the disk has chunks 0 to {chunk_count(size_bytes) - 1}")
    return min(CHUNK, size_bytes - chunk * CHUNK)


def grain_count(raw_length: int) -> int:
    """Number of grains of a chunk of ``raw_length`` bytes."""
    return -(-raw_length // GRAIN)
