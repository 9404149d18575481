# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes batches of frames and sends them.

There is one sender more than connections at least: while one waits for the site's answer, or for a connection, others
digest, encode and send, so that the link does not idle.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from coldmig_agent.api import DataClient, FramesAnswer
from coldmig_agent.copying.channel import Channel, Closed
from coldmig_agent.copying.connections import Connections
from coldmig_agent.copying.encoder import Encoder, Entry
from coldmig_agent.copying.items import Item
from coldmig_agent.copying.meter import Doing, Stopwatch
from coldmig_agent.copying.planner import Backoff, has_all
from coldmig_agent.copying.progress import DiskProgress
from coldmig_agent.site import ProblemError, SiteError
from coldmig_wire.frames import FrameType

LOG = logging.getLogger(__name__)

MAX_FRAMES = 256
#: A batch that does not fill (a slow disk, an empty one) is sent after this long.
_LINGER_SECONDS = 1.0
#: A batch holds what goes through its connection in this time: on a slow link progress still moves, and a cut
#: connection costs seconds instead of minutes.
_BATCH_SECONDS = 10.0
_MIN_BATCH = 1 << 20
_FIRST_BATCH = 4 << 20
#: The very first one is smaller: what is encoded before anything is known of the link may have to wait for seconds. It
#: is larger by a step for each sender, so that they do not all encode, and all send, at the same time.
_TASTE, _TASTE_STEP = 1 << 20, 1 << 18
_PARKED_SECONDS = 0.5
_RETRY_CAP = 15.0
STAGING_FULL = "the site's staging is full; the copy pauses and goes on by itself when there is space again"


class CopyStopped(Exception):  # noqa: N818 - a decision, not an error
    """The copy shall not go on: the session ended, the migration's state changed, or the agent is being stopped."""


class SessionLost(CopyStopped):
    """The site does not know this session (401)."""


class StateChanged(CopyStopped):
    """The migration is in a state in which nothing is copied (409)."""


class Queued(CopyStopped):
    """The site copies as many machines as it may; this one has a place in the queue (409)."""


@dataclass(slots=True)
class Batch:
    """Frames of one request."""

    entries: list[Entry] = field(default_factory=list)
    size: int = 0

    def add(self, entry: Entry) -> None:
        """Append a frame."""
        self.entries.append(entry)
        self.size += entry.size


@dataclass(slots=True)
class Refusals:
    """What the site refused in one pass, by reason."""

    counts: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, reason: str) -> None:
        """One more."""
        with self._lock:
            self.counts[reason] = self.counts.get(reason, 0) + 1


@dataclass(slots=True)
class Desk:
    """What all senders of a pass share."""

    connections: Connections
    items: Channel[Item]
    give: Callable[[memoryview], None]
    progress: Mapping[int, DiskProgress]
    halt: threading.Event
    say: Callable[[str | None], None]
    #: How many senders work at the moment, and how large their batches may get.
    senders: Callable[[], int]
    batch_bytes: Callable[[], int]
    refusals: Refusals = field(default_factory=Refusals)
    _troubled: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def trouble(self, sender: int, text: str) -> None:
        """A sender has to wait and try again."""
        with self._lock:
            self._troubled.add(sender)
        self.say(text)

    def fine(self, sender: int) -> None:
        """A sender's batch has arrived; nothing is wrong any more when that is so for all of them."""
        with self._lock:
            self._troubled.discard(sender)
            over = not self._troubled
        if over:
            self.say(None)


class Sender:
    """One sender: takes items until there are none, sends them, and does not give up on a batch."""

    def __init__(self, number: int, desk: Desk, encoder: Encoder, watch: Stopwatch) -> None:
        self._number = number
        self._desk = desk
        self._encoder = encoder
        self._watch = watch
        self._batch_bytes = _FIRST_BATCH
        self._begun = False
        self._backoff = Backoff(cap=_RETRY_CAP)

    def run(self) -> None:
        """Work until the items end. Raises CopyStopped, and Closed when the pass is aborted."""
        more = True
        try:
            while more:
                if self._number >= self._desk.senders() and not self._desk.items.over:
                    self._watch.now(Doing.PARKED)
                    if self._desk.halt.wait(_PARKED_SECONDS):
                        raise Closed
                    continue
                batch = Batch()
                more = self._collect(batch)
                if batch.entries:
                    self._deliver(batch)
        finally:
            self._watch.now(Doing.PARKED)

    def _collect(self, batch: Batch) -> bool:
        """Fill the batch; False when the items have ended."""
        most = min(self._batch_bytes, self._desk.batch_bytes())
        if not self._begun:
            most = min(most, _TASTE + self._number * _TASTE_STEP)
        began = time.monotonic()
        while batch.size < most and len(batch.entries) < MAX_FRAMES:
            self._watch.now(Doing.STARVED)
            try:
                item = self._desk.items.get(_LINGER_SECONDS)
            except Closed:
                return False
            if item is None:
                if batch.entries or self._number >= self._desk.senders():
                    return True
                continue
            self._watch.now(Doing.COMPUTING)
            batch.add(self._encoder.encode(item))
            # A slow disk: what is there goes out, so that progress moves.
            if time.monotonic() - began > 2 * _LINGER_SECONDS and batch.size < _MIN_BATCH:
                return True
        return True

    def _deliver(self, batch: Batch) -> None:
        self._watch.now(Doing.BLOCKED)
        client = self._desk.connections.take()
        try:
            while batch.entries:
                self._desk.connections.send_again(client)
                began = time.monotonic()
                try:
                    parts = [part for entry in batch.entries for part in entry.parts]
                    answer = client.send(parts, partial(self._desk.connections.sent, client))
                except SiteError as error:
                    self._recover(client, batch, error)
                    continue
                self._backoff.reset()
                self._desk.fine(self._number)
                self._account(batch, answer)
                self._adapt(batch.size, time.monotonic() - began)
                return
        finally:
            self._desk.connections.give(client)

    def _adapt(self, size: int, seconds: float) -> None:
        first, self._begun = not self._begun, True
        if first or size < _MIN_BATCH // 2:
            return  # says more about the way there and back than about how much fits through
        wanted = int(size / max(seconds, 1e-3) * _BATCH_SECONDS)
        # By twice at most: one quick answer is no fast link.
        self._batch_bytes = max(_MIN_BATCH, min(wanted, 2 * self._batch_bytes, self._desk.batch_bytes()))

    def _account(self, batch: Batch, answer: FramesAnswer) -> None:
        """Count what is durable. Refused chunks are left to the next look at the bitmap."""
        refused = {(disk, chunk) for disk, chunk, _reason in answer.rejected}
        for disk, chunk, reason in answer.rejected:
            LOG.info("the site refused chunk %d of disk %d: %s", chunk, disk, reason)
            self._desk.refusals.add(reason)
        for entry in batch.entries:
            self._desk.progress[entry.disk].sent(entry.size)
            self._done(entry, durable=(entry.disk, entry.chunk) not in refused)

    def _done(self, entry: Entry, *, durable: bool) -> None:
        if durable:
            progress = self._desk.progress[entry.disk]
            progress.durable(entry.chunks, content=entry.content)
            if entry.type is FrameType.REF:
                progress.reused(entry.chunks)
        if entry.buffer is not None:
            self._desk.give(entry.buffer)

    def _recover(self, client: DataClient, batch: Batch, error: SiteError) -> None:
        """Wait, then ask what of the batch has arrived, until the site answers; only the rest is sent again."""
        while True:
            raise_if_final(error)
            LOG.info("sending failed: %s", error)
            self._desk.trouble(self._number, explain(error))
            if self._desk.halt.wait(self._backoff.next()):
                raise CopyStopped("stopped")
            try:
                have = {
                    disk: client.have(disk, self._desk.progress[disk].total_chunks)
                    for disk in {entry.disk for entry in batch.entries}
                }
            except SiteError as again:
                error = again
                continue
            missing = Batch()
            for entry in batch.entries:
                if has_all(have[entry.disk], entry.chunk, entry.chunks):
                    self._done(entry, durable=True)
                else:
                    missing.add(entry)
            batch.entries, batch.size = missing.entries, missing.size
            return


def explain(error: SiteError) -> str:
    """What the person at the console is told about a request that failed."""
    if isinstance(error, ProblemError):
        if error.slug == "staging-full":
            return STAGING_FULL
        if error.slug == "malformed-frame":
            return f"the site cannot read what arrives ({error}): something on the way changes it; sending again"
    return str(error)


def raise_if_final(error: SiteError) -> None:
    """Raise CopyStopped for the refusals that no waiting helps against."""
    if isinstance(error, ProblemError):
        if error.status == 401:
            raise SessionLost(str(error)) from error
        if error.status == 409:
            raise (Queued if error.slug == "queued" else StateChanged)(str(error)) from error
