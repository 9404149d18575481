# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine that is booted again: what its earlier attempts left is not sent again."""

from __future__ import annotations

import shutil

import pytest

from coldmig_gateway.dataplane.site import DiskPlan, EarlierDisk
from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import CHUNK, Codec, Frame, FrameType
from gateway.dataplane.front import Client, Front, wait_until
from gateway.staging.content import damage_chunk, data_frame, raw_chunk, zero_frame

FIRST = "11111111-2222-4333-8444-555555555555"
SECOND = "22222222-2222-4333-8444-555555555555"
THIRD = "33333333-2222-4333-8444-555555555555"
SIZE = 40 * CHUNK
CONTENT = {chunk: raw_chunk(chunk) for chunk in (1, 2, 5)}
REST = [zero_frame(0, 1), zero_frame(3, 2), zero_frame(6, 34)]


def ref(chunk: int, raw: bytes) -> tuple[Frame, bytes]:
    return Frame(FrameType.REF, Codec.RAW, 0, chunk, len(raw), 0, chunk_digest(raw)), b""


def attempt(front: Front, migration_id: str, *earlier: str) -> Client:
    migration = front.migration(migration_id, SIZE)
    migration.disks = (DiskPlan(0, SIZE, 40, tuple(EarlierDisk(name, 0) for name in earlier)),)
    return front.session(migration_id)


def known(session: Client, first: int = 0, count: int = 40) -> dict[int, bytes]:
    answer = session.request("GET", f"/data/v1/disks/0/known?first={first}&count={count}")
    assert answer.status == 200, answer.body
    prefixes = [answer.body[at : at + 8] for at in range(0, len(answer.body), 8)]
    return {first + at: prefix for at, prefix in enumerate(prefixes) if any(prefix)}


@pytest.mark.parametrize("state", ["canceled", "copying", "copied"])
def test_a_rebooted_source_sends_only_what_is_new(front: Front, state: str) -> None:
    session = attempt(front, FIRST)
    session.send([data_frame(chunk, raw) for chunk, raw in CONTENT.items()] + ([] if state == "copying" else REST))
    if state == "copied":
        wait_until(lambda: front.site.migrations[FIRST].state == "copied", "the first attempt is verified")
    front.site.migrations[FIRST].state = state
    second = attempt(front, SECOND, FIRST)
    assert known(second) == {chunk: chunk_digest(raw)[:8] for chunk, raw in CONTENT.items()}
    assert known(second, 2, 3) == {2: chunk_digest(CONTENT[2])[:8]}
    answer = second.send(
        [ref(1, CONTENT[1]), ref(2, b"changed".ljust(CHUNK)), ref(5, CONTENT[5]), ref(9, bytes(CHUNK))]
    )
    assert answer.json["durable"] == 2
    rejected = answer.json["rejected"]
    assert [(entry["chunk"], entry["reason"]) for entry in rejected] == [(2, "unknown-ref"), (9, "unknown-ref")]
    assert second.have() == [1, 5]


def test_what_a_reset_source_left_on_an_open_connection_is_taken_over(front: Front) -> None:
    """Nobody tells the site of a reset: the body is never ended, and what came of it is not durable yet."""
    body = b"".join(frame.pack() + payload for frame, payload in (data_frame(at, raw) for at, raw in CONTENT.items()))
    session = attempt(front, FIRST)
    with session.open_socket() as hanging:
        hanging.sendall(session.frames_head(len(body) + CHUNK) + body)
        pack = front.staging / FIRST / "disk-0.pack"
        wait_until(lambda: pack.exists() and pack.stat().st_size > len(body), "all that came is in the pack")
        assert session.have() == []
        second = attempt(front, SECOND, FIRST)
        assert second.send([ref(chunk, raw) for chunk, raw in CONTENT.items()]).json["rejected"] == []


def test_the_earlier_attempt_may_be_deleted_before_the_new_one_is_complete(front: Front) -> None:
    attempt(front, FIRST).send([data_frame(chunk, raw) for chunk, raw in CONTENT.items()])
    front.site.migrations[FIRST].state = "canceled"
    second = attempt(front, SECOND, FIRST)
    assert second.send([ref(1, CONTENT[1])]).json["rejected"] == []
    shutil.rmtree(front.staging / FIRST)
    third = attempt(front, THIRD, SECOND, FIRST)
    assert sorted(known(third)) == [1, 2, 5]
    assert third.send([ref(chunk, raw) for chunk, raw in CONTENT.items()]).json["rejected"] == []
    shutil.rmtree(front.staging / SECOND)
    third.send(REST)
    wait_until(lambda: front.site.migrations[THIRD].state == "copied", "the third attempt is verified")
    assert front.site.migrations[THIRD].verified[0].data_chunks == 3
    assert front.site.migrations[THIRD].verified[0].stored_bytes > 3 * CHUNK


def test_what_was_taken_over_and_is_damaged_is_asked_for_and_sent_again(front: Front) -> None:
    attempt(front, FIRST).send([data_frame(chunk, raw) for chunk, raw in CONTENT.items()])
    front.site.migrations[FIRST].state = "canceled"
    second = attempt(front, SECOND, FIRST)
    second.send([ref(chunk, raw) for chunk, raw in CONTENT.items()])
    damage_chunk(front.staging / FIRST / "disk-0.pack", 1)
    second.send(REST)
    records = front.site.migrations[SECOND].records
    wait_until(lambda: records, "the damage is found")
    assert records[0][0] == "chunk-damaged"
    assert "chunk 1" in records[0][1]
    wait_until(lambda: 1 not in second.have(), "the chunk is missing")
    # Sent as data this time, as an agent does after its first pass.
    second.send([data_frame(1, CONTENT[1])])
    wait_until(lambda: front.site.migrations[SECOND].state == "copied", "the rest is verified")


def test_without_an_earlier_attempt_nothing_is_known(front: Front) -> None:
    session = attempt(front, FIRST)
    assert session.request("GET", "/data/v1/disks/0/known?first=0&count=9").status == 204
    assert session.send([ref(1, CONTENT[1])]).json["rejected"][0]["reason"] == "unknown-ref"


def test_an_earlier_attempt_that_left_nothing_is_none(front: Front) -> None:
    session = attempt(front, SECOND, FIRST)
    assert session.request("GET", "/data/v1/disks/0/known?first=0&count=9").status == 204
    assert not (front.staging / FIRST).exists()


@pytest.mark.parametrize("query", ["", "?first=0", "?first=40&count=1", "?first=0&count=65537", "?first=-1&count=1"])
def test_a_window_that_cannot_be_is_refused(front: Front, query: str) -> None:
    assert attempt(front, FIRST).request("GET", f"/data/v1/disks/0/known{query}").status == 400


def test_a_window_ends_with_the_disk(front: Front) -> None:
    attempt(front, FIRST).send([data_frame(39, raw_chunk(39))])
    front.site.migrations[FIRST].state = "failed"
    answer = attempt(front, SECOND, FIRST).request("GET", "/data/v1/disks/0/known?first=38&count=65536")
    assert answer.body == bytes(8) + chunk_digest(raw_chunk(39))[:8]
