# SPDX-License-Identifier: GPL-3.0-or-later
"""Making frames and sending them in batches: what is sent, how much at once, over how many connections."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from agent_lab import MIB

from coldmig_agent.api import FramesAnswer
from coldmig_agent.copying import connections as connections_module
from coldmig_agent.copying import sender as sender_module
from coldmig_agent.copying.channel import Channel, Closed
from coldmig_agent.copying.connections import Connections
from coldmig_agent.copying.encoder import Encoder, Entry
from coldmig_agent.copying.items import DataChunk, Item, Run
from coldmig_agent.copying.meter import Doing, Stopwatch
from coldmig_agent.copying.pool import Pool
from coldmig_agent.copying.progress import DiskProgress
from coldmig_agent.copying.sample import Reservoir
from coldmig_agent.copying.sender import STAGING_FULL, CopyStopped, Desk, Queued, Sender, StateChanged
from coldmig_agent.site import ProblemError, SiteError, TcpInfo, UnreachableError
from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import CHUNK, HEADER, Codec, Frame, FrameType
from coldmig_wire.payload import plain_payload
from support.images import text_chunk

TEXT = text_chunk(1)
NOISE = random.Random(1).randbytes(CHUNK)


class Bench:
    """An encoder with its pool."""

    def __init__(self, level: int = 0) -> None:
        self.level = level
        self.pool = Pool(4)
        self.sample = Reservoir()
        self.encoder = Encoder(lambda: self.level, {0: self.sample}, self.pool.give)

    def encode(self, content: bytes, **fields: Any) -> tuple[Entry, Frame, bytes]:
        (buffer,) = self.pool.take()
        buffer[: len(content)] = content
        self.sample.expect()
        entry = self.encoder.encode(DataChunk(0, 7, len(content), buffer, **fields))
        return entry, Frame.unpack(entry.header), bytes(entry.payload)


@pytest.mark.parametrize(("level", "codec"), [(0, Codec.GRAINS), (3, Codec.ZSTD)])
def test_what_shrinks_is_sent_in_the_codec_of_the_plan(level: int, codec: Codec) -> None:
    bench = Bench(level)
    entry, frame, payload = bench.encode(TEXT)
    assert (frame.type, frame.codec, frame.run, frame.digest) == (FrameType.DATA, codec, CHUNK, chunk_digest(TEXT))
    assert len(payload) < CHUNK // 4
    assert plain_payload(frame, payload) == TEXT
    assert entry.size == HEADER + len(payload)
    assert bench.pool.free == bench.pool.count


@pytest.mark.parametrize("level", [0, 3])
def test_what_does_not_shrink_is_sent_plain_out_of_the_pools_own_buffer(level: int) -> None:
    bench = Bench(level)
    for _chunk in range(2):
        entry, frame, payload = bench.encode(NOISE)
        assert (frame.codec, frame.length) == (Codec.RAW, CHUNK)
        assert payload == NOISE
        assert entry.buffer is not None
        assert isinstance(entry.payload, memoryview)
        assert entry.payload.obj is entry.buffer.obj
        assert bench.pool.free == bench.pool.count - 1
        bench.pool.give(entry.buffer)
    _entry, frame, payload = bench.encode(TEXT)
    assert frame.codec is not Codec.RAW


def test_a_short_last_chunk_is_framed_with_its_own_length() -> None:
    _entry, frame, payload = Bench().encode(TEXT[:5000])
    assert (frame.disk, frame.chunk, frame.run) == (0, 7, 5000)
    assert plain_payload(frame, payload) == TEXT[:5000]


def test_a_chunk_that_the_site_has_is_sent_as_its_digest() -> None:
    bench = Bench()
    entry, frame, payload = bench.encode(TEXT, known=chunk_digest(TEXT)[:8])
    assert (frame.type, frame.run, frame.digest, payload) == (FrameType.REF, CHUNK, chunk_digest(TEXT), b"")
    assert entry.size == HEADER
    assert bench.pool.free == bench.pool.count
    _entry, frame, _payload = bench.encode(TEXT, known=b"otherwis")
    assert frame.type is FrameType.DATA


def test_unreadable_parts_are_told_even_where_an_earlier_attempt_had_the_same() -> None:
    _entry, frame, payload = Bench().encode(TEXT, unreadable=512, known=chunk_digest(TEXT)[:8])
    assert frame.type is FrameType.UNREADABLE
    assert plain_payload(frame, payload) == TEXT


@pytest.mark.parametrize(("free", "kind"), [(False, FrameType.ZERO_RUN), (True, FrameType.FREE_RUN)])
def test_runs_have_no_payload(free: bool, kind: FrameType) -> None:
    entry = Bench().encoder.encode(Run(0, 5, 9, free))
    frame = Frame.unpack(entry.header)
    assert (frame.type, frame.chunk, frame.run, entry.size) == (kind, 5, 9, HEADER)
    assert entry.content == 0


# --- batches ----------------------------------------------------------------------------------------------------------


class Link:
    """A site that takes everything: ``answer`` may do something before, or raise."""

    def __init__(self, answer: Callable[[int], None] = lambda _number: None, have: bytes = bytes(64)) -> None:
        self.sizes: list[int] = []
        self.types: list[list[FrameType]] = []
        self._answer = answer
        self._have = have
        self.info: TcpInfo | None = None
        self.cuts = self.opened = 0
        self.opening: SiteError | None = None

    def open(self) -> None:
        self.opened += 1
        if self.opening is not None:
            raise self.opening

    def send(self, parts: Sequence[bytes | memoryview], on_sent: Callable[[], None]) -> FramesAnswer:
        body = b"".join(parts)
        on_sent()
        self._answer(len(self.sizes))
        self.sizes.append(len(body))
        types, at = [], 0
        while at < len(body):
            frame = Frame.unpack(body[at : at + HEADER])
            types.append(frame.type)
            at += HEADER + frame.length
        self.types.append(types)
        return FramesAnswer(len(types), ())

    def have(self, _disk: int, chunks: int) -> bytes:
        return self._have[: (chunks + 7) // 8]

    def tcp_info(self) -> TcpInfo | None:
        return self.info

    def cut(self) -> None:
        self.cuts += 1

    def close(self) -> None:
        pass


class Pass:
    """One sender with ``chunks`` of noise to send."""

    def __init__(self, link: Link, chunks: int, *, batch_bytes: int = 14 * MIB, number: int = 0) -> None:
        self.pool = Pool(64)
        self.items: Channel[Item] = Channel(128)
        self.said: list[str | None] = []
        self.halt = threading.Event()
        self.progress = {0: DiskProgress(0, chunks * MIB, chunks)}
        made: Any = lambda: link  # noqa: E731 - the shape that Connections wants
        self.desk = Desk(
            Connections(made, lambda: 1),
            self.items,
            self.pool.give,
            self.progress,
            self.halt,
            self.said.append,
            lambda: number + 1,
            lambda: batch_bytes,
        )
        samples = {0: Reservoir()}
        for chunk in range(chunks):
            (buffer,) = self.pool.take()
            buffer[:] = NOISE
            samples[0].expect()
            self.items.put(DataChunk(0, chunk, CHUNK, buffer))
        self.items.end()
        self.sender = Sender(number, self.desk, Encoder(lambda: 0, samples, self.pool.give), Stopwatch())


def batch_sizes(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> list[int]:
    """Bytes of each request when request number ``n`` takes ``seconds(n)``."""
    now = [0.0]
    monkeypatch.setattr(sender_module.time, "monotonic", lambda: now[0])

    def wait(number: int) -> None:
        now[0] += seconds(number)

    link = Link(wait)
    made = Pass(link, 60)
    made.sender.run()
    assert made.pool.free == made.pool.count
    assert made.progress[0].view().done_chunks == 60
    return link.sizes


def test_first_batches_are_small_and_of_many_sizes() -> None:
    sizes = []
    for number in range(4):
        link = Link()
        made = Pass(link, 12, number=number)
        made.sender.run()
        sizes.append(link.sizes[0])
    assert all(1 << 20 <= size < 3 << 20 for size in sizes)
    assert len(set(sizes)) > 1


def test_batches_are_small_on_a_slow_link_and_grow_to_their_limit_on_a_fast_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = batch_sizes(monkeypatch, lambda _number: 60)
    assert slow[-1] < 2 * MIB
    fast = batch_sizes(monkeypatch, lambda _number: 0.1)
    assert 13 * MIB < max(fast) < 16 * MIB


def test_batches_do_not_shrink_where_many_share_a_fast_link_and_recover_when_it_is_free_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = batch_sizes(monkeypatch, lambda _number: 10)
    assert min(shared[1:-1]) > 4 * MIB
    later = batch_sizes(monkeypatch, lambda number: 100 if number < 3 else 0.1)
    assert min(later[1:4]) < 2 * MIB
    assert max(later[4:]) > 8 * MIB


def test_a_batch_of_next_to_nothing_says_nothing_about_the_link() -> None:
    link = Link()
    made = Pass(link, 6)
    made.sender._adapt(64, 30.0)
    made.sender._adapt(64, 30.0)
    made.sender.run()
    assert link.sizes[0] > 3 * MIB


def problem(status: int, slug: str) -> ProblemError:
    return ProblemError(status, slug, f"the site says {slug}", {})


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (problem(507, "staging-full"), STAGING_FULL),
        (problem(400, "malformed-frame"), "something on the way changes it"),
        (UnreachableError("the connection was cut"), "was cut"),
    ],
)
def test_a_pause_is_told_and_ends_by_itself(error: SiteError, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module.Backoff, "next", lambda _self: 0.0)

    def answer(number: int) -> None:
        if not number and not made.said:
            raise error

    link = Link(answer)
    made = Pass(link, 3)
    made.sender.run()
    assert made.said[0] is not None
    assert words in made.said[0]
    assert made.said[-1] is None
    assert made.progress[0].view().done_chunks == 3
    assert made.pool.free == made.pool.count


def test_a_problem_is_over_when_no_sender_has_it_any_more() -> None:
    desk = Pass(Link(), 1).desk
    said: list[str | None] = []
    desk.say = said.append
    desk.trouble(0, "cut")
    desk.trouble(1, "cut")
    desk.fine(2)
    desk.fine(0)
    assert said == ["cut", "cut"]
    desk.fine(1)
    assert said[-1] is None


def test_only_what_did_not_arrive_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module.Backoff, "next", lambda _self: 0.0)

    def answer(_number: int) -> None:
        if not made.said:
            raise UnreachableError("cut")

    link = Link(answer, have=bytes([0b101]))
    made = Pass(link, 3)
    made.sender._adapt(0, 0.0)  # no taste of one chunk
    made.sender.run()
    assert link.types == [[FrameType.DATA]]
    assert made.progress[0].view().done_chunks == 3
    assert made.pool.free == made.pool.count


@pytest.mark.parametrize(
    ("error", "kind"), [(problem(409, "queued"), Queued), (problem(409, "wrong-state"), StateChanged)]
)
def test_a_place_in_the_queue_and_another_state_end_the_pass(error: SiteError, kind: type[CopyStopped]) -> None:
    def answer(_number: int) -> None:
        raise error

    with pytest.raises(kind):
        Pass(Link(answer), 2).sender.run()


# --- connections ------------------------------------------------------------------------------------------------------


def info(silent: float, *, unacknowledged: bool = True) -> TcpInfo:
    return TcpInfo(5, unacknowledged, 0, silent, 0.0, 0.0, 0.05)


def test_while_an_answer_is_awaited_another_connection_may_send() -> None:
    links: list[Any] = []

    def make() -> Any:
        links.append(Link())
        return links[-1]

    connections = Connections(make, lambda: 1)
    first = connections.take()
    taken: list[Any] = []
    waiting = threading.Thread(target=lambda: taken.append(connections.take()))
    waiting.start()
    time.sleep(0.05)
    assert not taken
    connections.sent(first)
    waiting.join(10)
    assert len(taken) == 1
    # The first has to send again: it waits for its turn, and nobody else gets a third one.
    again = threading.Thread(target=lambda: connections.send_again(first))
    again.start()
    again.join(0.05)
    assert again.is_alive()
    connections.give(taken[0])
    again.join(10)
    assert not again.is_alive()
    assert len(links) == 2


@pytest.mark.parametrize("error", [None, UnreachableError("no answer")])
def test_a_connection_opened_before_is_there_for_the_first_who_sends(error: SiteError | None) -> None:
    links: list[Any] = []

    def make() -> Any:
        links.append(Link())
        links[-1].opening = error
        return links[-1]

    connections = Connections(make, lambda: 2)
    connections.warm_up()
    assert (len(links), links[0].opened) == (1, 1)
    assert connections.take() is links[0]
    assert len(links) == 1


def test_a_connection_on_which_nothing_is_acknowledged_is_cut_and_a_silent_one_at_rest_is_not() -> None:
    links = [Link(), Link(), Link()]
    spare: list[Any] = list(links)
    connections = Connections(spare.pop, lambda: 3)
    for _link in links:
        connections.take()
    limit = connections_module.DEAD_SECONDS
    links[0].info, links[1].info, links[2].info = info(limit + 1), info(limit + 9, unacknowledged=False), info(1)
    assert connections.cut_dead() == limit + 1
    assert [link.cuts for link in links] == [1, 0, 0]
    links[0].info = None
    assert connections.cut_dead() is None


def test_after_an_abort_nobody_gets_a_connection_and_what_is_under_way_is_cut() -> None:
    link: Any = Link()
    connections = Connections(lambda: link, lambda: 1)
    connections.take()
    failures: list[str] = []

    def take() -> None:
        try:
            connections.take()
        except Closed:
            failures.append("closed")

    waiting = threading.Thread(target=take)
    waiting.start()
    connections.abort()
    waiting.join(10)
    assert failures == ["closed"]
    assert link.cuts == 1


# --- the little things ------------------------------------------------------------------------------------------------


def test_a_stopwatch_counts_what_lasts_still() -> None:
    now = [0.0]
    watch = Stopwatch(now=lambda: now[0])
    watch.now(Doing.COMPUTING)
    now[0] = 2.0
    watch.now(Doing.BLOCKED)
    now[0] = 5.0
    totals = watch.totals()
    assert (totals[Doing.COMPUTING], totals[Doing.BLOCKED], totals[Doing.STARVED]) == (2.0, 3.0, 0.0)


def test_a_pool_gives_all_or_nothing_and_what_was_used_last_first() -> None:
    pool = Pool(3)
    one, two = pool.take(2)
    got: list[list[memoryview]] = []
    thread = threading.Thread(target=lambda: got.append(pool.take(2)))
    thread.start()
    time.sleep(0.05)
    assert not got
    pool.give(one)
    thread.join(10)
    assert len(got[0]) == 2
    pool.give(two)
    assert pool.take()[0] is two
    pool.abort()
    with pytest.raises(Closed):
        pool.take(4)
