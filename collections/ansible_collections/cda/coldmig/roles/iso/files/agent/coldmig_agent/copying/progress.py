# SPDX-License-Identifier: GPL-3.0-or-later
"""How far the copy is: counters that the copying threads add to and that consoles and the site's report read."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from coldmig_wire.frames import CHUNK

_WINDOW_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class DiskView:
    """One disk at one moment. ``bytes_per_second`` counts the disk's bytes that became durable, zeros included."""

    index: int
    size_bytes: int
    total_chunks: int
    done_chunks: int
    read_bytes: int
    sent_bytes: int
    unreadable_bytes: int
    bytes_per_second: float
    seconds_left: float | None

    @property
    def fraction(self) -> float:
        """0.0 to 1.0."""
        return self.done_chunks / self.total_chunks


class DiskProgress:
    """Counters of one disk; all methods may be called by any thread."""

    def __init__(
        self, index: int, size_bytes: int, total_chunks: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._lock = threading.Lock()
        self._now = now
        self.index = index
        self.size_bytes = size_bytes
        self.total_chunks = total_chunks
        self._done = 0
        self._read = 0
        self._sent = 0
        self._unreadable = 0
        self._history: deque[tuple[float, int]] = deque()

    def read(self, count: int) -> None:
        """Bytes were read from the disk."""
        with self._lock:
            self._read += count

    def lost(self, count: int) -> None:
        """Bytes could not be read and are zeros in the copy."""
        with self._lock:
            self._unreadable += count

    def sent(self, count: int) -> None:
        """Bytes of frames went out."""
        with self._lock:
            self._sent += count

    def durable(self, chunks: int) -> None:
        """Chunks were acknowledged."""
        with self._lock:
            self._done = min(self.total_chunks, self._done + chunks)
            self._note()

    def at_site(self, chunks: int) -> None:
        """The site's own count, from its bitmap: replaces ours."""
        with self._lock:
            if chunks != self._done:
                self._history.clear()  # what was there already is no speed
            self._done = chunks
            self._note()

    def _note(self) -> None:
        now = self._now()
        self._history.append((now, self._done))
        while len(self._history) > 2 and self._history[1][0] <= now - _WINDOW_SECONDS:
            self._history.popleft()

    def view(self) -> DiskView:
        """A consistent picture."""
        with self._lock:
            rate = 0.0
            if self._history:
                began, done = self._history[0]
                elapsed = self._now() - began
                if elapsed > 0.5:
                    rate = max(0, self._done - done) * CHUNK / elapsed
            left = (self.total_chunks - self._done) * CHUNK
            seconds = 0.0 if left == 0 else (left / rate if rate > 0 else None)
            return DiskView(
                self.index, self.size_bytes, self.total_chunks, self._done, self._read, self._sent,
                self._unreadable, rate, seconds,
            )  # fmt: skip
