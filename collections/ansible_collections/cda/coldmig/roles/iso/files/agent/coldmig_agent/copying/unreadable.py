# SPDX-License-Identifier: GPL-3.0-or-later
"""What could not be read, with its addresses, as the site has to know it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from coldmig_agent.copying.salvage import joined

#: Ranges of one disk in a report (contract of POST /session/unreadable).
MAX_RANGES = 1000
#: Chunks with bad places in them, over all disks. Whoever has more holds a dying disk that needs another tool.
MAX_CHUNKS = 65536


class TooManyError(RuntimeError):
    """More places are bad than can be kept account of."""


class Unreadable:
    """Bad ranges by disk and chunk; a chunk that is read again replaces what was said of it. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: dict[int, dict[int, tuple[tuple[int, int], ...]]] = {}
        self._touched: set[int] = set()
        #: Counts changes: whoever reported version ``n`` has nothing new to say while it is ``n``.
        self.version = 0

    def note(self, disk: int, chunk: int, ranges: Sequence[tuple[int, int]]) -> None:
        """The bad ranges (byte on the disk, length) of a chunk that was just read. Raises TooManyError."""
        with self._lock:
            of_disk = self._chunks.get(disk)
            if not ranges:
                if of_disk is not None and of_disk.pop(chunk, None) is not None:
                    self.version += 1
                return
            if sum(map(len, self._chunks.values())) >= MAX_CHUNKS:
                raise TooManyError(f"disk {disk} cannot be read in more than {MAX_CHUNKS} places")
            self._chunks.setdefault(disk, {})[chunk] = tuple(ranges)
            self._touched.add(disk)
            self.version += 1

    def bytes_of(self, disk: int) -> int:
        """Bytes of a disk that could not be read."""
        with self._lock:
            return sum(size for ranges in self._chunks.get(disk, {}).values() for _start, size in ranges)

    def ranges_of(self, disk: int) -> list[tuple[int, int]]:
        """The bad ranges of a disk, ascending, joined where they touch."""
        with self._lock:
            chunks = sorted(self._chunks.get(disk, {}).items())
        return joined([found for _chunk, ranges in chunks for found in ranges])

    def report(self) -> tuple[int, list[dict[str, object]]]:
        """The version, and the ``disks`` of POST /session/unreadable: every disk that ever had bad places."""
        with self._lock:
            version, touched = self.version, sorted(self._touched)
        disks: list[dict[str, object]] = []
        for disk in touched:
            ranges = self.ranges_of(disk)
            disks.append(
                {
                    "index": disk,
                    "bytes": sum(size for _start, size in ranges),
                    "ranges": [list(found) for found in ranges[:MAX_RANGES]],
                }
            )
        return version, disks
