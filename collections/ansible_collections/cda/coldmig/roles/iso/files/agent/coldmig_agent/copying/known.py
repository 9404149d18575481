# SPDX-License-Identifier: GPL-3.0-or-later
"""What earlier attempts of this machine left at the site: the first bytes of each chunk's digest, window by window."""

from __future__ import annotations

from collections.abc import Callable

#: Chunks of one window, and bytes for each: 512 KiB for 64 GiB of disk.
WINDOW = 65536
PREFIX = 8
_NONE = bytes(PREFIX)

Fetch = Callable[[int, int], bytes | None]


class KnownChunks:
    """The prefixes of one disk; keeps one window, because readers go up a disk. Not for two threads at once."""

    def __init__(self, fetch: Fetch, total_chunks: int) -> None:
        """``fetch(first, count)`` gives ``count`` × 8 bytes, or None when there is no earlier attempt at all."""
        self._fetch: Fetch | None = fetch
        self._total = total_chunks
        self._window = -1
        self._prefixes = b""

    def prefixes(self, first: int, count: int) -> list[bytes | None]:
        """The prefix of each of ``count`` chunks from ``first`` on, which all lie in one window."""
        if self._fetch is None:
            return [None] * count
        window = first // WINDOW
        if window != self._window:
            start = window * WINDOW
            found = self._fetch(start, min(WINDOW, self._total - start))
            if found is None:
                self._fetch = None
                self._prefixes = b""
                return [None] * count
            self._window, self._prefixes = window, found
        at = (first - window * WINDOW) * PREFIX
        pieces = (self._prefixes[start : start + PREFIX] for start in range(at, at + count * PREFIX, PREFIX))
        return [None if piece == _NONE else piece for piece in pieces]
