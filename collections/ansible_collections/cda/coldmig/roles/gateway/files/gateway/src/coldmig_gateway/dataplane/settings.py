# SPDX-License-Identifier: GPL-3.0-or-later
"""What the front needs to know. Each limit is there because somebody could otherwise use up memory or sockets."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds; sizes in bytes, times in seconds."""

    connections: int = 8192
    connections_per_address: int = 4096
    """Many agents may wait behind one address; a connection that waits costs some 25 KiB."""
    posts_per_migration: int = 16
    """Bodies of frames that are read at a time for one migration; more of its requests wait."""
    head_bytes: int = 16 << 10
    head_seconds: float = 15.0
    keep_alive_seconds: float = 75.0
    stalled_seconds: float = 300.0
    """A body or an answer may take as long as it likes, but not stand still for longer than this."""
    body_bytes: int = 256 << 20
    batches_per_connection: int = 3
    """Batches (of a chunk or a little more) that one connection may have in verification."""
    batches: int = field(default_factory=lambda: 2 * _threads() + 2)
    """… and all connections together: few, so that migrations take turns."""
    spare_buffers: int = 24
    """Buffers of a payload's size that are kept for the next one instead of being given back to the kernel."""
    unsynced_bytes: int = 64 << 20
    """A long body is made durable in steps of this size, so that a cut costs little."""
    rejected: int = 10_000
    """Refused chunks that an answer lists at most; ``have`` tells all that is missing."""
    staging_idle_seconds: float = 60.0
    verify_threads: int = field(default_factory=_threads)


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """Where the front listens, with which certificate, and where the control plane is. ``port`` 0 takes a free one.

    ``staging_reserve_bytes`` is what stays free on the staging file system; None: 256 MiB or a hundredth of it.
    """

    host: str
    port: int
    certificate: Path
    key: Path
    control_socket: Path
    limits: Limits = field(default_factory=Limits)
    staging_reserve_bytes: int | None = None
