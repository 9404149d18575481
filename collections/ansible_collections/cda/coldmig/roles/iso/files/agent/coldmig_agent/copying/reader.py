# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a source disk in ascending order, past its page cache, and says what each chunk is."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from coldmig_agent import fence
from coldmig_agent.copying.channel import Channel
from coldmig_wire.frames import CHUNK, MAX_RUN
from coldmig_wire.geometry import chunk_length
from coldmig_wire.grains import is_zero

LOG = logging.getLogger(__name__)

_AHEAD_CHUNKS = 4
_DROP_CHUNKS = 8
#: A run is given out at least this often, so that progress moves on an empty disk (4 GiB).
_RUN_LIMIT = min(MAX_RUN, 4096)
#: What the page cache reads at once; a damaged sector spoils no more than this.
_RETRY_BYTES = 4096


@dataclass(frozen=True, slots=True)
class DataChunk:
    """A chunk with content. ``buffer`` belongs to the pool and goes back there; ``unreadable`` counts lost bytes."""

    disk: int
    chunk: int
    length: int
    buffer: bytearray
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class ZeroChunks:
    """``run`` chunks of zeros from ``chunk`` on."""

    disk: int
    chunk: int
    run: int


Item = DataChunk | ZeroChunks


class DiskReader:
    """One source disk, opened read-only behind the fence."""

    def __init__(self, disk: int, path: Path, size_bytes: int) -> None:
        self.disk = disk
        self.path = path
        self.size_bytes = size_bytes
        fence.protect(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def close(self) -> None:
        """Close the disk."""
        os.close(self._fd)

    def __enter__(self) -> DiskReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_chunk(self, chunk: int, buffer: bytearray) -> int:
        """Fill ``buffer`` with the chunk; zeros stand for what cannot be read. Returns the bytes that were lost."""
        length = chunk_length(chunk, self.size_bytes)
        offset = chunk * CHUNK
        try:
            self._fill(memoryview(buffer)[:length], offset)
        except OSError as error:
            LOG.warning("disk %d: chunk %d: %s; trying again in small pieces", self.disk, chunk, error)
            return self._salvage(memoryview(buffer)[:length], offset)
        return 0

    def _fill(self, view: memoryview, offset: int) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(self._fd, [view[done:]], offset + done)
            if count == 0:
                raise OSError(f"{self.path} ends at byte {offset + done} of {self.size_bytes}")
            done += count

    def _salvage(self, view: memoryview, offset: int) -> int:
        lost = 0
        for start in range(0, len(view), _RETRY_BYTES):
            piece = view[start : start + _RETRY_BYTES]
            try:
                self._fill(piece, offset + start)
            except OSError:
                piece[:] = bytes(len(piece))
                lost += len(piece)
        return lost

    def read_all(
        self,
        ranges: Iterable[range],
        buffers: Channel[bytearray],
        items: Channel[Item],
        on_read: Callable[[int], None],
    ) -> None:
        """Put every chunk of ``ranges`` into ``items``, zero ones as runs.

        ``on_read`` is told the bytes read. Raises Closed when the channels are aborted and FenceError when the disk
        has become writable.
        """
        for chunks in ranges:
            first_zero: int | None = None
            for chunk in chunks:
                if (chunk - chunks.start) % _DROP_CHUNKS == 0:
                    fence.check(self._fd, self.path)
                    self._drop_cache(chunk)
                self._read_ahead(chunk)
                buffer = buffers.take()
                lost = self.read_chunk(chunk, buffer)
                length = chunk_length(chunk, self.size_bytes)
                on_read(length)
                if not lost and is_zero(buffer if length == CHUNK else buffer[:length]):
                    buffers.put(buffer)
                    first_zero = chunk if first_zero is None else first_zero
                    if chunk + 1 - first_zero >= _RUN_LIMIT:
                        items.put(ZeroChunks(self.disk, first_zero, chunk + 1 - first_zero))
                        first_zero = None
                    continue
                if first_zero is not None:
                    items.put(ZeroChunks(self.disk, first_zero, chunk - first_zero))
                    first_zero = None
                items.put(DataChunk(self.disk, chunk, length, buffer, lost))
            if first_zero is not None:
                items.put(ZeroChunks(self.disk, first_zero, chunks.stop - first_zero))

    def _read_ahead(self, chunk: int) -> None:
        os.posix_fadvise(self._fd, (chunk + _AHEAD_CHUNKS) * CHUNK, CHUNK, os.POSIX_FADV_WILLNEED)

    def _drop_cache(self, chunk: int) -> None:
        start = max(0, chunk - 2 * _DROP_CHUNKS) * CHUNK
        os.posix_fadvise(self._fd, start, chunk * CHUNK - start, os.POSIX_FADV_DONTNEED)
