# SPDX-License-Identifier: GPL-3.0-or-later
"""What the front needs to know. Each limit is there because somebody could otherwise use up memory or sockets."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds; sizes in bytes, times in seconds."""

    connections: int = 512
    connections_per_address: int = 128
    head_bytes: int = 16 << 10
    head_seconds: float = 15.0
    keep_alive_seconds: float = 75.0
    stalled_seconds: float = 300.0
    """A body or an answer may take as long as it likes, but not stand still for longer than this."""
    body_bytes: int = 256 << 20
    batches_per_connection: int = 3
    """Batches (of a chunk or a little more) that one connection may have in verification."""
    batches: int = 32
    """… and all connections together."""
    unsynced_bytes: int = 64 << 20
    """A long body is made durable in steps of this size, so that a cut costs little."""
    rejected: int = 10_000
    """Refused chunks that an answer lists at most; ``have`` tells all that is missing."""
    staging_idle_seconds: float = 60.0
    verify_threads: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """Where the front listens, with which certificate, and where the control plane is. ``port`` 0 takes a free one."""

    host: str
    port: int
    certificate: Path
    key: Path
    control_socket: Path
    limits: Limits = field(default_factory=Limits)
