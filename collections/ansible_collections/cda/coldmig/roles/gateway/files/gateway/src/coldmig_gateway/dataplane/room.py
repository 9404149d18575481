# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps a part of the staging file system free: the database often lies on it, and must never meet its end."""

from __future__ import annotations

import os
import time
from pathlib import Path

from coldmig_gateway.staging.errors import StagingFullError

_LEAST_RESERVE = 256 << 20
_LOOK_BYTES = 4 << 20
_LOOK_SECONDS = 0.25


class Room:
    """Says whether chunks may still be taken in. Looks at the file system every few megabytes."""

    def __init__(self, reserve: int | None) -> None:
        """``reserve`` are the bytes to be kept free; None: 256 MiB or a hundredth, whichever is more."""
        self._reserve = reserve
        self._looked = 0.0
        self._since = 0
        self._full = ""

    def check(self, staging: Path, size: int = 0) -> None:
        """To be called before ``size`` bytes are taken in. Raises StagingFullError below the low-water mark."""
        self._since += size
        now = time.monotonic()
        if self._since >= _LOOK_BYTES or now - self._looked >= _LOOK_SECONDS:
            self._looked, self._since = now, 0
            self._full = self._look(staging)
        if self._full:
            raise StagingFullError(self._full)

    def _look(self, staging: Path) -> str:
        """What is wrong, if anything."""
        while True:
            try:
                status = os.statvfs(staging)
                break
            except FileNotFoundError:
                staging = staging.parent
        free = status.f_bavail * status.f_frsize
        reserve = self._reserve
        if reserve is None:
            reserve = max(_LEAST_RESERVE, status.f_blocks * status.f_frsize // 100)
        if free >= reserve:
            return ""
        return f"{staging}: {free} bytes are free, copies go on when there are {reserve}"
