# SPDX-License-Identifier: GPL-3.0-or-later
"""The chunks of one disk that could not be read in one go: every sector singly, and the bad ones again, and again."""

from __future__ import annotations

import logging
import mmap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from coldmig_agent.copying import salvage
from coldmig_agent.copying.device import ALIGNMENT, MediumError, SourceDevice, SourceLostError
from coldmig_agent.copying.unreadable import MAX_CHUNKS, TooManyError
from coldmig_wire.geometry import CHUNK, chunk_length

LOG = logging.getLogger(__name__)

_ZEROS = memoryview(bytes(CHUNK))
#: Bytes of sectors that a later try could read and that are kept; what is beyond has to be readable once more.
_MAX_KEPT = 8 << 20
_MAX_RANGES = 1 << 18

Ranges = Sequence[tuple[int, int]]


@dataclass(slots=True)
class _Damaged:
    """A chunk: its bad ranges (offset, length), and the sectors that a later try could read."""

    bad: list[tuple[int, int]]
    kept: dict[int, bytes] = field(default_factory=dict)


class DamagedChunks:
    """Reads what was put aside. ``watch(byte)`` is told where a read begins, ``watch(None)`` that it is over."""

    def __init__(
        self,
        device: SourceDevice,
        unwanted: Callable[[int], Ranges],
        pause: Callable[[float], None],
        watch: Callable[[int | None], None],
    ) -> None:
        """``unwanted(chunk)``: the parts (start, stop) of a chunk that are not needed. ``pause`` may raise Closed."""
        self._device = device
        self._unwanted = unwanted
        self._pause = pause
        self._watch = watch
        self._buffer = memoryview(mmap.mmap(-1, CHUNK))
        self._chunk = 0
        self._kept = 0

    def read(self, chunks: Sequence[int], done: Callable[[int, memoryview, Ranges], None]) -> None:
        """Read the chunks as far as that is possible: all of them once, then what was bad again, with pauses between.

        ``done`` gets each chunk's bytes, zeros where there are none, and its bad ranges (byte on the disk, length).
        Raises SourceLostError, TooManyError and what ``pause`` and ``done`` raise.
        """
        damaged: dict[int, _Damaged] = {}
        ranges = 0
        for chunk in chunks:
            bad = self._fill(chunk, ())
            if not bad:
                done(chunk, self._content(chunk), ())
                continue
            damaged[chunk] = _Damaged(bad)
            ranges += len(bad)
            if len(damaged) > MAX_CHUNKS or ranges > _MAX_RANGES:
                raise TooManyError(f"{self._device.path} cannot be read in more places than can be kept account of")
        self._try_again(damaged)
        for chunk, found in damaged.items():
            self._finish(chunk, found, done)

    def _content(self, chunk: int) -> memoryview:
        return self._buffer[: chunk_length(chunk, self._device.size_bytes)]

    def _fill(self, chunk: int, skip: Ranges) -> list[tuple[int, int]]:
        """Read what is wanted of a chunk but for ``skip`` (start, stop); the ranges that failed."""
        content = self._content(chunk)
        content[:] = _ZEROS[: len(content)]
        self._chunk = chunk
        unwanted = sorted([*self._unwanted(chunk), *skip])
        read_any = False

        def read(offset: int, size: int) -> bool:
            nonlocal read_any
            found = self._read(offset, size)
            read_any = read_any or found
            return found

        bad = salvage.first_tries(read, len(content), self._device.granule, unwanted)
        if bad and not read_any and not self._device.is_alive():
            raise SourceLostError(f"{self._device.path} does not answer any more (nothing can be read)")
        return bad

    def _try_again(self, damaged: dict[int, _Damaged]) -> None:
        began = time.monotonic()
        for seconds in salvage.PAUSES:
            if not any(found.bad for found in damaged.values()):
                return
            self._pause(seconds)
            for chunk, found in damaged.items():
                if time.monotonic() - began > salvage.PATIENCE_SECONDS:
                    return
                self._chunk = chunk
                still = salvage.retry(self._read, found.bad, self._device.granule)
                self._keep(found, still)

    def _keep(self, found: _Damaged, still: list[tuple[int, int]]) -> None:
        """Keep the sectors that were bad and were read now: they may not be readable once more."""
        bad = {offset for offset, _size in salvage.sectors(still, self._device.granule)}
        for offset, size in salvage.sectors(found.bad, self._device.granule):
            if offset not in bad and self._kept + size <= _MAX_KEPT:
                found.kept[offset] = bytes(self._buffer[offset : offset + size])
                self._kept += size
        found.bad = still

    def _finish(self, chunk: int, found: _Damaged, done: Callable[[int, memoryview, Ranges], None]) -> None:
        """Read the good parts of a damaged chunk once more and put together what there is."""
        known = [(start, start + size) for start, size in found.bad]
        known += [(offset, offset + len(content)) for offset, content in found.kept.items()]
        bad = salvage.joined(sorted([*found.bad, *self._fill(chunk, known)]))
        for offset, content in found.kept.items():
            self._buffer[offset : offset + len(content)] = content
        absolute = [(chunk * CHUNK + start, size) for start, size in bad]
        for start, size in absolute:
            LOG.warning("%s: %d bytes at byte %d cannot be read", self._device.path, size, start)
        done(chunk, self._content(chunk), absolute)

    def _read(self, offset: int, size: int) -> bool:
        """Read a part of the present chunk into its place."""
        device, start, length = self._device, self._chunk * CHUNK + offset, len(self._content(self._chunk))
        self._pause(0)
        device.check_fence()
        device.forget(start, size)
        # The view is as long as what is wanted: a longer read would fail for its neighbours' sake.
        end = offset + size if offset + size < length else -(-length // ALIGNMENT) * ALIGNMENT
        self._watch(start)
        try:
            device.read([self._buffer[offset:end]], start, size)
        except MediumError:
            self._buffer[offset : offset + size] = _ZEROS[:size]
            return False
        finally:
            self._watch(None)
        return True
