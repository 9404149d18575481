# SPDX-License-Identifier: GPL-3.0-or-later
"""What the senders' time goes into, and how busy the processors are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path


class Doing(Enum):
    """What a sender does."""

    PARKED = "parked"
    STARVED = "starved"
    COMPUTING = "computing"
    BLOCKED = "blocked"


class Stopwatch:
    """Adds up what one thread does; read by another at any time, the activity that lasts included."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._totals = dict.fromkeys(Doing, 0.0)
        self._doing = Doing.PARKED
        self._since = now()

    def now(self, doing: Doing) -> None:
        """From now on this."""
        with self._lock:
            moment = self._now()
            self._totals[self._doing] += moment - self._since
            self._doing, self._since = doing, moment

    def totals(self) -> dict[Doing, float]:
        """Seconds of each."""
        with self._lock:
            totals = dict(self._totals)
            totals[self._doing] += self._now() - self._since
            return totals


class Differences:
    """How much numbers that only grow have grown since the last look."""

    def __init__(self) -> None:
        self._last: dict[object, float] = {}

    def since(self, key: object, value: float) -> float:
        """What was added to ``value``; nothing at the first look."""
        before = self._last.get(key, value)
        self._last[key] = value
        return max(0.0, value - before)


def cpu_times(stat: Path = Path("/proc/stat")) -> tuple[float, float]:
    """(idle, all) jiffies of all processors since boot; zeros where the kernel does not say."""
    try:
        with stat.open(encoding="ascii") as file:
            fields = [int(field) for field in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return 0.0, 0.0
    return (float(fields[3] + fields[4]), float(sum(fields))) if len(fields) >= 5 else (0.0, 0.0)
