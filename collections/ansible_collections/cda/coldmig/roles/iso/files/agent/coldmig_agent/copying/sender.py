# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes frames out of chunks and sends them in batches over one connection."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from coldmig_agent.api import DataClient, FramesAnswer
from coldmig_agent.copying.channel import Channel, Closed
from coldmig_agent.copying.planner import Backoff, has_all
from coldmig_agent.copying.progress import DiskProgress
from coldmig_agent.copying.reader import DataChunk, Item
from coldmig_agent.site import ProblemError, SiteError
from coldmig_wire.digest import DIGEST_SIZE, chunk_digest
from coldmig_wire.frames import Codec, Frame, FrameType
from coldmig_wire.grains import encode_chunk

LOG = logging.getLogger(__name__)

MAX_FRAMES = 64
#: A batch that does not fill (a slow disk, an empty one) is sent after this long.
_LINGER_SECONDS = 1.0
#: Batches shrink and grow so that one takes between these times: on a slow link progress still moves, and a cut
#: connection costs seconds instead of minutes.
_FAST_SECONDS = 3.0
_SLOW_SECONDS = 10.0
_MIN_BATCH = 1 << 20


class CopyStopped(Exception):  # noqa: N818 - a decision, not an error
    """The copy shall not go on: the session ended, the migration's state changed, or the agent is being stopped."""


class SessionLost(CopyStopped):
    """The site does not know this session (401)."""


class StateChanged(CopyStopped):
    """The migration is in a state in which nothing is copied (409)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One frame ready to be sent."""

    disk: int
    chunk: int
    chunks: int
    data: bytes


@dataclass(slots=True)
class Batch:
    """Frames of one request."""

    entries: list[Entry] = field(default_factory=list)
    size: int = 0

    def add(self, entry: Entry) -> None:
        """Append a frame."""
        self.entries.append(entry)
        self.size += len(entry.data)

    def keep(self, entries: list[Entry]) -> None:
        """Leave only these frames."""
        self.entries = entries
        self.size = sum(len(entry.data) for entry in entries)


def make_entry(item: Item) -> Entry:
    """Digest and encode one item. The item's buffer may be used again afterwards."""
    if not isinstance(item, DataChunk):
        frame = Frame(FrameType.ZERO_RUN, Codec.RAW, item.disk, item.chunk, item.run, 0, bytes(DIGEST_SIZE))
        return Entry(item.disk, item.chunk, item.run, frame.pack())
    raw = item.buffer if item.length == len(item.buffer) else item.buffer[: item.length]
    payload = encode_chunk(raw)
    kind = FrameType.UNREADABLE if item.unreadable else FrameType.DATA
    frame = Frame(kind, Codec.GRAINS, item.disk, item.chunk, item.length, len(payload), chunk_digest(raw))
    return Entry(item.disk, item.chunk, 1, frame.pack() + payload)


class Sender:
    """One connection's worker: takes items until there are none, sends them, and does not give up on a batch."""

    def __init__(  # noqa: PLR0917 - its parts, in the order of the stream
        self,
        client: DataClient,
        items: Channel[Item],
        buffers: Channel[bytearray],
        progress: Mapping[int, DiskProgress],
        stop: threading.Event,
        batch_bytes: int,
        say: Callable[[str | None], None],
    ) -> None:
        self._client = client
        self._items = items
        self._buffers = buffers
        self._progress = progress
        self._stop = stop
        self._most_bytes = batch_bytes
        self._batch_bytes = min(batch_bytes, 4 << 20)
        self._say = say
        self._backoff = Backoff()

    def run(self) -> None:
        """Work until the items end. Raises CopyStopped."""
        try:
            more = True
            while more:
                batch = Batch()
                more = self._collect(batch)
                if batch.entries:
                    self._deliver(batch)
        finally:
            self._client.close()

    def _collect(self, batch: Batch) -> bool:
        """Fill the batch; False when the items have ended."""
        while batch.size < self._batch_bytes and len(batch.entries) < MAX_FRAMES:
            try:
                item = self._items.get(_LINGER_SECONDS)
            except Closed:
                return False
            if item is None:
                if batch.entries:
                    return True
                continue
            batch.add(make_entry(item))
            if isinstance(item, DataChunk):
                if item.unreadable:
                    self._progress[item.disk].lost(item.unreadable)
                self._buffers.put(item.buffer)
        return True

    def _deliver(self, batch: Batch) -> None:
        while batch.entries:
            began = time.monotonic()
            try:
                answer = self._client.send([entry.data for entry in batch.entries])
            except SiteError as error:
                self._recover(batch, error)
                continue
            self._backoff.reset()
            self._say(None)
            self._account(batch, answer)
            self._adapt(time.monotonic() - began)
            return

    def _adapt(self, seconds: float) -> None:
        if seconds > _SLOW_SECONDS:
            self._batch_bytes = max(_MIN_BATCH, self._batch_bytes // 2)
        elif seconds < _FAST_SECONDS:
            self._batch_bytes = min(self._most_bytes, self._batch_bytes * 2)

    def _account(self, batch: Batch, answer: FramesAnswer) -> None:
        """Count what is durable. Refused chunks are left to the next look at the bitmap."""
        refused = {(disk, chunk) for disk, chunk, _reason in answer.rejected}
        for disk, chunk, reason in answer.rejected[:8]:
            LOG.warning("the site refused chunk %d of disk %d: %s", chunk, disk, reason)
        for entry in batch.entries:
            progress = self._progress[entry.disk]
            progress.sent(len(entry.data))
            if (entry.disk, entry.chunk) not in refused:
                progress.durable(entry.chunks)

    def _recover(self, batch: Batch, error: SiteError) -> None:
        """Wait, then ask what of the batch has arrived, until the site answers; only the rest is sent again."""
        while True:
            raise_if_final(error)
            LOG.info("sending failed: %s", error)
            self._say(str(error))
            if self._stop.wait(self._backoff.next()):
                raise CopyStopped("stopped")
            try:
                have = {
                    disk: self._client.have(disk, self._progress[disk].total_chunks)
                    for disk in {entry.disk for entry in batch.entries}
                }
            except SiteError as again:
                error = again
                continue
            missing = []
            for entry in batch.entries:
                if has_all(have[entry.disk], entry.chunk, entry.chunks):
                    self._progress[entry.disk].durable(entry.chunks)
                else:
                    missing.append(entry)
            batch.keep(missing)
            return


def raise_if_final(error: SiteError) -> None:
    """Raise CopyStopped for the refusals that no waiting helps against."""
    if isinstance(error, ProblemError):
        if error.status == 401:
            raise SessionLost(str(error)) from error
        if error.status == 409:
            raise StateChanged(str(error)) from error
