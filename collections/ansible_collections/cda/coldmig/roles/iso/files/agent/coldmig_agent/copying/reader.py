# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads one source disk: several reads at once, free ranges zeroed, zeros joined to runs, bad places left for the end.

The order is ascending but for the reads that overtake each other. A chunk that cannot be read is put aside, so that it
holds up nothing, and tried again sector by sector when everything else was read.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from coldmig_agent.copying.channel import Channel, Closed
from coldmig_agent.copying.damage import DamagedChunks
from coldmig_agent.copying.device import MediumError, SourceDevice, SourceLostError
from coldmig_agent.copying.items import DataChunk, Item, Run
from coldmig_agent.copying.pool import Pool
from coldmig_agent.copying.progress import DiskProgress
from coldmig_agent.copying.runs import RunMerger
from coldmig_agent.copying.sample import Reservoir
from coldmig_agent.copying.unreadable import Unreadable
from coldmig_agent.copying.walker import Extent, FreeChunks, Skip
from coldmig_wire.digest import chunk_digest
from coldmig_wire.geometry import CHUNK, chunk_length
from coldmig_wire.grains import is_zero

LOG = logging.getLogger(__name__)

#: Reads at once from one disk, at most.
MAX_DEPTH = 4
_ZEROS = memoryview(bytes(CHUNK))
_PARKED_SECONDS = 0.5


class UnstableError(RuntimeError):
    """The disk gave other data when it was read a second time."""


class FreeRanges(FreeChunks, Protocol):
    """What reading asks of a disk's free map."""

    def free_ranges_in(self, chunk: int) -> Sequence[tuple[int, int]]:
        """The free parts of a chunk: (start, stop) inside it."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """The outcome of reading a sample twice."""

    checked: int = 0
    mismatched: int = 0


@dataclass(slots=True)
class Line:
    """Where a reader's items go, and who counts: what the readers of one pass share."""

    pool: Pool
    items: Channel[Item]
    unreadable: Unreadable
    #: Reads at once from each disk that pay at the moment.
    depth: Callable[[], int]
    halt: threading.Event
    sampled: Callable[[Sampled], None] = lambda _outcome: None


@dataclass(slots=True)
class DiskReader:
    """One pass over one disk."""

    disk: int
    device: SourceDevice
    line: Line
    progress: DiskProgress
    sample: Reservoir
    free: FreeRanges | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _emit_lock: threading.Lock = field(default_factory=threading.Lock)
    _held: Item | None = None
    _aside: list[int] = field(default_factory=list)
    _busy: dict[int, tuple[int, float]] = field(default_factory=dict)
    _over: bool = False

    def read_all(self, steps: Iterator[Skip | Extent]) -> None:
        """Put everything of ``steps`` into the line.

        Raises Closed when the line is aborted, FenceError, SourceLostError, TooManyError, and UnstableError.
        """
        runs = RunMerger(lambda chunk, run, free: self._emit(Run(self.disk, chunk, run, free)))
        with ThreadPoolExecutor(MAX_DEPTH, f"disk-{self.disk}") as threads:
            jobs = [threads.submit(partial(self._work, number, steps, runs)) for number in range(MAX_DEPTH)]
        for job in jobs:
            job.result()
        if self._aside:
            self._salvage(runs)
        runs.flush()
        self._second_look()
        if self._held is not None:
            self._put(self._held)

    @property
    def slowest(self) -> tuple[int, float] | None:
        """The read that takes longest at this moment: (byte on the disk, seconds)."""
        reads = list(self._busy.values())
        if not reads:
            return None
        offset, began = min(reads, key=lambda read: read[1])
        return offset, time.monotonic() - began

    def _work(self, number: int, steps: Iterator[Skip | Extent], runs: RunMerger) -> None:
        """One of the reading threads. Once one fails, the others end at their next step."""
        try:
            while True:
                while number >= self.line.depth():
                    if self.line.halt.wait(_PARKED_SECONDS) or self._over:
                        return
                with self._lock:
                    step = None if self._over else next(steps, None)
                    self._over = step is None
                if step is None:
                    return
                if isinstance(step, Skip):
                    if step.free:
                        self.progress.skipped(self._bytes(step.chunk, step.run))
                    runs.add(step.chunk, step.run, free=step.free)
                else:
                    self._read(step, number, runs)
        except BaseException:
            self._over = True
            raise

    def _bytes(self, chunk: int, run: int) -> int:
        return min(self.device.size_bytes, (chunk + run) * CHUNK) - chunk * CHUNK

    def _read(self, extent: Extent, number: int, runs: RunMerger) -> None:
        self.device.check_fence()
        buffers = self.line.pool.take(extent.count)
        offset, length = extent.chunk * CHUNK, self._bytes(extent.chunk, extent.count)
        self._busy[number] = (offset, time.monotonic())
        try:
            self.device.read(buffers, offset, length)
        except MediumError as error:
            LOG.warning("disk %d: %s; its chunks are read one by one", self.disk, error)
            self._read_singly(extent, buffers, runs)
            return
        finally:
            self._busy.pop(number, None)
        self.progress.read(length)
        for index, buffer in enumerate(buffers):
            self._take_in(extent.chunk + index, buffer, runs, extent.known[index])

    def _read_singly(self, extent: Extent, buffers: Sequence[memoryview], runs: RunMerger) -> None:
        for index, buffer in enumerate(buffers):
            chunk = extent.chunk + index
            length = chunk_length(chunk, self.device.size_bytes)
            try:
                self.device.read([buffer], chunk * CHUNK, length)
            except MediumError as error:
                self.line.pool.give(buffer)
                self._still_there(error)
                LOG.warning("disk %d: chunk %d: %s; it is tried again at the end", self.disk, chunk, error)
                with self._lock:
                    self._aside.append(chunk)
                continue
            self.progress.read(length)
            self._take_in(chunk, buffer, runs, extent.known[index])

    def _still_there(self, error: Exception) -> None:
        """A disk of which nothing can be read is gone, not damaged. Raises SourceLostError."""
        if not self.device.is_alive():
            raise SourceLostError(f"{self.device.path} does not answer any more ({error})") from error

    def _take_in(
        self, chunk: int, buffer: memoryview, runs: RunMerger, known: bytes | None, lost: Sequence[tuple[int, int]] = ()
    ) -> None:
        """A chunk was read, but for the ``lost`` ranges (byte on the disk, length): see what it is."""
        length = chunk_length(chunk, self.device.size_bytes)
        raw = buffer[:length]
        self._clear_free(chunk, raw, count=True)
        self.line.unreadable.note(self.disk, chunk, lost)
        if not lost and is_zero(raw):
            self.line.pool.give(buffer)
            runs.add(chunk, 1)
            return
        self._emit(DataChunk(self.disk, chunk, length, buffer, sum(size for _start, size in lost), known))

    def _clear_free(self, chunk: int, raw: memoryview, *, count: bool) -> None:
        """What no file system uses counts as zeros, before the digest is made."""
        if self.free is None:
            return
        for start, stop in self.free.free_ranges_in(chunk):
            raw[start:stop] = _ZEROS[: stop - start]
            if count:
                self.progress.skipped(stop - start)

    def _emit(self, item: Item) -> None:
        """Pass on the item before; one is always held back until the sample was compared."""
        with self._emit_lock:
            before, self._held = self._held, item
        if before is not None:
            self._put(before)

    def _put(self, item: Item) -> None:
        if isinstance(item, DataChunk):
            self.sample.expect()
        self.line.items.put(item)

    def _salvage(self, runs: RunMerger) -> None:
        """The chunks that were put aside, sector by sector."""

        def unwanted(chunk: int) -> Sequence[tuple[int, int]]:
            return self.free.free_ranges_in(chunk) if self.free is not None else ()

        def watch(offset: int | None) -> None:
            if offset is None:
                self._busy.pop(-1, None)
            else:
                self._busy[-1] = (offset, time.monotonic())

        def done(chunk: int, content: memoryview, lost: Sequence[tuple[int, int]]) -> None:
            (buffer,) = self.line.pool.take()
            buffer[: len(content)] = content
            self.progress.read(len(content) - sum(size for _start, size in lost))
            self._take_in(chunk, buffer, runs, None, lost)

        DamagedChunks(self.device, unwanted, self._pause, watch).read(sorted(self._aside), done)

    def _pause(self, seconds: float) -> None:
        if self.line.halt.wait(seconds):
            raise Closed

    def _second_look(self) -> None:
        """Read a sample again, past every cache of this machine. Raises UnstableError."""
        drawn = self.sample.drawn()
        if self.line.halt.is_set():
            raise Closed
        if isinstance(self._held, DataChunk) and not self._held.unreadable:
            # The last one was not digested yet; a small disk has no other.
            drawn.append((self._held.chunk, chunk_digest(self._held.raw)))
        if not drawn:
            return
        (buffer,) = self.line.pool.take()
        different: list[int] = []
        checked = 0
        for chunk, digest in drawn:
            if self.line.halt.is_set():
                raise Closed
            length = chunk_length(chunk, self.device.size_bytes)
            self.device.check_fence()
            self.device.forget(chunk * CHUNK, length)
            self._busy[-1] = (chunk * CHUNK, time.monotonic())
            try:
                self.device.read([buffer], chunk * CHUNK, length)
            except MediumError as error:
                # It was readable a moment ago: a failing disk, but not one that lies.
                LOG.warning("disk %d: second look: %s", self.disk, error)
                continue
            finally:
                self._busy.pop(-1, None)
            raw = buffer[:length]
            self._clear_free(chunk, raw, count=False)
            checked += 1
            if chunk_digest(raw) != digest:
                different.append(chunk)
        self.line.pool.give(buffer)
        self.line.sampled(Sampled(checked, len(different)))
        if different:
            places = ", ".join(f"{chunk * CHUNK} to {chunk * CHUNK + CHUNK - 1}" for chunk in different[:5])
            raise UnstableError(
                f"{self.device.path} gave other data when it was read a second time: {len(different)} of {checked} "
                f"samples differ, at bytes {places}{' and more' if len(different) > 5 else ''}. The disk, its cable or "
                "controller, or this machine's memory is failing, or somebody else writes to the disk"
            )
