# SPDX-License-Identifier: GPL-3.0-or-later
"""The buffers for what is read: made once and used again, so that memory is bounded and no page is faulted twice."""

from __future__ import annotations

import contextlib
import mmap
import threading

from coldmig_agent.copying.channel import Closed
from coldmig_wire.geometry import CHUNK


class Pool:
    """``count`` buffers of one chunk, each at a page's start (direct reads want that).

    The buffer given back last is taken first: those never needed never take memory.
    """

    def __init__(self, count: int) -> None:
        pages = mmap.mmap(-1, count * CHUNK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):
            pages.madvise(mmap.MADV_HUGEPAGE)
        memory = memoryview(pages)
        self._free = [memory[start : start + CHUNK] for start in range((count - 1) * CHUNK, -1, -CHUNK)]
        self._returned = threading.Condition()
        self._aborted = False
        self.count = count

    def take(self, count: int = 1) -> list[memoryview]:
        """Wait for ``count`` buffers and take them all at once. Raises Closed after :meth:`abort`."""
        with self._returned:
            while len(self._free) < count and not self._aborted:
                self._returned.wait()
            if self._aborted:
                raise Closed
            return [self._free.pop() for _buffer in range(count)]

    def give(self, buffer: memoryview) -> None:
        """Put a buffer back."""
        with self._returned:
            self._free.append(buffer)
            # Whoever waits may want several; each looks for itself.
            self._returned.notify_all()

    @property
    def free(self) -> int:
        """Buffers that nobody has."""
        return len(self._free)

    def abort(self) -> None:
        """Wake everybody up."""
        with self._returned:
            self._aborted = True
            self._returned.notify_all()
