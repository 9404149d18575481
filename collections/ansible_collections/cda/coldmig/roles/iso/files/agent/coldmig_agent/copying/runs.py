# SPDX-License-Identifier: GPL-3.0-or-later
"""Joins chunks of zeros that several threads find, one after the other or not, to runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: A run is given out at least this often, so that progress moves on an empty disk.
RUN_LIMIT = 4096
_RUN_SECONDS = 2.0
#: What was never read costs nothing to repeat, so its runs may be longer (64 GiB).
FREE_LIMIT = 65536
_MOST_PENDING = 32


class RunMerger:
    """Runs of one disk; ``emit(chunk, run, free)`` is called without a lock held."""

    def __init__(self, emit: Callable[[int, int, bool], None], now: Callable[[], float] = time.monotonic) -> None:
        self._emit = emit
        self._now = now
        self._lock = threading.Lock()
        # Both by (free, chunk): the end of each pending run to its start, its start to (end, when it began).
        self._by_end: dict[tuple[bool, int], int] = {}
        self._by_start: dict[tuple[bool, int], tuple[int, float]] = {}

    def add(self, chunk: int, count: int, *, free: bool = False) -> None:
        """``count`` chunks from ``chunk`` on are zeros."""
        limit = FREE_LIMIT if free else RUN_LIMIT
        out: list[tuple[int, int, bool]] = []
        with self._lock:
            start, end, since = chunk, chunk + count, self._now()
            if (before := self._by_end.pop((free, start), None)) is not None:
                start = before
                since = self._by_start.pop((free, start))[1]
            if (after := self._by_start.pop((free, end), None)) is not None:
                del self._by_end[free, after[0]]
                end = after[0]
            while end - start >= limit:
                out.append((start, limit, free))
                start += limit
            if start < end:
                self._by_start[free, start] = (end, since)
                self._by_end[free, end] = start
            out += self._due()
        for run in out:
            self._emit(*run)

    def _due(self) -> list[tuple[int, int, bool]]:
        """Runs that wait for too long, and the lowest where too many wait."""
        oldest = self._now() - _RUN_SECONDS
        due = [key for key, (_end, since) in self._by_start.items() if since <= oldest]
        if len(self._by_start) - len(due) > _MOST_PENDING:
            due = sorted(self._by_start)[: _MOST_PENDING // 2]
        return [self._take(key) for key in due]

    def _take(self, key: tuple[bool, int]) -> tuple[int, int, bool]:
        free, start = key
        end, _since = self._by_start.pop(key)
        del self._by_end[free, end]
        return start, end - start, free

    def flush(self) -> None:
        """Give out everything."""
        with self._lock:
            out = [self._take(key) for key in sorted(self._by_start, key=lambda key: key[1])]
        for run in out:
            self._emit(*run)
