# SPDX-License-Identifier: GPL-3.0-or-later
"""Which chunks are missing, and how long to wait after a failure."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

_STRETCHES = re.compile(rb"\x00+|\xff+|[^\x00\xff]", re.DOTALL)


def missing_ranges(have: bytes, chunks: int) -> Iterator[range]:
    """Ascending ranges of chunks whose bit is not set. Bit ``i % 8`` of byte ``i // 8`` is chunk ``i``."""
    start: int | None = None
    for found in _STRETCHES.finditer(have, 0, (chunks + 7) // 8):
        base, bits = found.start() * 8, have[found.start()]
        if bits == 0xFF:
            if start is not None:
                yield range(start, base)
                start = None
        elif bits == 0:
            start = base if start is None else start
        else:
            for chunk in range(base, min(base + 8, chunks)):
                if bits >> (chunk - base) & 1:
                    if start is not None:
                        yield range(start, chunk)
                        start = None
                elif start is None:
                    start = chunk
    if start is not None and start < chunks:
        yield range(start, chunks)


def has_all(have: bytes, first: int, count: int) -> bool:
    """Whether every one of ``count`` chunks from ``first`` is marked."""
    low, high = first >> 3, (first + count + 7) >> 3
    bits = int.from_bytes(have[low:high], "little") >> (first & 7)
    mask = (1 << count) - 1
    return bits & mask == mask


def count_set(have: bytes, chunks: int) -> int:
    """How many of the first ``chunks`` chunks are marked."""
    return (int.from_bytes(have, "little") & ((1 << chunks) - 1)).bit_count()


class Backoff:
    """Waiting times that double from one second to ``cap``, each between half and all of it, by chance.

    The chance keeps the connections of many agents from coming back at the same moment.
    """

    def __init__(self, first: float = 1.0, cap: float = 30.0) -> None:
        self._first = first
        self._cap = cap
        self._failures = 0

    def reset(self) -> None:
        """Something worked."""
        self._failures = 0

    def next(self) -> float:
        """Seconds to wait now."""
        limit = min(self._cap, self._first * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return random.uniform(limit / 2, limit)  # noqa: S311 - spreads load, guards nothing
