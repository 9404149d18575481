# SPDX-License-Identifier: GPL-3.0-or-later
"""Staging that takes over earlier attempts, as a state machine: whatever happens to those, what was linked stays."""

from __future__ import annotations

import random
import shutil

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from coldmig_gateway.staging.disk import DiskStaging
from coldmig_wire.frames import HEADER, Codec, Frame, FrameType
from coldmig_wire.geometry import chunk_length
from coldmig_wire.payload import PayloadError
from gateway.properties.staging_model import CHUNKS, SIZE, Record, content_frame
from gateway.properties.test_pack_recovery import StagingMachine
from gateway.staging.content import store, zero_frame

FIRST = "11111111-1111-4111-8111-111111111111"
SECOND = "22222222-2222-4222-8222-222222222222"


def reference(chunk: int, variant: int) -> Frame:
    """A REF frame of one of a chunk's possible contents."""
    digest = content_frame(chunk, variant, FrameType.DATA, Codec.GRAINS)[0].digest
    return Frame(FrameType.REF, Codec.RAW, 0, chunk, chunk_length(chunk, SIZE), 0, digest)


class LinkingMachine(StagingMachine):
    """A third attempt. The first has chunks 0 to 3, the second refers to 0 and 1 of these and has 2, and 4 to 7."""

    earlier = ((SECOND, 0), (FIRST, 0))

    def _prepare(self) -> None:
        self._gone: set[str] = set()
        self._rotten: set[tuple[str, int]] = set()
        with_data = [content_frame(chunk, 0, FrameType.DATA, Codec.GRAINS) for chunk in range(8)]
        first = DiskStaging(self._root, FIRST, 0, SIZE)
        store(first, with_data[:4])
        first.close()
        second = DiskStaging(self._root, SECOND, 0, SIZE, [(FIRST, 0)])
        store(second, [(reference(0, 0), b""), (reference(1, 0), b""), with_data[2], *with_data[4:], zero_frame(8, 2)])
        second.close()
        #: Where a reference to a chunk leads: the newest attempt that has it, by way of its own link if it is one.
        self._holder = {chunk: FIRST if chunk in (0, 1, 3) else SECOND for chunk in range(8)}
        #: What the newest checkpoints of the earlier attempts say, which is what an opening learns.
        self._known = set(range(8))

    def _open(self) -> None:
        super()._open()
        self._offered = set(self._known)
        self._unsure: set[int] = set()

    @initialize(links=st.integers(0, 3), seed=st.integers(0, 1 << 16))
    def the_adoption_was_interrupted(self, links: int, seed: int) -> None:
        """Power failed when some of the links were there, perhaps to the wrong packs, and no pack yet."""
        self._staging.close()
        directory = self._path("pack").parent
        for path in directory.iterdir():
            path.unlink()
        chance = random.Random(seed)
        sources = [self._root / attempt / f"disk-0.{kind}" for attempt in (FIRST, SECOND) for kind in ("pack", "index")]
        for number in range(1, links + 1):
            for kind in ("pack", "index")[: chance.randrange(1, 3)]:
                (directory / f"disk-0.base-{number}.{kind}").hardlink_to(chance.choice(sources))
        self._open()

    @rule(first=st.integers(0, CHUNKS - 1), count=st.integers(1, 5), variant=st.sampled_from([0, 0, 0, 1]))
    def refer(self, first: int, count: int, variant: int) -> None:
        for chunk in range(first, min(first + count, CHUNKS)):
            self._refer(chunk, variant)

    def _refer(self, chunk: int, variant: int) -> None:
        frame = reference(chunk, variant)
        if chunk in self.model.written:
            assert not self._staging.append(frame)
            return
        if self.model.source.get(chunk, frame.digest) != frame.digest:
            return
        try:
            assert self._staging.append(frame)
        except PayloadError:
            assert variant or chunk not in self._offered or chunk in self._unsure
            return
        assert not variant
        assert chunk in self._known
        self.model.append_link(frame, self._path("pack").read_bytes()[self.model.end :])

    @rule()
    def references_are_announced(self) -> None:
        """The prefixes name nothing that is not there, and everything that surely is."""
        prefixes = self._staging.digest_prefixes(0, CHUNKS) or bytes(8 * CHUNKS)
        for chunk in range(CHUNKS):
            prefix = prefixes[8 * chunk : 8 * chunk + 8]
            if chunk in self._offered - self._unsure:
                assert prefix == reference(chunk, 0).digest[:8]
            elif chunk not in self._known:
                assert not any(prefix)

    @rule(attempt=st.sampled_from([FIRST, SECOND]))
    def the_earlier_attempt_is_deleted(self, attempt: str) -> None:
        shutil.rmtree(self._root / attempt, ignore_errors=True)
        self._gone.add(attempt)

    @rule(chunk=st.integers(0, CHUNKS - 1), drop=st.booleans())
    def the_second_attempt_is_still_alive(self, chunk: int, drop: bool) -> None:
        """Another agent with the same serial numbers sends what it lacks, or again what was damaged."""
        if SECOND in self._gone or (SECOND, chunk) in self._rotten:
            return
        second = DiskStaging(self._root, SECOND, 0, SIZE, [] if FIRST in self._gone else [(FIRST, 0)])
        try:
            own = second.holds_data(chunk) and self._holder.get(chunk) == SECOND
            if drop and own:
                second.drop([chunk])
            if chunk not in (8, 9):
                store(second, [content_frame(chunk, 0, FrameType.DATA, Codec.GRAINS)])
        finally:
            second.close()
        if chunk in (8, 9) or (not drop and own):
            return
        self._unsure.add(chunk)
        self._known.add(chunk)
        if chunk not in (0, 1):
            self._holder[chunk] = SECOND

    @rule(chunk=st.integers(0, 7))
    def a_linked_bit_rots(self, chunk: int) -> None:
        holder = self._holder[chunk]
        linked = [record for record in self.model.data.values() if record.first == chunk and record.is_link]
        if holder in self._gone or not linked:
            return
        frame, payload = content_frame(chunk, 0, FrameType.DATA, Codec.GRAINS)
        path = self._root / holder / "disk-0.pack"
        content = path.read_bytes()
        at = content.find(frame.pack() + payload)
        if at < 0 or content.count(frame.pack() + payload) != 1:
            return
        with path.open("r+b") as file:
            file.seek(at + HEADER + 62)
            file.write(bytes([content[at + HEADER + 62] ^ 0x40]))
        self._rotten.add((holder, chunk))

    def _content(self, chunk: int, record: Record, pack: bytes) -> bytes | None:
        if not record.is_link:
            return super()._content(chunk, record, pack)
        if any(rotten == chunk for _holder, rotten in self._rotten):
            return None
        frame, payload = content_frame(chunk, 0, FrameType.DATA, Codec.GRAINS)
        return frame.pack() + payload


def test_what_was_linked_stays_whatever_happens_to_the_earlier_attempts() -> None:
    current = settings()
    run_state_machine_as_test(
        LinkingMachine, settings=settings(current, max_examples=2 * current.max_examples, stateful_step_count=30)
    )
