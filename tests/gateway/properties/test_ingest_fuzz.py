# SPDX-License-Identifier: GPL-3.0-or-later
"""The public port under whatever a hostile or broken agent may send: a real front, in a process of its own."""

from __future__ import annotations

import random
import ssl
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldmig_gateway.staging.disk import DiskStaging
from coldmig_wire.frames import CHUNK, HEADER, Codec, Frame, FrameError, FrameType
from coldmig_wire.payload import PayloadError, verify_payload
from gateway.dataplane.front import Client, start_server_process, write_certificate
from gateway.properties.strategies import HEADER_FIELDS, bomb
from gateway.staging.conftest import MIGRATION
from gateway.staging.content import data_frame, raw_chunk, zero_frame
from load.lab import status_kib

CHUNKS = 1 << 20
_ALLOWED = {200, 400, 401, 408, 411, 413, 415}
_MALICE = ["flip", "header", "noise", "cut", "bomb", "length", "zstd", "reference", "far", "digest"]


@dataclass
class Sent:
    """What an honest reader of everything that was sent may take from it: contents by chunk, None for zeros."""

    contents: dict[int, set[bytes | None]] = field(default_factory=dict)

    def read(self, body: bytes) -> set[int]:
        """Notes the frames of a body; the chunks that must be there if all of it arrived."""
        position, found = 0, set[int]()
        while position + HEADER <= len(body):
            try:
                frame = Frame.unpack(body[position : position + HEADER])
            except FrameError:
                break
            end = position + HEADER + frame.length
            if frame.disk or frame.end_chunk > CHUNKS or end > len(body) or (not frame.is_run and frame.run != CHUNK):
                break
            chunks = range(frame.chunk, frame.end_chunk)
            if frame.has_payload:
                try:
                    verify_payload(frame, body[position + HEADER : end])
                except PayloadError:
                    chunks = range(0)
            elif frame.type is FrameType.REF:
                chunks = range(0)
            for chunk in chunks:
                self.contents.setdefault(chunk, set()).add(frame.digest if frame.has_payload else None)
            found.update(chunks)
            position = end
        return found


@dataclass
class Target:
    """The front, and what it was sent so far."""

    client: Client
    pid: int
    sent: Sent
    start_kib: int
    honest: int = 0


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    directory = tmp_path_factory.mktemp("fuzz")
    write_certificate(directory)
    process, client = start_server_process(directory, MIGRATION, CHUNKS * CHUNK)
    found = Target(client, process.pid, Sent(), status_kib(process.pid, "VmRSS"))
    try:
        yield found
        process.terminate()
        process.wait(30)
        everything_is_what_was_sent(directory / "staging", found)
    finally:
        process.kill()
        process.wait()


def everything_is_what_was_sent(staging: Path, target: Target) -> None:
    """Opens what the front left behind, as the next start does."""
    disk = DiskStaging(staging, MIGRATION, 0, CHUNKS * CHUNK)
    try:
        data = set(disk.data_bitmap().indices())
        have = {chunk for chunk, byte in enumerate_bits(disk.have()) if byte}
        assert target.honest
        assert have <= target.sent.contents.keys()
        for chunk in have:
            digest = disk.load(chunk).frame.digest if chunk in data else None
            assert digest in target.sent.contents[chunk]
    finally:
        disk.close()


def enumerate_bits(bitmap: bytes) -> Iterator[tuple[int, bool]]:
    """Pairs of number and bit, without the long stretches of nothing."""
    for index, byte in enumerate(bitmap):
        for bit in range(8) if byte else ():
            yield index * 8 + bit, bool(byte >> bit & 1)


def piece(malice: str | None, chance: random.Random) -> bytes:
    """A frame, honest or not."""
    chunk = chance.randrange(CHUNKS)
    frame, payload = data_frame(chunk, raw_chunk(chance.randrange(1 << 30), stored=chance.choice([1, 500, 70_000])))
    if malice is None and chance.random() < 0.3:
        frame, payload = zero_frame(chunk, min(CHUNKS - chunk, chance.randrange(1, 2000)))
    header = frame.pack()
    if malice == "flip":
        at = chance.randrange(len(payload))
        payload = payload[:at] + bytes([payload[at] ^ chance.randrange(1, 256)]) + payload[at + 1 :]
    elif malice == "header":
        fields = list(HEADER_FIELDS.unpack(header[:60]))
        fields[chance.randrange(1, 9)] = chance.choice([0, 1, 2, 3, 255]) if chance.random() < 0.9 else 7
        fields[7] = fields[7] if isinstance(fields[7], bytes) else bytes(32)
        raw = HEADER_FIELDS.pack(*fields)
        header = raw + struct.pack("<I", zlib.crc32(raw))
    elif malice == "noise":
        return chance.randbytes(chance.randrange(1, 3000))
    elif malice == "cut":
        payload = payload[: chance.randrange(len(payload))]
    elif malice == "bomb":
        stream = bomb(1 << 16)
        payload = struct.pack("<I", len(stream)) * 16 + stream * 16
        header = replace(frame, length=len(payload)).pack()
    elif malice == "length":
        header = replace(frame, length=chance.randrange(64, 64 + CHUNK)).pack()
    elif malice == "zstd":
        payload = chance.choice([b"\x28\xb5\x2f\xfd" + chance.randbytes(100), chance.randbytes(500)])
        header = replace(frame, codec=Codec.ZSTD, length=len(payload)).pack()
    elif malice == "reference":
        return Frame(FrameType.REF, Codec.RAW, 0, chunk, CHUNK, 0, frame.digest).pack()
    elif malice == "far":
        header = replace(frame, chunk=chance.choice([CHUNKS, 1 << 40, (1 << 63)])).pack()
    elif malice == "digest":
        header = replace(frame, digest=chance.randbytes(32)).pack()
    return header + payload


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, int, list[float]]:
    """The bytes of a body, how many more (or fewer) are promised, and the pauses in which it is sent."""
    malice = draw(st.lists(st.one_of(st.none(), st.none(), st.sampled_from(_MALICE)), min_size=1, max_size=6))
    chance = random.Random(draw(st.integers(0, 1 << 32)))
    body = b"".join(piece(kind, chance) for kind in malice)
    promise = draw(st.sampled_from([0, 0, 0, 0, 1, 5000, 300 << 20, -1, -70]))
    pauses = draw(st.lists(st.sampled_from([0.0, 0.0, 0.01, 0.05]), max_size=4))
    return body, promise, pauses


def send(client: Client, body: bytes, promise: int, pauses: list[float]) -> int:
    """Sends the body as it is and reads the answer; its status, 0 if there was none."""
    connection = client.open_socket()
    try:
        connection.sendall(client.frames_head(max(0, len(body) + promise)))
        pieces = len(pauses) + 1
        for number in range(pieces):
            connection.sendall(body[len(body) * number // pieces : len(body) * (number + 1) // pieces])
            time.sleep(pauses[number] if number < len(pauses) else 0)
        if promise > 0:
            connection.settimeout(0.2)
        return int((connection.recv(4096) or b"HTTP/1.1 000").split()[1])
    except (TimeoutError, ConnectionError, ssl.SSLError):
        return 0
    finally:
        connection.close()


@settings(max_examples=settings.get_profile("coldmig").max_examples)
@given(bodies())
def test_whatever_is_sent_the_front_answers_keeps_what_is_right_and_serves_the_next(
    target: Target, case: tuple[bytes, int, list[float]]
) -> None:
    body, promise, pauses = case
    arrived = body[: len(body) + promise] if promise < 0 else body
    expected = target.sent.read(arrived)
    status = send(target.client, body, promise, pauses)
    assert status in _ALLOWED or (status == 0 and promise), status
    # The next honest request is served as if nothing had been, and is durable.
    frame, payload = data_frame(target.honest % CHUNKS, raw_chunk(target.honest, stored=100))
    target.sent.read(frame.pack() + payload)
    answer = target.client.send([(frame, payload)])
    assert (answer.status, answer.json["durable"]) == (200, 1)
    target.honest += 1
    have = target.client.request("GET", "/data/v1/disks/0/have").body
    if status in {200, 400} and promise <= 0:
        assert all(have[chunk >> 3] >> (chunk & 7) & 1 for chunk in expected)
    assert status_kib(target.pid, "VmHWM") - target.start_kib <= 64 << 10
