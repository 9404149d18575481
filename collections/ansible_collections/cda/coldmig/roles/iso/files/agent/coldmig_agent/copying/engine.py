# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the copy: a reader per disk, a sender per connection, and the site's bitmap before and after.

Memory: ``POOL_CHUNKS`` buffers of 1 MiB for what was read, ``BATCH_TOTAL`` bytes of encoded frames over all
connections, and one chunk in work at each sender: under 96 MiB with any number of disks of any size.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from coldmig_agent.api import DataClient, SessionState
from coldmig_agent.copying.channel import Channel, Closed
from coldmig_agent.copying.planner import Backoff, count_set, missing_ranges
from coldmig_agent.copying.progress import DiskProgress
from coldmig_agent.copying.reader import DiskReader, Item
from coldmig_agent.copying.sender import CopyStopped, Sender, raise_if_final
from coldmig_agent.discovery.disks import Source
from coldmig_agent.site import Site, SiteError
from coldmig_wire.frames import CHUNK
from coldmig_wire.geometry import chunk_count

LOG = logging.getLogger(__name__)

POOL_CHUNKS = 16
BATCH_TOTAL = 56 << 20
#: Disks read at the same time; more would only make heads move and buffers wait.
PARALLEL_DISKS = 4


class CopyError(RuntimeError):
    """The copy cannot be done: ``reason`` is a short code for the site, the text says what happened."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Copier:
    """Copies the disks of one migration. ``say`` is told what is wrong at the moment, None when all is well again.

    ``on_pass`` is called whenever there is something to copy, before it is copied.
    """

    def __init__(
        self,
        site: Site,
        token: str,
        sources: Sequence[Source],
        stop: threading.Event,
        say: Callable[[str | None], None],
        *,
        on_pass: Callable[[], None] = lambda: None,
    ) -> None:
        self._site = site
        self._token = token
        self._sources = {source.disk.index: source for source in sources}
        self._stop = stop
        self._say = say
        self._on_pass = on_pass
        self.progress: Mapping[int, DiskProgress] = {
            index: DiskProgress(index, source.disk.size_bytes, chunk_count(source.disk.size_bytes))
            for index, source in self._sources.items()
        }

    def check_session(self, session: SessionState) -> None:
        """The site must have the same disks as this machine. Raises CopyError."""
        ours = {index: source.disk.size_bytes for index, source in self._sources.items()}
        theirs = {disk.index: disk.size_bytes for disk in session.disks}
        if ours != theirs:
            raise CopyError("disks-differ", f"the site has disks {theirs}, this machine has {ours}")

    def path_of(self, disk: int) -> Path:
        """Where a disk is read from."""
        return self._sources[disk].path

    def run(self, connections: int) -> None:
        """Copy until the site has every chunk. Raises CopyStopped, CopyError and FenceError."""
        backoff = Backoff()
        client = DataClient(self._site, self._token)
        before: int | None = None
        try:
            while True:
                have = self._bitmaps(client)
                missing = {
                    index: list(missing_ranges(have[index], progress.total_chunks))
                    for index, progress in self.progress.items()
                }
                left = sum(len(chunks) for ranges in missing.values() for chunks in ranges)
                if left == 0:
                    self._say(None)
                    return
                if left == before:
                    self._say("the site keeps asking for the same chunks; trying again")
                    self._wait(backoff.next())
                before = left
                self._on_pass()
                self._pass(missing, connections)
        finally:
            client.close()

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise CopyStopped("stopped")

    def _bitmaps(self, client: DataClient) -> dict[int, bytes]:
        """The site's bitmaps of all disks; asks until it answers."""
        backoff = Backoff()
        while True:
            if self._stop.is_set():
                raise CopyStopped("stopped")
            try:
                have = {index: client.have(index, item.total_chunks) for index, item in self.progress.items()}
            except SiteError as error:
                raise_if_final(error)
                self._say(str(error))
                self._wait(backoff.next())
                continue
            for index, bitmap in have.items():
                self.progress[index].at_site(count_set(bitmap, self.progress[index].total_chunks))
            return have

    def _pass(self, missing: Mapping[int, Sequence[range]], connections: int) -> None:
        """Read and send everything that is missing, once."""
        buffers: Channel[bytearray] = Channel(POOL_CHUNKS)
        items: Channel[Item] = Channel(POOL_CHUNKS)
        for _buffer in range(POOL_CHUNKS):
            buffers.put(bytearray(CHUNK))
        halt = threading.Event()

        def abort() -> None:
            halt.set()
            items.abort()
            buffers.abort()

        def read(index: int, ranges: Sequence[range]) -> None:
            source = self._sources[index]
            with DiskReader(index, source.path, source.disk.size_bytes) as reader:
                reader.read_all(ranges, buffers, items, self.progress[index].read)

        def send() -> None:
            client = DataClient(self._site, self._token)
            batch_bytes = BATCH_TOTAL // connections
            Sender(client, items, buffers, self.progress, halt, batch_bytes, self._say).run()

        work = [partial(read, index, ranges) for index, ranges in sorted(missing.items()) if ranges]
        with (
            ThreadPoolExecutor(min(PARALLEL_DISKS, len(work)), "reader") as readers,
            ThreadPoolExecutor(connections, "sender") as senders,
        ):
            sending = [senders.submit(send) for _connection in range(connections)]
            reading = [readers.submit(job) for job in work]
            try:
                self._watch(reading, sending)
                items.end()
                self._watch(sending, [])
            except BaseException:
                abort()
                for future in reading:
                    future.cancel()
                raise

    def _watch(self, until: Sequence[Future[None]], others: Sequence[Future[None]]) -> None:
        """Wait until all of ``until`` are done. Raises the first error of any, and CopyStopped when told to stop."""
        while True:
            done, pending = wait([*until, *others], timeout=0.5, return_when=FIRST_EXCEPTION)
            errors = [error for future in done if (error := future.exception()) is not None]
            if errors:
                # A reader that lost its channel is a consequence; the cause is what the others say.
                raise next((error for error in errors if not isinstance(error, Closed)), errors[0])
            if self._stop.is_set():
                raise CopyStopped("stopped")
            if not pending & set(until):
                return
