# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps a part of the staging file system free: the database often lies on it, and must never meet its end."""

from __future__ import annotations

import os
from pathlib import Path

from coldmig_gateway.staging.errors import StagingFullError

_LEAST_RESERVE = 256 << 20


class Room:
    """Says whether chunks may still be taken in. Looks at the file system each time: it is asked once a megabyte."""

    def __init__(self, reserve: int | None) -> None:
        """``reserve`` are the bytes to be kept free; None: 256 MiB or a hundredth, whichever is more."""
        self._reserve = reserve

    def check(self, staging: Path) -> None:
        """Raises StagingFullError below the low-water mark."""
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
        if free < reserve:
            raise StagingFullError(f"{staging}: {free} bytes are free, copies go on when there are {reserve}")
