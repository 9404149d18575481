# SPDX-License-Identifier: GPL-3.0-or-later
"""Staging as a state machine: whatever is done to it and wherever it is cut, what was acknowledged is there."""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from coldmig_gateway.staging.disk import DiskStaging
from coldmig_gateway.staging.errors import ChunkDamagedError, StagingFullError
from coldmig_wire.frames import HEADER, Codec, Frame, FrameType
from coldmig_wire.payload import PayloadError
from gateway.properties.staging_model import CHUNKS, PAGE, SIZE, IndexModel, Model, Record, content_frame
from gateway.staging.conftest import MIGRATION
from gateway.staging.content import have, zero_frame

_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class StagingMachine(RuleBasedStateMachine):
    """One disk's staging and its model."""

    #: Attempts of the same machine before this one: migration and disk.
    earlier: tuple[tuple[str, int], ...] = ()

    def __init__(self) -> None:
        super().__init__()
        shm = Path("/dev/shm")
        self._top = Path(tempfile.mkdtemp(prefix="coldmig-machine-", dir=shm if os.access(shm, os.W_OK) else None))
        self._root = self._top
        self.model = Model()
        self.checkpoints = IndexModel()
        self.old_indexes: list[bytes] = []
        self._prepare()
        self._open()

    def _prepare(self) -> None:
        """What is there before the staging is opened for the first time."""

    def teardown(self) -> None:
        self._staging.close()
        shutil.rmtree(self._top)

    # --- the files ----------------------------------------------------------------------------------------------

    def _path(self, suffix: str) -> Path:
        return self._root / MIGRATION / f"disk-0.{suffix}"

    def _index_bytes(self) -> bytes:
        """The index with room for both headers and areas, which a file that was made anew does not have at once."""
        return self._path("index").read_bytes().ljust(4 * PAGE, b"\0")

    def _open(self) -> None:
        self._staging = DiskStaging(self._root, MIGRATION, 0, SIZE, self.earlier)
        self._epoch = self._staging.epoch
        self._note_index()

    def _note_index(self) -> None:
        """Remembers what is on the disk of the index after it was last made durable."""
        index = self._path("index").read_bytes()
        if self.checkpoints.note(index, self.model):
            self.durable_index = index
            if len(self.old_indexes) < 4:
                self.old_indexes.append(index)

    def _reopen(self, pack: bytes, index: bytes | None) -> None:
        """Leaves the files as the next start would find them after a crash, opens them, and looks at everything."""
        self._staging.close()
        self._start(pack, index)

    def _start(self, pack: bytes, index: bytes | None) -> None:
        known, watermark = self.checkpoints.newest(index or b"")
        self.model = self.model.recovered(pack, known=known, watermark=watermark)
        self._path("pack").write_bytes(pack)
        self._path("index").unlink()
        if index is not None:
            self._path("index").write_bytes(index)
        self._open()
        self.everything_is_as_it_was()

    # --- what is done -------------------------------------------------------------------------------------------

    def _send(self, frame: Frame, payload: bytes = b"") -> None:
        before = self._path("pack").stat().st_size
        is_new = self._staging.append(frame, payload)
        assert is_new == self.model.append(frame, payload)
        assert self._path("pack").stat().st_size == self.model.end
        assert is_new == (self.model.end > before)

    @rule(
        chunk=st.integers(0, CHUNKS - 1),
        variant=st.integers(0, 1),
        kind=st.sampled_from([FrameType.DATA, FrameType.DATA, FrameType.UNREADABLE]),
        codec=st.sampled_from([Codec.GRAINS, Codec.GRAINS, Codec.GRAINS, Codec.RAW]),
    )
    def append_data(self, chunk: int, variant: int, kind: FrameType, codec: Codec) -> None:
        frame, payload = content_frame(chunk, variant, kind, codec)
        before = self.model.source.get(chunk, frame.digest)
        if chunk not in self.model.written and before != frame.digest:
            # The source does not change: what is sent again is what was sent before.
            if before is None:
                return
            frame, payload = content_frame(chunk, 1 - variant, kind, codec)
        self._send(frame, payload)

    @rule(first=st.integers(0, CHUNKS - 1), run=st.integers(1, CHUNKS), free=st.booleans())
    def append_run(self, first: int, run: int, free: bool) -> None:
        run = min(run, CHUNKS - first)
        for chunk in range(first, first + run):
            if chunk not in self.model.written and self.model.source.get(chunk) is not None:
                return
        frame, _ = zero_frame(first, run)
        self._send(replace(frame, type=FrameType.FREE_RUN) if free else frame)

    @rule(chunk=st.integers(0, CHUNKS - 1), at=st.integers(0, 59))
    def append_what_is_not_what_it_says(self, chunk: int, at: int) -> None:
        frame, payload = content_frame(chunk, 0, FrameType.DATA, Codec.GRAINS)
        broken = payload[:at] + bytes([payload[at] ^ 0x10]) + payload[at + 1 :]
        if chunk in self.model.written:
            assert not self._staging.append(frame, broken)
            return
        with pytest.raises(PayloadError):
            self._staging.append(frame, broken)
        assert self._path("pack").stat().st_size == self.model.end

    @rule(chunk=st.integers(0, CHUNKS - 1), written=st.integers(0, 150))
    def append_without_room(self, chunk: int, written: int) -> None:
        frame, payload = content_frame(chunk, 0, FrameType.DATA, Codec.GRAINS)
        if chunk in self.model.written or self.model.source.get(chunk, frame.digest) != frame.digest:
            return
        calls = [0]

        def short(fd: int, buffers: list[bytes], offset: int) -> int:
            calls[0] += 1
            if calls[0] > 1 or not written:
                raise _FULL
            return os.pwrite(fd, b"".join(bytes(buffer) for buffer in buffers)[:written], offset)

        with patch("os.pwritev", short), pytest.raises(StagingFullError):
            self._staging.append(frame, payload)
        assert self._path("pack").stat().st_size == self.model.end

    @rule()
    def commit(self) -> None:
        self._staging.commit(self._epoch)
        self.model.commit()
        self._note_index()

    @rule()
    def commit_fails(self) -> None:
        if self.model.end == self.model.committed_end:
            return

        def fail(_fd: int) -> None:
            raise _FULL

        with patch("os.fdatasync", fail), pytest.raises(StagingFullError):
            self._staging.commit(self._epoch)
        self._epoch = self._staging.epoch
        self.model.roll_back()
        assert self._path("pack").stat().st_size == self.model.end

    @precondition(lambda self: self.model.data)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        chunk = data.draw(st.sampled_from(sorted(self.model.data)))
        self._staging.drop([chunk])
        self.model.drop(chunk)
        self._note_index()

    @rule()
    def checkpoint(self) -> None:
        self._staging.checkpoint()
        self._note_index()

    @rule(seed=st.integers(0, 2**32))
    def checkpoint_is_torn(self, seed: int) -> None:
        """Power fails while the index is written: what of a sector or a page arrived is a matter of chance."""
        before = self._index_bytes()
        self._staging.checkpoint()
        after = bytearray(self._index_bytes())
        self._note_index()
        chance = random.Random(seed)
        changed = [at for at in range(2 * PAGE) if after[at] != before[at]]
        if not changed:
            return  # what a crash had left behind was this very header
        cut = chance.choice(changed)
        after[cut : 2 * PAGE] = before[cut : 2 * PAGE]
        if chance.random() < 0.5:
            for page in range(2 * PAGE, len(before), PAGE):
                if chance.random() < 0.5:
                    after[page : page + PAGE] = before[page : page + PAGE]
        self._reopen(self._path("pack").read_bytes(), bytes(after))

    @rule()
    def close_and_open(self) -> None:
        self._staging.close()
        self._note_index()
        self._start(self._path("pack").read_bytes(), self._path("index").read_bytes())

    @rule(
        cut=st.integers(0, 1 << 30),
        tail=st.sampled_from(["nothing", "zeros", "noise", "hole"]),
        index=st.sampled_from(["new", "durable", "mixed", "lost", "empty", "headers", "areas", "old"]),
        seed=st.integers(0, 1 << 32),
    )
    def crash(self, cut: int, tail: str, index: str, seed: int) -> None:
        """The pack ends at any byte after the last commit; what follows there, and the index, may be anything."""
        chance = random.Random(seed)
        pack = self._damage_tail(self._path("pack").read_bytes(), cut, tail, chance)
        current = self._index_bytes()
        areas = bytearray(current)
        areas[chance.choice((2, 3)) * PAGE] ^= chance.randrange(1, 256)
        mixed = b"".join(
            chance.choice((current, self.durable_index.ljust(len(current), b"\0")))[page : page + PAGE]
            for page in range(0, len(current), PAGE)
        )
        found = {
            "new": current,
            "durable": self.durable_index,
            "mixed": mixed,
            "lost": None,
            "empty": b"",
            "headers": chance.randbytes(2 * PAGE) + current[2 * PAGE :],
            "areas": bytes(areas),
            "old": chance.choice(self.old_indexes),
        }
        self._reopen(pack, found[index])

    def _damage_tail(self, pack: bytes, cut: int, tail: str, chance: random.Random) -> bytes:
        committed = self.model.committed_end
        edges = [at for record in self.model.records for at in (record.offset, record.offset + HEADER, record.stop)]
        near = [at + shift for at in edges for shift in (-1, 0, 1) if committed <= at + shift <= len(pack)]
        span = len(pack) - committed + 1
        at = committed + cut // 2 % span if cut % 2 or not near else near[cut // 2 % len(near)]
        if tail == "hole":
            end = min(len(pack), at + chance.randrange(1, 300))
            return pack[:at] + bytes(end - at) + pack[end:]
        rest = {"nothing": b"", "zeros": bytes(chance.randrange(5000)), "noise": chance.randbytes(500)}[tail]
        return pack[:at] + rest

    @precondition(lambda self: self.model.data)
    @rule(data=st.data())
    def bit_rots(self, data: st.DataObject) -> None:
        """A byte of a payload that was acknowledged changes on the disk."""
        record = self.model.durable[data.draw(st.sampled_from(sorted(self.model.data)))]
        if record.is_link:
            return
        at = record.offset + HEADER + data.draw(st.integers(0, len(record.content) - HEADER - 1))
        with self._path("pack").open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0] ^ data.draw(st.integers(1, 255))
            file.seek(at)
            file.write(bytes([byte]))

    # --- what must hold -----------------------------------------------------------------------------------------

    def exactly_what_was_acknowledged_counts(self) -> None:
        assert have(self._staging) == sorted(self.model.durable)
        assert list(self._staging.data_bitmap().indices()) == sorted(self.model.data)
        assert self._staging.stored_bytes == self.model.committed_end
        assert self._staging.complete == (len(self.model.durable) == CHUNKS)

    @invariant()
    def everything_is_as_it_was(self) -> None:
        self.exactly_what_was_acknowledged_counts()
        pack = self._path("pack").read_bytes()
        for chunk, record in self.model.data.items():
            content = self._content(chunk, record, pack)
            if content is None:
                with pytest.raises(ChunkDamagedError):
                    self._staging.load(chunk)
                continue
            stored = self._staging.load(chunk)
            assert stored.frame.pack() + stored.payload == content

    def _content(self, chunk: int, record: Record, pack: bytes) -> bytes | None:
        """Header and payload that a chunk has to give; None if it is damaged."""
        return record.content if record.is_whole(pack) else None


def test_staging_holds_what_it_acknowledged_whatever_happens() -> None:
    current = settings()
    run_state_machine_as_test(
        StagingMachine, settings=settings(current, max_examples=2 * current.max_examples, stateful_step_count=30)
    )
