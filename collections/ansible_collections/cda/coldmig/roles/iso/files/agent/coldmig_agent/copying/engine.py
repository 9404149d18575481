# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the copy: readers for each device, senders over some connections, and the site's bitmap before and after.

Memory: ``POOL_CHUNKS`` buffers of 1 MiB for what was read, ``BATCH_TOTAL`` bytes of encoded frames over all senders, a
window of known digests and a bitmap for each of ``PARALLEL_DISKS`` disks: the same for disks of any size.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar

from coldmig_agent.api import DataClient, SessionState
from coldmig_agent.copying.channel import Channel, Closed
from coldmig_agent.copying.connections import Connections
from coldmig_agent.copying.controller import Controller, Plan, Sample
from coldmig_agent.copying.device import SourceDevice, SourceLostError
from coldmig_agent.copying.encoder import Encoder
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
from coldmig_agent.copying.walker import walk
from coldmig_agent.discovery.disks import Source
from coldmig_agent.site import NotASiteError, ProblemError, Site, SiteError
from coldmig_agent.text import human_bytes
from coldmig_wire.geometry import chunk_count

LOG = logging.getLogger(__name__)

POOL_CHUNKS = 64
BATCH_TOTAL = 32 << 20
_ITEMS = 16
#: Devices read at the same time; more would only make buffers wait.
PARALLEL_DISKS = 4
MAX_SENDERS = 9
TICK_SECONDS = 1.0
#: A read that takes longer is told.
SLOW_READ_SECONDS = 10.0

_T = TypeVar("_T")


class CopyError(RuntimeError):
    """The copy cannot be done: ``reason`` is a short code for the site, the text says what happened."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class _Voice:
    """Puts together what is wrong with the link and what is wrong with disks."""

    def __init__(self, say: Callable[[str | None], None]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._problems: dict[str, str] = {}

    def about(self, what: str, text: str | None) -> None:
        """``what`` has this problem now, or with None has it no longer."""
        with self._lock:
            if text:
                self._problems[what] = text
            else:
                self._problems.pop(what, None)
            self._say("; ".join(self._problems[key] for key in sorted(self._problems)) or None)


class Copier:
    """Copies the disks of one migration.

    ``say`` is told what is wrong at the moment, None when all is well again; ``note`` what is worth a line. ``on_pass``
    is called whenever there is something to copy, before it is copied.
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
        note: Callable[[str], None] = LOG.info,
        sys: Path = Path("/sys"),
    ) -> None:
        self._site = site
        self._token = token
        self._sources = {source.disk.index: source for source in sources}
        self._stop = stop
        self._voice = _Voice(say)
        self._note = note
        self._on_pass = on_pass
        self._sys = sys
        self._skip_free = True
        self._codecs: tuple[str, ...] = ("grains",)
        self._complete = False
        self._plan: Plan | None = None
        self._samples: dict[int, Sampled] = {}
        self.unreadable = Unreadable()
        self.progress: Mapping[int, DiskProgress] = {
            index: DiskProgress(
                index,
                source.disk.size_bytes,
                chunk_count(source.disk.size_bytes),
                unreadable=partial(self.unreadable.bytes_of, index),
            )
            for index, source in self._sources.items()
        }

    def check_session(self, session: SessionState) -> None:
        """The site must have the same disks as this machine; takes over its settings. Raises CopyError."""
        ours = {index: source.disk.size_bytes for index, source in self._sources.items()}
        theirs = {disk.index: disk.size_bytes for disk in session.disks}
        if ours != theirs:
            raise CopyError("disks-differ", f"the site has disks {theirs}, this machine has {ours}")
        self._skip_free = session.skip_free
        self._codecs = session.codecs

    def path_of(self, disk: int) -> Path:
        """Where a disk is read from."""
        return self._sources[disk].path

    @property
    def plan(self) -> Plan | None:
        """What the copy works with now, and what limits it; None before the first pass."""
        return self._plan

    @property
    def sampled(self) -> Sampled | None:
        """How many chunks were read a second time, over all disks and passes."""
        found = list(self._samples.values())
        if not found:
            return None
        return Sampled(sum(item.checked for item in found), sum(item.mismatched for item in found))

    def run(self, connections: int) -> None:
        """Copy until the site has every chunk. Raises CopyStopped, CopyError and FenceError."""
        backoff = Backoff()
        before: int | None = None
        refusals = Refusals()
        with closing(DataClient(self._site, self._token)) as client:
            while True:
                left = sum(self._missing(client).values())
                if left == 0:
                    self._voice.about("link", None)
                    self._complete = True
                    return
                self._tell(left, before, refusals)
                if before is not None and left >= before:
                    self._voice.about("link", "the site keeps asking for the same chunks; trying again")
                    self._wait(backoff.next())
                first, before = before is None and not self._complete, left
                self._on_pass()
                refusals = _Pass(self, client, connections, first=first).run()

    def _tell(self, left: int, before: int | None, refusals: Refusals) -> None:
        """Say why there is another pass."""
        damaged = {reason: count for reason, count in refusals.counts.items() if reason != "unknown-ref"}
        if damaged:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(damaged.items()))
            self._note(f"the site refused {sum(damaged.values())} chunks ({reasons}): damaged on the way, sent again")
        elif before is None and self._complete:
            self._note(f"{left} chunks turned out damaged at the site; they are read and sent again")

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise CopyStopped("stopped")

    def ask(self, question: Callable[[], _T], halt: threading.Event | None = None) -> _T:
        """Ask the site until it answers. Raises CopyStopped, and Closed once ``halt`` is set."""
        backoff = Backoff()
        while True:
            if self._stop.is_set():
                raise CopyStopped("stopped")
            try:
                return question()
            except SiteError as error:
                raise_if_final(error)
                self._voice.about("link", explain(error))
            if halt is None:
                self._wait(backoff.next())
            elif halt.wait(backoff.next()):
                raise Closed

    def _missing(self, client: DataClient) -> dict[int, int]:
        """How many chunks of each disk the site lacks."""
        missing = {}
        for index, progress in self.progress.items():
            have = self.ask(partial(client.have, index, progress.total_chunks))
            at_site = count_set(have, progress.total_chunks)
            progress.at_site(at_site)
            missing[index] = progress.total_chunks - at_site
        return missing


class _Pass:
    """One time through everything that is missing."""

    def __init__(self, copier: Copier, client: DataClient, connections: int, *, first: bool) -> None:
        self._copier = copier
        self._client = client
        self._first = first
        self._cpus = os.cpu_count() or 1
        self._controller = Controller(connections, copier._codecs)
        self._set(self._controller.plan)
        self._halt = threading.Event()
        self._pool = Pool(POOL_CHUNKS)
        self._items: Channel[Item] = Channel(_ITEMS)
        self._connections = Connections(self._new_client, lambda: self._plan.connections)
        self._desk = Desk(
            self._connections,
            self._items,
            self._pool.give,
            copier.progress,
            self._halt,
            partial(copier._voice.about, "link"),
            lambda: self._senders,
            lambda: max(1 << 20, BATCH_TOTAL // self._senders),
        )
        self._most_senders = min(MAX_SENDERS, max(connections, self._cpus) + 1)
        self._samples = {index: Reservoir() for index in copier.progress}
        self._watches = [Stopwatch() for _sender in range(self._most_senders)]
        self._readers: dict[int, DiskReader] = {}
        self._growth = Differences()

    def _new_client(self) -> DataClient:
        return DataClient(self._copier._site, self._copier._token)

    def _set(self, plan: Plan) -> None:
        self._plan = self._copier._plan = plan
        # More senders than processors and connections need would only hold memory.
        self._senders = min(MAX_SENDERS, max(plan.connections, min(self._cpus, 2 * plan.connections)) + 1)

    def run(self) -> Refusals:
        """Read and send everything that is missing, once. Raises CopyStopped, CopyError, FenceError."""
        copier = self._copier
        work = groups(copier._sources, copier.progress, copier._sys)
        with (
            ThreadPoolExecutor(min(PARALLEL_DISKS, len(work)), "reader") as readers,
            ThreadPoolExecutor(self._most_senders, "sender") as senders,
        ):
            sending = [senders.submit(self._send, number) for number in range(self._most_senders)]
            reading = [readers.submit(self._read_group, disks) for disks in work]
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
                copier._voice.about("disk", None)
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
        encoder = Encoder(lambda: self._plan.level, self._samples, self._pool.give)
        Sender(number, self._desk, encoder, self._watches[number]).run()

    def _read_group(self, disks: Sequence[int]) -> None:
        for disk in disks:
            self._read(disk)

    def _read(self, disk: int) -> None:
        copier = self._copier
        progress = copier.progress[disk]
        source = copier._sources[disk]
        with closing(self._new_client()) as client:
            have = copier.ask(partial(client.have, disk, progress.total_chunks), self._halt)
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
        copier = self._copier
        progress = copier.progress[disk]
        free = copier._sources[disk].free_map if copier._skip_free else None
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
            copier.unreadable,
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
        before = self._copier._samples.get(disk, Sampled())
        self._copier._samples[disk] = Sampled(before.checked + outcome.checked, before.mismatched + outcome.mismatched)

    def _known(self, client: DataClient, disk: int, first: int, count: int) -> bytes | None:
        """What earlier attempts left. A site that cannot say is no reason not to copy."""
        return self._copier.ask(partial(_known_or_none, client, disk, first, count), self._halt)

    def _watch(self, until: Sequence[Future[None]], others: Sequence[Future[None]]) -> None:
        """Wait until all of ``until`` are done. Raises the first error of any, and CopyStopped when told to stop."""
        while True:
            done, pending = wait([*until, *others], timeout=TICK_SECONDS, return_when=FIRST_EXCEPTION)
            errors = [error for future in done if (error := future.exception()) is not None]
            if errors:
                # A reader that lost its channel is a consequence; the cause is what the others say.
                raise next((error for error in errors if not isinstance(error, Closed)), errors[0])
            if self._copier._stop.is_set():
                raise CopyStopped("stopped")
            if not pending & set(until):
                return
            self._tick()

    def _tick(self) -> None:
        """Look at what the last second was spent on."""
        silent = self._connections.cut_dead()
        if silent is not None:
            self._copier._voice.about("link", f"no answer from the site for {silent:.0f} s; trying a new connection")
        self._look_at_reads()
        spent = dict.fromkeys(Doing, 0.0)
        for number, watch in enumerate(self._watches):
            for doing, seconds in watch.totals().items():
                spent[doing] += self._growth.since((number, doing), seconds)
        idle, everything = cpu_times()
        idle, everything = self._growth.since("idle", idle), self._growth.since("cpu", everything)
        content = sum(progress.content for progress in self._copier.progress.values())
        sent = sum(progress.sent_bytes for progress in self._copier.progress.values())
        sample = Sample(
            starved=spent[Doing.STARVED],
            computing=spent[Doing.COMPUTING],
            blocked=spent[Doing.BLOCKED],
            unread=self._connections.unread(),
            cpu_idle=idle / everything if everything else 0.5,
            progress=int(self._growth.since("content", content)),
            sent=int(self._growth.since("sent", sent)),
        )
        before, plan = self._plan, self._controller.tick(sample)
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
        self._copier._voice.about("disk", "; ".join(slow) or None)


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
