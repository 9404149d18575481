# SPDX-License-Identifier: GPL-3.0-or-later
"""What readers give to senders."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataChunk:
    """A chunk with content, free ranges of file systems already zeroed. ``buffer`` goes back to the pool.

    ``known``: the first 8 bytes of the digest that an earlier attempt's chunk at this place has; None: there is none.
    """

    disk: int
    chunk: int
    length: int
    buffer: memoryview
    unreadable: int = 0
    known: bytes | None = None

    @property
    def raw(self) -> memoryview:
        """The chunk's bytes."""
        return self.buffer[: self.length]


@dataclass(frozen=True, slots=True)
class Run:
    """``run`` chunks of zeros from ``chunk`` on; ``free``: not read, because no file system uses them."""

    disk: int
    chunk: int
    run: int
    free: bool = False


Item = DataChunk | Run
