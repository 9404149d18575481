# SPDX-License-Identifier: GPL-3.0-or-later
"""One pass of the copy: readers for each device and senders over some connections, until all that was missing was sent.

Memory: what budget.py allows for what was read and for encoded frames over all senders, a window of known digests and a
bitmap for each of ``PARALLEL_DISKS`` disks: the same for disks of any size.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from coldmig_agent.api import DataClient
from coldmig_agent.copying.budget import budget
from coldmig_agent.copying.channel import Channel, Closed
from coldmig_agent.copying.connections import Connections
from coldmig_agent.copying.controller import Controller, Plan, Sample
from coldmig_agent.copying.device import SourceDevice, SourceLostError
from coldmig_agent.copying.encoder import Encoder
from coldmig_agent.copying.errors import CopyError
from coldmig_agent.copying.groups import groups
from coldmig_agent.copying.items import Item
from coldmig_agent.copying.known import KnownChunks
from coldmig_agent.copying.meter import Differences, Doing, Stopwatch, cpu_times
from coldmig_agent.copying.planner import Backoff, count_set, missing_ranges
from coldmig_agent.copying.pool import Pool
from coldmig_agent.copying.progress import DiskProgress
from coldmig_agent.copying.reader import DiskReader, Line, Sampled, UnstableError
from coldmig_agent.copying.sample import Reservoir
from coldmig_agent.copying.sender import CopyStopped, Desk, Refusals, Sender, explain, raise_if_final
from coldmig_agent.copying.unreadable import TooManyError, Unreadable
from coldmig_agent.copying.voice import Voice
from coldmig_agent.copying.walker import walk
from coldmig_agent.discovery.disks import Source
from coldmig_agent.site import NotASiteError, ProblemError, Site, SiteError
from coldmig_agent.text import human_bytes

LOG = logging.getLogger(__name__)

#: Bitmaps of disks that are kept until they are read: one bit for each MiB, of 32 TiB.
BITMAP_TOTAL = 4 << 20
_ITEMS = 16
#: Devices read at the same time; more would only make buffers wait.
PARALLEL_DISKS = 4
MAX_SENDERS = 9
TICK_SECONDS = 1.0
#: The first looks at what limits come sooner.
GLANCE_SECONDS = 0.15
#: A read that takes longer is told.
SLOW_READ_SECONDS = 10.0

_T = TypeVar("_T")


@dataclass(slots=True)
class Work:
    """What all passes of one copy share. The site's wishes, the settings of the moment and the samples change."""

    site: Site
    token: str
    sources: Mapping[int, Source]
    stop: threading.Event
    voice: Voice
    sys: Path
    progress: Mapping[int, DiskProgress]
    unreadable: Unreadable
    skip_free: bool = True
    codecs: tuple[str, ...] = ("grains",)
    plan: Plan | None = None
    samples: dict[int, Sampled] = field(default_factory=dict)
    #: What the site had of each disk before this pass; looked at once.
    bitmaps: dict[int, bytes] = field(default_factory=dict)

    def client(self) -> DataClient:
        """A connection of its own."""
        return DataClient(self.site, self.token)

    def keep_bitmap(self, disk: int, have: bytes) -> None:
        """Spare this disk's reader a question, unless there are many large disks."""
        others = sum(len(bitmap) for index, bitmap in self.bitmaps.items() if index != disk)
        if others + len(have) <= BITMAP_TOTAL:
            self.bitmaps[disk] = have
        else:
            self.bitmaps.pop(disk, None)

    def ask(self, question: Callable[[], _T], halt: threading.Event | None = None) -> _T:
        """Ask the site until it answers. Raises CopyStopped, and Closed once ``halt`` is set."""
        backoff = Backoff()
        while True:
            if self.stop.is_set():
                raise CopyStopped("stopped")
            try:
                answer = question()
            except SiteError as error:
                raise_if_final(error)
                self.voice.about("link", explain(error))
            else:
                self.voice.about("link", None)
                return answer
            if halt is None:
                if self.stop.wait(backoff.next()):
                    raise CopyStopped("stopped")
            elif halt.wait(backoff.next()):
                raise Closed


class CopyPass:
    """One time through everything that is missing."""

    def __init__(self, work: Work, connections: int, client: DataClient, *, first: bool) -> None:
        """``client`` is open, and nobody else uses it during this pass."""
        self._work = work
        self._clients = [client]
        self._first = first
        self._cpus = os.cpu_count() or 1
        self._controller = Controller(connections, work.codecs, self._cpus)
        self._set(self._controller.plan)
        self._halt = threading.Event()
        room = budget()
        self._pool = Pool(room.chunks)
        self._items: Channel[Item] = Channel(_ITEMS)
        self._connections = Connections(self._new_client, lambda: self._plan.connections)
        self._desk = Desk(
            self._connections,
            self._items,
            self._pool.give,
            work.progress,
            self._halt,
            partial(work.voice.about, "link"),
            lambda: self._senders,
            lambda: max(1 << 20, room.batch_bytes // self._senders),
        )
        self._most_senders = min(MAX_SENDERS, max(connections, self._cpus) + 1)
        self._samples = {index: Reservoir() for index in work.progress}
        self._watches = [Stopwatch() for _sender in range(self._most_senders)]
        self._readers: dict[int, DiskReader] = {}
        self._growth = Differences()
        self._looked = time.monotonic()

    def _new_client(self) -> DataClient:
        return self._work.client()

    @contextmanager
    def _client(self) -> Iterator[DataClient]:
        """A connection for a reader's questions: the one that is open, or one of its own."""
        try:
            client = self._clients.pop()
        except IndexError:
            with closing(self._new_client()) as own:
                yield own
            return
        try:
            yield client
        finally:
            self._clients.append(client)

    def _set(self, plan: Plan) -> None:
        self._plan = self._work.plan = plan
        # More senders than processors and connections need would only hold memory.
        self._senders = min(MAX_SENDERS, max(plan.connections, min(self._cpus, 2 * plan.connections)) + 1)

    def run(self) -> Refusals:
        """Read and send everything that is missing, once. Raises CopyStopped, CopyError, FenceError."""
        work = self._work
        devices = groups(work.sources, work.progress, work.sys)
        with (
            ThreadPoolExecutor(min(PARALLEL_DISKS, len(devices)), "reader") as readers,
            ThreadPoolExecutor(self._most_senders, "sender") as senders,
        ):
            sending = [senders.submit(self._send, number) for number in range(self._most_senders)]
            reading = [readers.submit(self._read_group, disks) for disks in devices]
            try:
                self._watch(reading, sending)
                self._items.end()
                self._watch(sending, [])
            except BaseException:
                self._abort()
                for future in reading:
                    future.cancel()
                raise
            finally:
                work.voice.about("disk", None)
                self._connections.close()
        return self._desk.refusals

    def _abort(self) -> None:
        self._halt.set()
        self._items.abort()
        self._pool.abort()
        for sample in self._samples.values():
            sample.abort()
        self._connections.abort()

    def _send(self, number: int) -> None:
        # While the first reader asks what it may leave out: opening one takes three times the way there and back.
        if number < self._plan.connections:
            self._connections.warm_up()
        encoder = Encoder(lambda: self._plan.level, self._samples, self._pool.give)
        Sender(number, self._desk, encoder, self._watches[number]).run()

    def _read_group(self, disks: Sequence[int]) -> None:
        for disk in disks:
            self._read(disk)

    def _read(self, disk: int) -> None:
        work = self._work
        progress = work.progress[disk]
        source = work.sources[disk]
        with self._client() as client:
            have = work.bitmaps.pop(disk, None)
            if have is None:
                have = work.ask(partial(client.have, disk, progress.total_chunks), self._halt)
            if count_set(have, progress.total_chunks) == progress.total_chunks:
                return
            try:
                device = SourceDevice(source.path, source.disk.size_bytes, source.disk.logical_sector)
                with closing(device):
                    self._read_disk(disk, device, client, have)
            except SourceLostError as error:
                raise CopyError("source-lost", f"disk {disk}: {error}") from error
            except UnstableError as error:
                raise CopyError("source-unstable", f"disk {disk}: {error}") from error
            except TooManyError as error:
                text = f"{error}: it is dying; save its content with a tool made for that, and migrate from the result"
                raise CopyError("source-unreadable", text) from error

    def _read_disk(self, disk: int, device: SourceDevice, client: DataClient, have: bytes) -> None:
        work = self._work
        progress = work.progress[disk]
        free = work.sources[disk].free_map if work.skip_free else None
        known = KnownChunks(partial(self._known, client, disk), progress.total_chunks) if self._first else None
        steps = walk(
            missing_ranges(have, progress.total_chunks),
            device.size_bytes,
            free,
            known,
            device.hole_until if device.is_file else None,
        )
        line = Line(
            self._pool,
            self._items,
            work.unreadable,
            lambda: self._plan.depth,
            self._halt,
            partial(self._sampled, disk),
        )
        reader = DiskReader(disk, device, line, progress, self._samples[disk], free)
        self._readers[disk] = reader
        try:
            reader.read_all(steps)
        finally:
            del self._readers[disk]

    def _sampled(self, disk: int, outcome: Sampled) -> None:
        before = self._work.samples.get(disk, Sampled())
        self._work.samples[disk] = Sampled(before.checked + outcome.checked, before.mismatched + outcome.mismatched)

    def _known(self, client: DataClient, disk: int, first: int, count: int) -> bytes | None:
        """What earlier attempts left. A site that cannot say is no reason not to work."""
        return self._work.ask(partial(_known_or_none, client, disk, first, count), self._halt)

    def _watch(self, until: Sequence[Future[None]], others: Sequence[Future[None]]) -> None:
        """Wait until all of ``until`` are done. Raises the first error of any, and CopyStopped when told to stop."""
        while True:
            pause = GLANCE_SECONDS if self._glancing else TICK_SECONDS
            done, pending = wait([*until, *others], timeout=pause, return_when=FIRST_EXCEPTION)
            errors = [error for future in done if (error := future.exception()) is not None]
            if errors:
                # A reader that lost its channel is a consequence; the cause is what the others say.
                raise next((error for error in errors if not isinstance(error, Closed)), errors[0])
            if self._work.stop.is_set():
                raise CopyStopped("stopped")
            if not pending & set(until):
                return
            self._tick()

    @property
    def _glancing(self) -> bool:
        return self._first and self._controller.glancing

    def _tick(self) -> None:
        """Look at what the last second, or a part of the first ones, was spent on."""
        silent = self._connections.cut_dead()
        if silent is not None:
            self._work.voice.about("link", f"no answer from the site for {silent:.0f} s; trying a new connection")
        self._look_at_reads()
        spent = dict.fromkeys(Doing, 0.0)
        for number, watch in enumerate(self._watches):
            for doing, seconds in watch.totals().items():
                spent[doing] += self._growth.since((number, doing), seconds)
        idle, everything = cpu_times()
        idle, everything = self._growth.since("idle", idle), self._growth.since("cpu", everything)
        content = sum(progress.content for progress in self._work.progress.values())
        sent, unread = self._connections.measure()
        now = time.monotonic()
        seconds, self._looked = now - self._looked, now
        sample = Sample(
            starved=spent[Doing.STARVED],
            computing=spent[Doing.COMPUTING],
            blocked=spent[Doing.BLOCKED],
            unread=unread,
            cpu_idle=idle / everything if everything else 0.5,
            progress=int(self._growth.since("content", content)),
            sent=sent,
            seconds=max(seconds, 1e-3),
        )
        look = self._controller.glance if self._glancing else self._controller.tick
        before, plan = self._plan, look(sample)
        if plan != before:
            LOG.info("copy: %s with %s", plan, sample)
            self._set(plan)

    def _look_at_reads(self) -> None:
        """Say which disk keeps us waiting."""
        slow = []
        for disk, reader in sorted(self._readers.items()):
            read = reader.slowest
            if read is not None and read[1] >= SLOW_READ_SECONDS:
                slow.append(
                    f"disk {disk} ({reader.device.path}) has been reading one place, at {human_bytes(read[0])}, "
                    f"for {read[1]:.0f} s"
                )
        self._work.voice.about("disk", "; ".join(slow) or None)


def _known_or_none(client: DataClient, disk: int, first: int, count: int) -> bytes | None:
    try:
        return client.known(disk, first, count)
    except NotASiteError as error:
        LOG.warning("asking for earlier attempts: %s", error)
        return None
    except ProblemError as error:
        if error.status in {400, 404}:
            return None
        raise
