# SPDX-License-Identifier: GPL-3.0-or-later
"""One disk's staging: appends, group commit, recovery. Thread-safe; memory is three bits per chunk.

The pack is the truth. A chunk counts ("have") once an fdatasync of the pack has covered its record. On opening,
what the index does not cover is read from the pack again, each record's digest included, and a torn tail is cut.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from coldmig_gateway.staging.bitmap import Bitmap
from coldmig_gateway.staging.errors import ChunkDamagedError, StagingError
from coldmig_gateway.staging.index import Checkpoint, Index, Slot
from coldmig_gateway.staging.pack import PACK_HEADER, DiskIdentity, Pack, Record
from coldmig_gateway.vmdk.stream_optimized import chunk_sectors
from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import HEADER, Frame, FrameError, FrameType
from coldmig_wire.geometry import chunk_count, chunk_length
from coldmig_wire.payload import PayloadError, payload_grains, verify_payload

_log = logging.getLogger(__name__)

#: The index is brought up to date after this much of the pack: it bounds what an opening has to read again.
CHECKPOINT_BYTES = 256 << 20
CHECKPOINT_RECORDS = 1 << 16


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A data chunk as it lies in the pack, unchanged since it was verified."""

    frame: Frame
    payload: memoryview


class DiskStaging:
    """The open staging of one disk: ``<root>/<migration id>/disk-<n>.pack`` and ``.index``."""

    def __init__(self, root: Path, migration_id: str, disk: int, size_bytes: int) -> None:
        """Opens the staging, creates it if there is none, and recovers it after a crash.

        Raises PackDamagedError, StagingBusyError, StagingFullError, StagingError; ValueError for a migration id
        that is not a UUID.
        """
        identity = DiskIdentity(UUID(migration_id), disk, size_bytes)
        directory = root / str(identity.migration)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.disk = disk
        self.size_bytes = size_bytes
        self.chunks = chunk_count(size_bytes)
        self._lock = threading.Condition()
        self._checkpointing = threading.Lock()
        self._pack = Pack(directory / f"disk-{disk}.pack", identity)
        try:
            self._index = Index(directory / f"disk-{disk}.index", identity, self.chunks)
            try:
                self._recover()
            except BaseException:
                self._index.close()
                raise
        except BaseException:
            self._pack.close()
            raise

    def _recover(self) -> None:
        size = self._pack.size
        found = self._index.load(size)
        if found is None:
            self._index.clear()
            found = Checkpoint(PACK_HEADER, Bitmap(self.chunks), Bitmap(self.chunks))
        self._have, self._data, self._end = found.have, found.data, found.watermark
        for record in self._pack.scan(self._end):
            self._adopt(record)
            self._end = record.end
        if self._end < size:
            self._pack.truncate(self._end)
        self._pack.sync()
        self._written = Bitmap(self.chunks, bytes(self._have))
        self._pending: list[tuple[int, int]] = []
        self._synced = self._end
        self._watermark = found.watermark
        self._records = 0
        self._syncing = False
        self._epoch = 0
        self._failure: type[StagingError] = StagingError
        if self._end > self._watermark or size == PACK_HEADER:
            self.checkpoint()

    def _adopt(self, record: Record) -> None:
        """Takes a record of the scanned tail into the bitmaps, if it is whole and belongs to this disk."""
        frame = record.frame
        try:
            self.check_fits(frame)
            if frame.has_payload:
                self._index.write_slot(replace(_verified_slot(frame, record.payload), offset=record.offset))
        except (FrameError, PayloadError) as error:
            _log.warning("%s: record at %d passed over: %s", self._pack.path, record.offset, error)
            return
        if frame.has_payload:
            self._data.set_range(frame.chunk, frame.end_chunk)
        else:
            self._data.keep_where(self._have, frame.chunk, frame.end_chunk)
        self._have.set_range(frame.chunk, frame.end_chunk)

    def check_fits(self, frame: Frame) -> None:
        """Raises FrameError unless the frame's disk, chunks and raw length are those of this disk."""
        if frame.disk != self.disk:
            raise FrameError(f"disk={frame.disk}: must be {self.disk}")
        if frame.end_chunk > self.chunks:
            raise FrameError(f"chunk={frame.chunk}, run={frame.run}: the disk has chunks 0 to {self.chunks - 1}")
        if not frame.is_run:
            length = chunk_length(frame.chunk, self.size_bytes)
            if frame.run != length:
                raise FrameError(f"run={frame.run}: chunk {frame.chunk} has {length} bytes")

    # --- writing ------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """To be read before appending and given to ``commit``: it changes when an fdatasync failed."""
        with self._lock:
            return self._epoch

    def append(self, frame: Frame, payload: bytes | bytearray | memoryview = b"") -> bool:
        """Verifies a frame's payload and appends it; durable after ``commit``. False if nothing was new in it.

        Chunks that are there already stay as they are: a chunk has one content, whoever sends it again. Raises
        PayloadError or FrameError if the payload is not what the header says or the frame does not fit the disk
        (nothing is written), StagingFullError, StagingError.
        """
        self.check_fits(frame)
        if frame.type is FrameType.REF:
            raise FrameError("type=REF: is resolved before it is stored")
        with self._lock:
            if self._written.all_set(frame.chunk, frame.end_chunk):
                return False
        slot = _verified_slot(frame, payload) if frame.has_payload else None
        with self._lock:
            # Once more: meanwhile another connection may have sent the same.
            if self._written.all_set(frame.chunk, frame.end_chunk):
                return False
            self._pack.write(self._end, frame.pack(), payload)
            if slot is not None:
                try:
                    self._index.write_slot(replace(slot, offset=self._end))
                except StagingError:
                    self._pack.truncate(self._end)
                    raise
                self._data.set_range(frame.chunk, frame.end_chunk)
            else:
                self._data.keep_where(self._written, frame.chunk, frame.end_chunk)
            self._written.set_range(frame.chunk, frame.end_chunk)
            self._pending.append((frame.chunk, frame.end_chunk))
            self._end += HEADER + len(payload)
            self._records += 1
        return True

    @property
    def unsynced_bytes(self) -> int:
        """Bytes that were appended and wait for a commit."""
        with self._lock:
            return self._end - self._synced

    def commit(self, epoch: int) -> None:
        """Returns when everything appended so far is durable. One fdatasync serves all who wait.

        Raises StagingFullError or StagingError if an fdatasync failed since ``epoch`` was read: then everything that
        was not durable is gone from the pack, and has to be sent again.
        """
        with self._lock:
            target = self._end
            while self._epoch == epoch and self._synced < target:
                if self._syncing:
                    self._lock.wait()
                else:
                    self._sync()
            if self._epoch != epoch:
                raise self._failure(f"{self._pack.path}: fdatasync failed; send again what is missing")
            due = self._synced - self._watermark >= CHECKPOINT_BYTES or self._records >= CHECKPOINT_RECORDS
        if due:
            self._checkpoint_if_possible()

    def _sync(self) -> None:
        """One fdatasync, with the lock released meanwhile."""
        end, pending = self._end, self._pending
        self._pending = []
        self._syncing = True
        self._lock.release()
        try:
            failed: StagingError | None = None
            try:
                self._pack.sync()
            except StagingError as error:
                failed = error
        finally:
            self._lock.acquire()
            self._syncing = False
            self._lock.notify_all()
        if failed is not None:
            self._failure = type(failed)
            self._roll_back()
            return
        for start, stop in pending:
            self._have.set_range(start, stop)
        self._synced = end

    def _roll_back(self) -> None:
        """After a failed fdatasync the kernel forgets which pages it lost, so all that was not durable goes."""
        self._epoch += 1
        self._pending = []
        self._written = Bitmap(self.chunks, bytes(self._have))
        self._end = self._synced
        self._pack.truncate(self._end)

    def drop(self, chunks: Iterable[int]) -> None:
        """Forgets chunks, durably, so that they are asked for again."""
        with self._lock:
            for chunk in chunks:
                for bitmap in (self._have, self._data, self._written):
                    bitmap.clear_range(chunk, chunk + 1)
        self.checkpoint()

    # --- reading ------------------------------------------------------------------------------------------------

    def have(self) -> bytes:
        """Bitmap of the durable chunks."""
        with self._lock:
            return bytes(self._have)

    @property
    def have_chunks(self) -> int:
        """Number of durable chunks."""
        with self._lock:
            return self._have.count

    @property
    def complete(self) -> bool:
        """True if every chunk is durable."""
        return self.have_chunks == self.chunks

    @property
    def stored_bytes(self) -> int:
        """Bytes of the pack that are durable."""
        with self._lock:
            return self._synced

    def data_bitmap(self) -> Bitmap:
        """The durable chunks that hold data; durable chunks outside it are zeros. A copy."""
        with self._lock:
            data = Bitmap(self.chunks, bytes(self._data))
            data.keep_where(self._have, 0, self.chunks)
            return data

    def holds_data(self, chunk: int) -> bool:
        """True if the chunk is durable and not zeros."""
        with self._lock:
            return self._have[chunk] and self._data[chunk]

    def slot(self, chunk: int) -> Slot:
        """Where a data chunk lies. Raises ChunkDamagedError."""
        return self._index.read_slot(chunk)

    def load(self, chunk: int, *, from_device: bool = False) -> StoredChunk:
        """Reads a data chunk and proves that it is the one that was verified when it came. Raises ChunkDamagedError.

        ``from_device`` asks the kernel to forget its cached copy before reading.
        """
        slot = self.slot(chunk)
        if from_device:
            self._pack.forget_cache(slot.offset, HEADER + slot.length)
        buf = self._pack.read(slot.offset, HEADER + slot.length)
        payload = memoryview(buf)[HEADER:]
        try:
            frame = Frame.unpack(buf)
        except FrameError as error:
            raise ChunkDamagedError(chunk, str(error)) from None
        if (frame.disk, frame.chunk, frame.digest, frame.run) != (self.disk, chunk, slot.digest, slot.raw_length):
            raise ChunkDamagedError(chunk, "the record in the pack is not the one that the index speaks of")
        if chunk_digest(payload) != slot.stored_digest:
            raise ChunkDamagedError(chunk, "its payload in the pack has changed")
        return StoredChunk(frame, payload)

    def data_sectors(self) -> Iterator[tuple[int, int]]:
        """The data chunks, ascending, each with its sectors in the VMDK. Raises ChunkDamagedError."""
        for chunk in self.data_bitmap().indices():
            yield chunk, self.slot(chunk).sectors

    # --- index --------------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Brings the index up to date, durably. Raises StagingFullError, StagingError."""
        with self._checkpointing:
            with self._lock:
                watermark, have, data = self._synced, bytes(self._have), bytes(self._data)
                self._records = 0
            self._index.write_checkpoint(watermark, have, data)
            with self._lock:
                self._watermark = watermark

    def _checkpoint_if_possible(self) -> None:
        """The index can wait: without room for it, the next opening reads more of the pack."""
        try:
            self.checkpoint()
        except StagingError as error:
            _log.warning("%s", error)

    def close(self) -> None:
        """Checkpoints and closes. What was appended and not committed may or may not be there later."""
        try:
            self._checkpoint_if_possible()
        finally:
            self._index.close()
            self._pack.close()


def _verified_slot(frame: Frame, payload: bytes | bytearray | memoryview) -> Slot:
    """The slot of a payload that was just verified, without its offset. Raises PayloadError."""
    # First the digest of what is stored, then the check of what it inflates to: whatever happens to the bytes after
    # the first shows in one of the two.
    stored_digest = chunk_digest(payload)
    verify_payload(frame, payload)
    sectors = chunk_sectors(payload_grains(frame.codec, payload, frame.run))
    return Slot(
        frame.chunk, 0, frame.length, frame.run, frame.codec, frame.type, sectors, frame.digest, stored_digest
    )  # fmt: skip
