# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps a part of the staging file system free: the database often lies on it, and must never meet its end."""

from __future__ import annotations

import os
import time
from pathlib import Path

from coldmig_gateway.staging.errors import StagingFullError

_LEAST_RESERVE = 256 << 20
_LOOK_SECONDS = 0.2


class Room:
    """Says whether chunks may still be taken in. Looks at a file system a few times a second at most."""

    def __init__(self, reserve: int | None) -> None:
        """``reserve`` are the bytes to be kept free; None: 256 MiB or a hundredth, whichever is more."""
        self._reserve = reserve
        self._seen: dict[Path, tuple[float, int, int]] = {}

    def check(self, staging: Path) -> None:
        """Raises StagingFullError below the low-water mark."""
        free, reserve = self._look(staging)
        if free < reserve:
            raise StagingFullError(f"{staging}: {free} bytes are free, copies go on when there are {reserve}")

    def _look(self, staging: Path) -> tuple[int, int]:
        now = time.monotonic()
        seen = self._seen.get(staging)
        if seen is not None and now - seen[0] < _LOOK_SECONDS:
            return seen[1:]
        place = staging
        while not place.exists() and place != place.parent:
            place = place.parent
        status = os.statvfs(place)
        free = status.f_bavail * status.f_frsize
        reserve = self._reserve
        if reserve is None:
            reserve = max(_LEAST_RESERVE, status.f_blocks * status.f_frsize // 100)
        self._seen[staging] = now, free, reserve
        return free, reserve
