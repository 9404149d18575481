# SPDX-License-Identifier: GPL-3.0-or-later
"""The way through a disk: which stretches are read, and which are known to be free or holes without reading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from coldmig_agent.copying.known import WINDOW, KnownChunks
from coldmig_wire.geometry import CHUNK, chunk_count

#: Chunks that are read with one call.
EXTENT = 4


class FreeChunks(Protocol):
    """What the walk asks of a disk's free map."""

    def free_run(self, chunk: int, stop: int) -> int:
        """How many whole chunks from ``chunk`` on are free, none beyond ``stop``."""


@dataclass(frozen=True, slots=True)
class Skip:
    """``run`` chunks that need no reading: ``free``, or zeros because an image file has a hole there."""

    chunk: int
    run: int
    free: bool


@dataclass(frozen=True, slots=True)
class Extent:
    """Chunks to be read, with what an earlier attempt has at each place."""

    chunk: int
    known: list[bytes | None]

    @property
    def count(self) -> int:
        """Number of chunks."""
        return len(self.known)


def walk(
    missing: Iterable[range],
    size_bytes: int,
    free: FreeChunks | None,
    known: KnownChunks | None,
    hole_until: Callable[[int], int] | None,
) -> Iterator[Skip | Extent]:
    """Everything in ``missing``, ascending. ``hole_until(byte)`` says where data begins (image files only)."""
    total = chunk_count(size_bytes)
    data_until = 0  # chunks before this one are known to be no hole
    for chunks in missing:
        chunk, stop = chunks.start, chunks.stop
        while chunk < stop:
            if free is not None and (run := free.free_run(chunk, stop)):
                yield Skip(chunk, run, free=True)
                chunk += run
                continue
            if hole_until is not None and chunk >= data_until:
                data = hole_until(chunk * CHUNK)
                first = total if data >= size_bytes else data // CHUNK
                if first > chunk:
                    run = min(first, stop) - chunk
                    yield Skip(chunk, run, free=False)
                    chunk += run
                    continue
                data_until = chunk + EXTENT
            end = min(stop, chunk + EXTENT, (chunk // WINDOW + 1) * WINDOW)
            if free is not None:
                end = next((at for at in range(chunk + 1, end) if free.free_run(at, at + 1)), end)
            count = end - chunk
            yield Extent(chunk, known.prefixes(chunk, count) if known is not None else [None] * count)
            chunk = end
