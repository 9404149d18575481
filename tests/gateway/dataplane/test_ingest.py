# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import errno
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from coldmig_gateway.dataplane.connection import Connection
from coldmig_gateway.dataplane.settings import Limits
from coldmig_gateway.staging.pack import Pack
from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import CHUNK, Codec, Frame, FrameType
from coldmig_wire.grains import decode_chunk
from coldmig_wire.zstd import encode_zstd
from gateway.dataplane.front import FRAMES, Client, Front, wait_until
from gateway.dataplane.memory_site import ORGANIZATION, PROVIDER
from gateway.staging.content import data_frame, raw_chunk, zero_frame

ID = "11111111-2222-4333-8444-555555555555"
OTHER = "99999999-2222-4333-8444-555555555555"
SIZE = 40 * CHUNK


@pytest.fixture
def session(front: Front) -> Client:
    front.migration(ID, SIZE, 3 * CHUNK)
    return front.session(ID)


def test_nothing_is_there_at_first(session: Client) -> None:
    answer = session.request("GET", "/data/v1/disks/0/have")
    assert (answer.status, answer.body) == (200, bytes(5))
    assert session.have(1) == []


def test_what_is_answered_as_durable_is_had(front: Front, session: Client) -> None:
    answer = session.send([data_frame(3, raw_chunk(3)), zero_frame(10, 5), data_frame(1, raw_chunk(4), disk=1)])
    assert (answer.status, answer.json) == (200, {"durable": 7, "rejected": []})
    assert session.have(0) == [3, 10, 11, 12, 13, 14]
    assert session.have(1) == [1]
    assert front.site.migrations[ID].state == "copying"


def test_duplicates_count_as_durable_and_are_stored_once(front: Front, session: Client) -> None:
    frames = [data_frame(chunk, raw_chunk(chunk, stored=100)) for chunk in (5, 4, 5)]
    assert session.send(frames).json["durable"] == 3
    size = (front.staging / ID / "disk-0.pack").stat().st_size
    assert session.send(reversed(frames)).json["durable"] == 3
    assert (front.staging / ID / "disk-0.pack").stat().st_size == size


def test_a_chunk_with_another_digest_is_refused_and_the_others_are_kept(session: Client) -> None:
    wrong, payload = data_frame(1, raw_chunk(1))
    wrong = replace(wrong, digest=bytes(32))
    answer = session.send([data_frame(0, raw_chunk(0)), (wrong, payload), data_frame(2, raw_chunk(2))])
    assert answer.json == {"durable": 2, "rejected": [{"disk": 0, "chunk": 1, "reason": "digest-mismatch"}]}
    assert session.have() == [0, 2]
    assert session.send([data_frame(1, raw_chunk(1))]).json["durable"] == 1


def test_a_payload_that_does_not_decode_is_refused_and_the_others_are_kept(session: Client) -> None:
    frame, payload = data_frame(1, b"text " * (CHUNK // 5) + b"t")
    damaged = payload[:70] + bytes(10) + payload[80:]
    answer = session.send([(frame, damaged), data_frame(2, raw_chunk(2))])
    assert answer.json == {"durable": 1, "rejected": [{"disk": 0, "chunk": 1, "reason": "bad-payload"}]}


def test_an_empty_body_is_allowed(session: Client) -> None:
    assert session.send([]).json == {"durable": 0, "rejected": []}


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"x" * 64, "magic"),
        (data_frame(40, raw_chunk(0))[0].pack(), "chunks 0 to 39"),
        (zero_frame(39, 2)[0].pack(), "chunks 0 to 39"),
        (data_frame(0, raw_chunk(0), disk=2)[0].pack(), "disk=2"),
        (data_frame(0, b"x" * 512)[0].pack(), "run=512"),
        (data_frame(0, raw_chunk(0))[0].pack(), "the body ends"),
        (b"x" * 10, "before a header does"),
    ],
)
def test_a_malformed_frame_is_answered_by_400_and_what_came_before_stays(
    session: Client, bad: bytes, says: str
) -> None:
    frame, payload = data_frame(7, raw_chunk(7))
    answer = session.send_bytes(frame.pack() + payload + bad)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert answer.json["type"] == "urn:coldmig:problem:malformed-frame"
    assert says in answer.json["detail"]
    assert session.have() == [7]


def test_the_answer_of_400_arrives_although_much_of_the_body_was_not_sent_yet(session: Client) -> None:
    connection = session.open_socket()
    with connection:
        connection.sendall(session.frames_head(200 << 20) + b"garbage".ljust(64))
        received = b""
        while piece := connection.recv(4096):
            received += piece
    assert received.startswith(b"HTTP/1.1 400 ")


def test_a_connection_cut_in_the_middle_of_a_frame_keeps_what_came_before(session: Client) -> None:
    body = b"".join(frame.pack() + payload for frame, payload in (data_frame(n, raw_chunk(n)) for n in range(6)))
    with session.open_socket() as connection:
        connection.sendall(session.frames_head(len(body)) + body[:-300_000])
        # Without TLS's farewell, as when a network goes away; but not before the kernel has sent everything.
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: session.have() == [0, 1, 2, 3, 4], "the complete frames are durable")


def test_many_connections_at_once_lose_nothing(front: Front, session: Client) -> None:
    def send(part: int) -> None:
        answers.append(session.send([data_frame(n, raw_chunk(n)) for n in range(part, 40, 8)]).json)

    answers: list[dict[str, object]] = []
    threads = [threading.Thread(target=send, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [{"durable": 5, "rejected": []}] * 8
    assert session.have() == list(range(40))


def test_several_requests_share_one_connection(session: Client) -> None:
    connection = session.connect()
    for chunk in range(3):
        assert session.send([data_frame(chunk, raw_chunk(chunk))], connection=connection).status == 200
        sock = connection.sock
    assert connection.sock is sock is not None
    connection.close()
    assert session.have() == [0, 1, 2]


@pytest.mark.parametrize("pieces", [1, 63, 64, 65, 4096, 65_536, 65_537])
def test_it_does_not_matter_how_the_body_is_cut_into_packets(session: Client, pieces: int) -> None:
    content = [raw_chunk(0, stored=200), raw_chunk(1, stored=9), raw_chunk(2, stored=300 if pieces < 4096 else CHUNK)]
    frames = [zero_frame(5, 1), *(data_frame(chunk, raw) for chunk, raw in enumerate(content)), zero_frame(7, 2)]
    body = b"".join(frame.pack() + payload for frame, payload in frames)
    request = session.frames_head(len(body), "Connection: close\r\n") + body
    with session.open_socket() as connection:
        for start in range(0, len(request), pieces):
            connection.sendall(request[start : start + pieces])
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert received.endswith(b'{"durable": 6, "rejected": []}')
    assert session.have() == [0, 1, 2, 5, 7, 8]


def test_a_client_that_waits_for_100_continue_gets_it(session: Client) -> None:
    frame, payload = data_frame(0, raw_chunk(0))
    with session.open_socket() as connection:
        connection.sendall(session.frames_head(64 + len(payload), "Expect: 100-continue\r\n"))
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(frame.pack() + payload)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("token", "status"), [(None, 401), ("cm1_ses_unknown", 401), (PROVIDER, 403), (ORGANIZATION, 403)]
)
def test_only_the_session_of_a_migration_may_send_and_ask(front: Front, token: str | None, status: int) -> None:
    front.migration(ID, SIZE)
    client = front.client(token)
    for answer in (client.send([zero_frame(0, 1)]), client.request("GET", "/data/v1/disks/0/have")):
        assert answer.status == status
        assert answer.json["status"] == status
        assert ("www-authenticate" in answer.headers) == (status == 401)
    assert not front.staging.exists()


@pytest.mark.parametrize("state", ["waiting", "copied", "importing", "finished", "failed", "canceled"])
def test_in_a_state_in_which_nothing_is_copied_frames_are_refused_with_the_state(front: Front, state: str) -> None:
    front.migration(ID, SIZE, state=state)
    answer = front.session(ID).send([zero_frame(0, 1)])
    assert (answer.status, answer.json["type"]) == (409, "urn:coldmig:problem:wrong-state")
    assert answer.json["state"] == state
    assert not (front.staging / ID).exists()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": FRAMES, "Transfer-Encoding": "chunked"}, 411),
        ({"Content-Type": "application/json", "Content-Length": "0"}, 415),
        ({"Content-Type": FRAMES, "Content-Length": str((256 << 20) + 1)}, 413),
    ],
)
def test_a_body_of_another_kind_or_size_is_refused(session: Client, headers: dict[str, str], status: int) -> None:
    answer = session.request("POST", "/data/v1/frames", headers=headers)
    assert answer.status == status


def test_an_unknown_disk_has_no_bitmap(session: Client) -> None:
    answer = session.request("GET", "/data/v1/disks/2/have")
    assert (answer.status, answer.json["type"]) == (404, "urn:coldmig:problem:not-found")


@pytest.mark.parametrize("where", ["append", "sync"])
def test_full_storage_is_answered_by_507_and_loses_nothing_that_was_acknowledged(
    front: Front, session: Client, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    assert session.send([data_frame(0, raw_chunk(0))]).status == 200
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:

        def fail(*_: object) -> int:
            raise full

        patch.setattr(os, "pwritev" if where == "append" else "fdatasync", fail)
        answer = session.send([data_frame(1, raw_chunk(1))])
    assert (answer.status, answer.json["type"]) == (507, "urn:coldmig:problem:staging-full")
    assert session.have() == [0]
    assert session.send([data_frame(1, raw_chunk(1))]).status == 200
    assert session.have() == [0, 1]


def test_a_real_full_file_system_is_answered_by_507(front: Front, session: Client, small_tmpfs: None) -> None:
    answers = [session.send([data_frame(n, raw_chunk(n))]) for n in range(16)]
    statuses = [answer.status for answer in answers]
    assert 200 in statuses
    assert 507 in statuses
    stored = session.have()
    assert stored == [n for n, status in enumerate(statuses) if status == 200]


def test_chunks_that_the_source_could_not_read_are_kept_and_written_down(front: Front, session: Client) -> None:
    frame, payload = data_frame(3, raw_chunk(3))
    unreadable = replace(frame, type=FrameType.UNREADABLE)
    assert session.send([(unreadable, payload), data_frame(4, raw_chunk(4))]).json["durable"] == 2
    assert session.send([(unreadable, payload)]).json["durable"] == 1
    ((event, detail),) = front.site.migrations[ID].records
    assert event == "source-unreadable"
    assert "disk 0 chunk 3" in detail
    assert session.have() == [3, 4]


def test_a_flood_of_refused_chunks_gets_an_answer_of_bounded_size(make_front: Callable[..., Front]) -> None:
    front = make_front(Limits(rejected=5))
    front.migration(ID, SIZE)
    frame = Frame(FrameType.REF, Codec.RAW, 0, 1, CHUNK, 0, bytes(32))
    answer = front.session(ID).send([(frame, b"")] * 2000)
    assert len(answer.json["rejected"]) == 5


def test_slow_storage_holds_the_sender_back_instead_of_filling_memory(
    make_front: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, taken, answers = threading.Event(), [0], []
    real_write, real_read = Pack.write, Connection.read_into

    def slow(pack: Pack, offset: int, header: bytes, payload: bytes) -> None:
        gate.wait(60)
        real_write(pack, offset, header, payload)

    async def count(connection: Connection, buffer: memoryview) -> None:
        await real_read(connection, buffer)
        taken[0] += len(buffer)

    monkeypatch.setattr(Pack, "write", slow)
    monkeypatch.setattr(Connection, "read_into", count)
    front = make_front(Limits(batches_per_connection=2))
    front.migration(ID, SIZE)
    session = front.session(ID)
    frames = [data_frame(n, raw_chunk(n)) for n in range(40)]
    sender = threading.Thread(target=lambda: answers.append(session.send(frames).json))
    sender.start()
    try:
        wait_until(lambda: taken[0] > 3 * CHUNK, "the server has read what it may")
        time.sleep(1)
        # Two batches in the threads, one that waits for its turn, and what was read ahead.
        assert taken[0] < 5 * CHUNK
    finally:
        gate.set()
        sender.join()
    assert answers == [{"durable": 40, "rejected": []}]


def test_frames_in_random_order_over_two_disks_make_both_complete(front: Front, session: Client) -> None:
    frames = [data_frame(chunk, raw_chunk(chunk, stored=500)) for chunk in range(40)]
    frames += [data_frame(chunk, raw_chunk(100 + chunk, stored=500), disk=1) for chunk in range(3)]
    random.Random(5).shuffle(frames)
    for start in range(0, len(frames), 10):
        session.send(frames[start : start + 10])
    wait_until(lambda: front.site.migrations[ID].state == "copied", "both disks are verified")
    assert sorted(front.site.migrations[ID].verified) == [0, 1]


def test_who_has_to_wait_for_a_copy_slot_is_told_its_place(front: Front, session: Client) -> None:
    front.site.migrations[ID].queued = (3, 7)
    answer = session.send([data_frame(0, raw_chunk(0))])
    assert (answer.status, answer.json["type"]) == (409, "urn:coldmig:problem:queued")
    assert (answer.json["place"], answer.json["waiting"]) == (3, 7)
    front.site.migrations[ID].queued = None
    assert session.send([data_frame(0, raw_chunk(0))]).json["durable"] == 1


def test_a_chunk_that_came_as_a_zstandard_frame_is_staged_as_grains(front: Front, session: Client) -> None:
    raw = raw_chunk(1, stored=300_000)
    payload = encode_zstd(raw, 3)
    assert payload is not None
    frame = Frame(FrameType.DATA, Codec.ZSTD, 0, 1, CHUNK, len(payload), chunk_digest(raw))
    wrong = Frame(FrameType.DATA, Codec.ZSTD, 0, 2, CHUNK, len(payload), bytes(32))
    broken = Frame(FrameType.DATA, Codec.ZSTD, 0, 3, CHUNK, len(payload), chunk_digest(raw))
    answer = session.send([(frame, payload), (wrong, payload), (broken, bytes(len(payload)))])
    assert answer.json["durable"] == 1
    assert [(entry["chunk"], entry["reason"]) for entry in answer.json["rejected"]] == [
        (2, "digest-mismatch"),
        (3, "bad-payload"),
    ]
    record = (front.staging / ID / "disk-0.pack").read_bytes()[4096:]
    stored = Frame.unpack(record)
    assert (stored.codec, stored.digest) == (Codec.GRAINS, chunk_digest(raw))
    assert decode_chunk(record[64 : 64 + stored.length], CHUNK) == raw
