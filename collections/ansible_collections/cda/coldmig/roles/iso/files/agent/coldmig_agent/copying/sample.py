# SPDX-License-Identifier: GPL-3.0-or-later
"""A random sample of the chunks that were read, to be read once more: a disk (or memory) that lies is found out."""

from __future__ import annotations

import random
import threading

#: Chunks of a disk that are read twice: one in a hundred and at least a few, but never longer than some seconds' work.
MAX_SAMPLE = 64
MIN_SAMPLE = 8
SHARE = 100


class Reservoir:
    """A uniform sample (algorithm R) of ``(chunk, digest)`` of one disk; also counts what is still being digested."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.SystemRandom()
        self._changed = threading.Condition()
        self._kept: list[tuple[int, bytes]] = []
        self._seen = 0
        self._expected = 0
        self._aborted = False

    def expect(self) -> None:
        """A chunk is on its way to be digested."""
        with self._changed:
            self._expected += 1

    def offer(self, chunk: int, digest: bytes, *, usable: bool = True) -> None:
        """A chunk's digest. ``usable`` is False where a second read proves nothing (parts were unreadable)."""
        with self._changed:
            self._expected -= 1
            if usable:
                self._seen += 1
                if len(self._kept) < MAX_SAMPLE:
                    self._kept.append((chunk, digest))
                elif (place := self._chance.randrange(self._seen)) < MAX_SAMPLE:
                    self._kept[place] = (chunk, digest)
            if not self._expected:
                self._changed.notify_all()

    def abort(self) -> None:
        """Nobody digests any more."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

    def drawn(self) -> list[tuple[int, bytes]]:
        """The sample in ascending order, once everything expected was digested; empty after :meth:`abort`."""
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or not self._expected)
            if self._aborted:
                return []
            size = max(MIN_SAMPLE, min(MAX_SAMPLE, self._seen // SHARE))
            kept = self._kept if len(self._kept) <= size else self._chance.sample(self._kept, size)
            return sorted(kept)
