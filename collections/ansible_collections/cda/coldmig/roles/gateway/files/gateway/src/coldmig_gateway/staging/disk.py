# SPDX-License-Identifier: GPL-3.0-or-later
"""One disk's staging: appends, group commit, recovery. Thread-safe; memory is four bits per chunk.

The pack is the truth. A chunk counts ("have") once an fdatasync of the pack has covered its record. On opening,
what the index does not cover is read from the pack again, each record's digest included, and a torn tail is cut.

A chunk that an earlier attempt of the same machine left is not copied: the record says where it lies in the earlier
attempt's pack, which is kept by a hard link (``bases``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from coldmig_gateway.staging.bases import Base, Earlier, digest_prefixes, link_earlier, open_bases
from coldmig_gateway.staging.bitmap import Bitmap
from coldmig_gateway.staging.device import DeviceReader
from coldmig_gateway.staging.errors import UNKNOWN_REF, ChunkDamagedError, StagingError
from coldmig_gateway.staging.index import MAX_BASES, Checkpoint, Index, Slot
from coldmig_gateway.staging.intake import is_unchanged, take_in
from coldmig_gateway.staging.pack import PACK_HEADER, DiskIdentity, Link, Pack, PackFile, PackId, Record, body_length
from coldmig_wire.frames import HEADER, MAX_PAYLOAD, Frame, FrameError, FrameType
from coldmig_wire.geometry import chunk_count, chunk_length
from coldmig_wire.payload import PayloadError

_log = logging.getLogger(__name__)

#: The index is brought up to date after this much of the pack: it bounds what an opening has to read again.
CHECKPOINT_BYTES = 256 << 20
CHECKPOINT_RECORDS = 1 << 16
#: What a chunk takes in the pack at most.
RECORD_BYTES = HEADER + MAX_PAYLOAD


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A data chunk as it lies in the pack, unchanged since it was verified."""

    frame: Frame
    payload: memoryview


@dataclass(frozen=True, slots=True)
class Checked:
    """What was read again from the device so far: these chunks, and the pack up to ``position``."""

    chunks: bytes
    position: int


class DiskStaging:
    """The open staging of one disk: ``<root>/<migration id>/disk-<n>.pack`` and ``.index``."""

    def __init__(
        self,
        root: Path,
        migration_id: str,
        disk: int,
        size_bytes: int,
        earlier: Sequence[Earlier] = (),
        *,
        must_exist: bool = False,
    ) -> None:
        """Opens the staging, creates it if there is none unless it ``must_exist``, and recovers it after a crash.

        ``earlier`` are attempts of the same machine to copy the same disk, newest first. When the staging is created
        it takes over their packs as far as their indexes describe them now: settle them before.

        Raises PackDamagedError, StagingBusyError, StagingFullError, StagingError; ValueError for a migration id
        that is not a UUID.
        """
        identity = DiskIdentity(UUID(migration_id), disk, size_bytes)
        directory = root / str(identity.migration)
        path = directory / f"disk-{disk}.pack"
        if must_exist and not path.exists():
            raise StagingError(f"{path}: does not exist")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.disk = disk
        self.size_bytes = size_bytes
        self._pack_id = identity.pack
        self.chunks = chunk_count(size_bytes)
        self._lock = threading.Condition()
        self._checkpointing = threading.Lock()
        if not path.exists():
            # Creating the pack makes the directory durable, and with it these names.
            link_earlier(root, identity, earlier)
        self._pack = Pack(path, identity, create=not must_exist)
        self._bases: list[Base] = []
        try:
            self._bases = open_bases(root, identity, earlier)
            self._index = Index(directory / f"disk-{disk}.index", identity, self.chunks)
            try:
                self._recover()
            except BaseException:
                self._index.close()
                raise
        except BaseException:
            self._close_packs()
            raise

    def _recover(self) -> None:
        size = self._pack.size
        found = self._index.load(size)
        if found is None:
            self._index.clear()
            found = Checkpoint(PACK_HEADER, Bitmap(self.chunks), Bitmap(self.chunks))
        self._have, self._data, self._end = found.have, found.data, found.watermark
        # Slots name bases by these numbers, so a number once given stays.
        self._numbers = list(found.bases)
        self._numbers += [base.id for base in self._bases if base.linked and base.id not in self._numbers]
        del self._numbers[MAX_BASES:]
        self._holders: dict[PackId, PackFile] = {base.id: base.pack for base in self._bases}
        for record in self._pack.scan(self._end):
            self._adopt(record)
            self._end = record.end
        if self._end < size:
            self._pack.truncate(self._end)
        self._pack.sync()
        self._written = Bitmap(self.chunks, bytes(self._have))
        self._checked = Bitmap(self.chunks)
        self._checked_to = PACK_HEADER
        self._pending: list[tuple[int, int]] = []
        self._synced = self._end
        self._watermark = found.watermark
        self._slots_in_doubt = False
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
            slot = self._slot_of(record)
        except (FrameError, PayloadError) as error:
            _log.warning("%s: record at %d passed over: %s", self._pack.path, record.offset, error)
            return
        if slot is not None:
            self._index.write_slot(slot)
            self._data.set_range(frame.chunk, frame.end_chunk)
        else:
            self._data.keep_where(self._have, frame.chunk, frame.end_chunk)
        self._have.set_range(frame.chunk, frame.end_chunk)

    def _slot_of(self, record: Record) -> Slot | None:
        """The slot that a record gives its chunk; None for a run. Raises PayloadError, also if a link leads nowhere."""
        frame = record.frame
        if frame.type is FrameType.REF:
            link = Link.unpack(record.payload)
            number = None if link is None else self._number_of(link.holder)
            if link is None or number is None:
                raise PayloadError(UNKNOWN_REF, "the link is damaged, or the pack that it names is not here")
            return _link_slot(frame, link, number)
        return replace(take_in(frame, record.payload).slot, offset=record.offset) if frame.has_payload else None

    def _number_of(self, holder: PackId) -> int | None:
        """The number under which slots name a linked pack; None if this one is not linked."""
        linked = any(base.linked and base.id == holder for base in self._bases)
        return self._numbers.index(holder) + 1 if linked and holder in self._numbers else None

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

        Chunks that are there already stay as they are: a chunk has one content, whoever sends it again. A REF becomes a
        link to what an earlier attempt has. Raises PayloadError or FrameError if the payload is not what the header
        says, no earlier attempt has it, or the frame does not fit the disk (nothing is written), StagingFullError,
        StagingError.
        """
        self.check_fits(frame)
        with self._lock:
            if self._written.all_set(frame.chunk, frame.end_chunk):
                return False
        slot: Slot | None = None
        if frame.type is FrameType.REF:
            frame, payload, slot = self._resolve(frame)
        elif frame.has_payload:
            intake = take_in(frame, payload)
            frame, payload, slot = intake.frame, intake.payload, intake.slot
        with self._lock:
            # Once more: meanwhile another connection may have sent the same.
            if self._written.all_set(frame.chunk, frame.end_chunk):
                return False
            self._pack.write(self._end, frame.pack(), payload)
            if slot is not None:
                try:
                    self._index.write_slot(slot if slot.base else replace(slot, offset=self._end))
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

    def _resolve(self, frame: Frame) -> tuple[Frame, bytes | memoryview, Slot]:
        """A REF frame as what is stored for it: a link, or a copy where no link is possible. Raises PayloadError."""
        for base in self._bases:
            found = base.find(frame)
            if found is None:
                continue
            holder, slot = found
            pack = self._holders.get(holder)
            if pack is None or slot.offset + HEADER + slot.length > pack.size:
                continue
            number = self._number_of(holder)
            if number is not None:
                link = Link(holder, slot.codec, slot.offset, slot.length, slot.sectors, slot.stored_digest)
                return frame, link.pack(), _link_slot(frame, link, number)
            try:
                stored = _read_chunk(pack, holder.disk, slot)
            except ChunkDamagedError:
                continue
            copy = replace(stored.frame, type=FrameType.DATA, disk=self.disk)
            return copy, stored.payload, replace(slot, type=FrameType.DATA, base=0)
        raise PayloadError(UNKNOWN_REF, f"chunk {frame.chunk}: no earlier attempt has it")

    def digest_prefixes(self, first: int, count: int) -> bytes | None:
        """What earlier attempts hold of ``count`` chunks: the first 8 bytes of each digest, zeros where there is none.

        None if there is no earlier attempt.
        """
        return digest_prefixes(self._bases, first, count) if self._bases else None

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

    def settle(self) -> None:
        """Makes durable all that came, and brings the index up to date: a later attempt takes over no more than that.

        The connection of a source that was reset may stay open for long, with what it brought not durable yet.
        Raises StagingFullError, StagingError.
        """
        self.commit(self.epoch)
        self.checkpoint()

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
        # Chunks that were sent anew after they had been dropped may have lost their old slots to what is gone.
        self._slots_in_doubt = True

    def drop(self, chunks: Iterable[int]) -> None:
        """Forgets chunks, so that they are asked for again. Durable unless there is no room to note it."""
        with self._lock:
            for chunk in chunks:
                for bitmap in (self._have, self._data, self._written, self._checked):
                    bitmap.clear_range(chunk, chunk + 1)
        self._checkpoint_if_possible()

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

    def slots(self) -> Iterator[Slot]:
        """The slots of the data chunks, ascending. Raises ChunkDamagedError."""
        return self._index.read_slots(self.data_bitmap())

    def load(self, chunk: int, buffer: memoryview | None = None) -> StoredChunk:
        """Reads a data chunk and proves that it is the one that was verified when it came. Raises ChunkDamagedError.

        Into ``buffer``, if it is given and large enough (RECORD_BYTES are): new memory for every chunk has its price.
        """
        slot = self.slot(chunk)
        holder, pack = self._holder(slot)
        return _read_chunk(pack, holder.disk, slot, buffer)

    def _holder(self, slot: Slot) -> tuple[PackId, PackFile]:
        """The pack in which the chunk of a slot lies. Raises ChunkDamagedError."""
        if slot.base == 0:
            return self._pack_id, self._pack
        holder = self._numbers[slot.base - 1] if slot.base <= len(self._numbers) else None
        pack = self._holders.get(holder) if holder is not None else None
        if holder is None or pack is None:
            raise ChunkDamagedError(slot.chunk, f"the pack of the earlier attempt that holds it is gone ({holder})")
        return holder, pack

    # --- verification -------------------------------------------------------------------------------------------

    @property
    def unchecked_bytes(self) -> int:
        """Durable bytes of the pack that ``check_next`` has not come to yet."""
        with self._lock:
            return self._synced - self._checked_to

    @property
    def checked(self) -> Checked:
        """How far the check has come. May be kept, and set after the disk was closed and opened again."""
        with self._lock:
            return Checked(bytes(self._checked), self._checked_to)

    @checked.setter
    def checked(self, value: Checked) -> None:
        with self._lock:
            if PACK_HEADER <= value.position <= self._synced:
                self._checked = Bitmap(self.chunks, value.chunks)
                self._checked.keep_where(self._have, 0, self.chunks)
                self._checked_to = value.position

    def check_next(self, most_bytes: int) -> list[ChunkDamagedError]:
        """Reads about so many further bytes of the pack from the device, in its order, and checks their chunks.

        What is durable never changes, so the check may run behind the copy. One thread at a time.
        """
        with self._lock:
            position, end = self._checked_to, min(self._synced, self._checked_to + most_bytes)
        damaged: list[ChunkDamagedError] = []
        with self._readers() as readers:
            own = readers[self._pack_id]
            while position < end:
                try:
                    frame = Frame.unpack(own.read(position, HEADER))
                except (FrameError, StagingError):
                    # Where the next record begins is not known. What is not checked here is checked chunk by chunk.
                    with self._lock:
                        position = self._synced
                    break
                if not frame.is_run and frame.chunk < self.chunks and self.holds_data(frame.chunk):
                    try:
                        slot = self.slot(frame.chunk)
                        if slot.base or slot.offset == position:
                            self._check_slot(slot, readers)
                    except ChunkDamagedError as error:
                        damaged.append(error)
                position += HEADER + body_length(frame)
        with self._lock:
            self._checked_to = position
        return damaged

    def check(self, chunks: Iterable[int]) -> list[ChunkDamagedError]:
        """Reads these data chunks from the device and checks them, wherever they lie; those that are damaged."""
        damaged: list[ChunkDamagedError] = []
        with self._readers() as readers:
            for chunk in chunks:
                try:
                    self._check_slot(self.slot(chunk), readers)
                except ChunkDamagedError as error:
                    damaged.append(error)
        return damaged

    def unchecked(self) -> Iterator[int]:
        """The data chunks that were not checked, ascending."""
        data = self.data_bitmap()
        with self._lock:
            checked = bytes(self._checked)
        return data.without(Bitmap(self.chunks, checked)).indices()

    def _check_slot(self, slot: Slot, readers: _Readers) -> None:
        """Raises ChunkDamagedError."""
        holder, _pack = self._holder(slot)
        try:
            record = readers[holder].read(slot.offset, HEADER + slot.length)
        except StagingError as error:
            raise ChunkDamagedError(slot.chunk, str(error)) from None
        _prove(slot, holder.disk, record)
        with self._lock:
            if self._have[slot.chunk]:
                self._checked.set_range(slot.chunk, slot.chunk + 1)

    @contextmanager
    def _readers(self) -> Iterator[_Readers]:
        readers = _Readers({self._pack_id: self._pack, **self._holders})
        try:
            yield readers
        finally:
            readers.close()

    # --- index --------------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Brings the index up to date, durably. Raises StagingFullError, StagingError."""
        with self._checkpointing:
            if self._slots_in_doubt:
                self._write_slots_again()
            with self._lock:
                watermark, have, data = self._synced, bytes(self._have), bytes(self._data)
                self._records = 0
            try:
                self._index.write_checkpoint(watermark, have, data, self._numbers)
            except StagingError:
                # The kernel forgets which pages it could not write, slots among them.
                self._slots_in_doubt = True
                raise
            with self._lock:
                self._watermark = watermark

    def _write_slots_again(self) -> None:
        """Makes the slots of everything after the last good checkpoint anew from the pack."""
        with self._lock:
            start, end = self._watermark, self._synced
            self._slots_in_doubt = False
        try:
            for record in self._pack.scan(start, end):
                try:
                    slot = self._slot_of(record)
                except PayloadError:
                    continue
                if slot is not None:
                    self._index.write_slot(slot)
        except StagingError:
            self._slots_in_doubt = True
            raise

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
            self._close_packs()

    def _close_packs(self) -> None:
        self._pack.close()
        for base in self._bases:
            base.close()


class _Readers(dict[PackId, DeviceReader]):
    """A reader for each pack that chunks lie in, opened when it is needed first."""

    def __init__(self, packs: Mapping[PackId, PackFile]) -> None:
        super().__init__()
        self._packs = packs

    def __missing__(self, holder: PackId) -> DeviceReader:
        self[holder] = reader = self._packs[holder].device()
        return reader

    def close(self) -> None:
        """Closes what was opened."""
        for reader in self.values():
            reader.close()


def _link_slot(frame: Frame, link: Link, number: int) -> Slot:
    """The slot of a chunk that lies in the pack of an earlier attempt."""
    return Slot(
        frame.chunk, link.offset, link.length, frame.run, link.codec, FrameType.DATA, link.sectors, frame.digest,
        link.stored_digest, number,
    )  # fmt: skip


def _read_chunk(pack: PackFile, disk: int, slot: Slot, buffer: memoryview | None = None) -> StoredChunk:
    """Reads what a slot speaks of. ``disk`` is the index of the pack's disk. Raises ChunkDamagedError."""
    size = HEADER + slot.length
    try:
        if buffer is None or len(buffer) < size:
            record = memoryview(pack.read(slot.offset, size))
        else:
            record = buffer[: pack.read_into(buffer[:size], slot.offset)]
    except StagingError as error:
        raise ChunkDamagedError(slot.chunk, str(error)) from None
    return StoredChunk(_prove(slot, disk, record), record[HEADER:])


def _prove(slot: Slot, disk: int, record: memoryview) -> Frame:
    """The header of a record that is what its slot speaks of. Raises ChunkDamagedError."""
    try:
        frame = Frame.unpack(record)
    except FrameError as error:
        raise ChunkDamagedError(slot.chunk, str(error)) from None
    if (frame.disk, frame.chunk, frame.digest, frame.run) != (disk, slot.chunk, slot.digest, slot.raw_length):
        raise ChunkDamagedError(slot.chunk, "the record in the pack is not the one that the index speaks of")
    if not is_unchanged(slot, record[HEADER:]):
        raise ChunkDamagedError(slot.chunk, "its payload in the pack has changed")
    return frame
