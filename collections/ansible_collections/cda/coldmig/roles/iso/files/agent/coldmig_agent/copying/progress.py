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
_STEP_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class DiskView:
    """One disk at one moment. ``bytes_per_second`` counts the disk's bytes that became durable, zeros included.

    ``skipped_bytes`` were not copied because no file system uses them; ``reused_chunks`` were at the site already,
    from an earlier attempt.
    """

    index: int
    size_bytes: int
    total_chunks: int
    done_chunks: int
    read_bytes: int
    sent_bytes: int
    unreadable_bytes: int
    bytes_per_second: float
    seconds_left: float | None
    skipped_bytes: int = 0
    reused_chunks: int = 0

    @property
    def fraction(self) -> float:
        """0.0 to 1.0."""
        return self.done_chunks / self.total_chunks


class DiskProgress:
    """Counters of one disk; all methods may be called by any thread."""

    def __init__(
        self,
        index: int,
        size_bytes: int,
        total_chunks: int,
        now: Callable[[], float] = time.monotonic,
        unreadable: Callable[[], int] = lambda: 0,
    ) -> None:
        self._lock = threading.Lock()
        self._now = now
        self._unreadable = unreadable
        self.index = index
        self.size_bytes = size_bytes
        self.total_chunks = total_chunks
        self._done = 0
        self._read = 0
        self._sent = 0
        self._skipped = 0
        self._reused = 0
        #: Bytes of content that became durable; grows only.
        self.content = 0
        self._history: deque[tuple[float, int]] = deque()

    def read(self, count: int) -> None:
        """Bytes were read from the disk."""
        with self._lock:
            self._read += count

    def sent(self, count: int) -> None:
        """Bytes of frames went out."""
        with self._lock:
            self._sent += count

    def skipped(self, count: int) -> None:
        """Bytes that no file system uses count as zeros."""
        with self._lock:
            self._skipped += count

    def reused(self, chunks: int) -> None:
        """Chunks that an earlier attempt had left at the site were taken over."""
        with self._lock:
            self._reused += chunks

    def durable(self, chunks: int, content: int = 0) -> None:
        """Chunks were acknowledged; ``content``: how much of them was data."""
        with self._lock:
            self._done = min(self.total_chunks, self._done + chunks)
            self.content += content
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
        if len(self._history) > 1 and now - self._history[-2][0] < _STEP_SECONDS:
            self._history.pop()
        self._history.append((now, self._done))
        while len(self._history) > 2 and self._history[1][0] <= now - _WINDOW_SECONDS:
            self._history.popleft()

    def view(self) -> DiskView:
        """A consistent picture."""
        unreadable = self._unreadable()
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
                unreadable, rate, seconds, self._skipped, self._reused,
            )  # fmt: skip
