# SPDX-License-Identifier: GPL-3.0-or-later
"""Payloads: whatever arrives, no more comes out than a chunk, and nothing passes that is not what was promised."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zstandard import ZstdCompressor

from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import CHUNK, MAX_PAYLOAD, Codec, Frame, FrameError, FrameType
from coldmig_wire.geometry import GRAIN
from coldmig_wire.grains import GrainError, decode_chunk, encode_chunk, iter_grains
from coldmig_wire.payload import BAD_PAYLOAD, PayloadError, payload_grains, plain_payload, verify_payload
from coldmig_wire.zstd import MAX_LEVEL, MIN_LEVEL, ZstdPayloadError, decode_zstd, encode_zstd
from gateway.properties.strategies import bomb, chunks, grain_payloads, lengths


def data_frame(raw: bytes, payload: bytes, codec: Codec = Codec.GRAINS) -> Frame:
    return Frame(FrameType.DATA, codec, 0, 0, len(raw), len(payload), chunk_digest(raw))


@given(chunks())
def test_a_chunk_survives_its_encoding(raw: bytes) -> None:
    payload = encode_chunk(raw)
    assert len(payload) <= MAX_PAYLOAD
    assert decode_chunk(payload, len(raw)) == raw
    verify_payload(data_frame(raw, payload), payload)
    verify_payload(data_frame(raw, raw, Codec.RAW), raw)
    for codec, stored in ((Codec.GRAINS, payload), (Codec.RAW, raw)):
        grains = list(payload_grains(codec, stored, len(raw)))
        assert b"".join(bytes(grain.plain()) for grain in grains) == raw
        assert all(len(grain.data) <= grain.raw_length <= GRAIN for grain in grains)


@given(lengths, st.binary(max_size=3000))
def test_noise_is_exactly_a_chunk_or_an_error(raw_length: int, noise: bytes) -> None:
    try:
        raw = decode_chunk(noise, raw_length)
    except GrainError:
        return
    assert len(raw) == raw_length


@given(grain_payloads())
def test_a_payload_made_to_hurt_is_exactly_a_chunk_or_an_error(case: tuple[int, bytes]) -> None:
    raw_length, payload = case
    try:
        raw = decode_chunk(payload, raw_length)
    except GrainError:
        return
    assert len(raw) == raw_length
    # What is accepted is stored as it is, and so has to be what every later reader makes of it.
    assert sum(len(grain.data) for grain in iter_grains(payload, raw_length)) <= raw_length
    verify_payload(data_frame(raw, payload), payload)


@given(chunks(), st.data())
def test_a_changed_payload_is_refused_or_means_the_same(raw: bytes, data: st.DataObject) -> None:
    payload = bytearray(encode_chunk(raw))
    frame = data_frame(raw, bytes(payload))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        verify_payload(frame, bytes(payload))
    except PayloadError:
        return
    assert decode_chunk(bytes(payload), len(raw)) == raw


@given(chunks(), st.integers(-70_000, 70_000).filter(bool))
def test_a_payload_of_another_length_is_refused(raw: bytes, change: int) -> None:
    payload = encode_chunk(raw)
    other = payload[:change] if change < 0 else payload + bytes(change)
    with pytest.raises(PayloadError, match="promises"):
        verify_payload(data_frame(raw, payload), other)
    with pytest.raises((FrameError, PayloadError)):
        verify_payload(replace(data_frame(raw, payload), length=len(other)), other)


@given(chunks(), chunks())
def test_another_chunk_does_not_pass_for_the_promised_one(raw: bytes, other: bytes) -> None:
    if other[: len(raw)].ljust(len(raw), b"\0") == raw:
        return  # a payload of zeros is the same for many lengths
    payload = encode_chunk(other)
    with pytest.raises((FrameError, PayloadError)):
        verify_payload(replace(data_frame(raw, encode_chunk(raw)), length=len(payload)), payload)


@given(chunks(), st.integers(MIN_LEVEL, MAX_LEVEL), st.data())
def test_a_zstandard_frame_gives_its_chunk_or_an_error_whatever_is_changed(
    raw: bytes, level: int, data: st.DataObject
) -> None:
    payload = encode_zstd(raw, level)
    if payload is None:
        return
    assert len(payload) < len(raw)
    assert decode_zstd(payload, len(raw)) == raw
    frame = data_frame(raw, payload, Codec.ZSTD)
    assert plain_payload(frame, payload) == raw
    changed = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert plain_payload(frame, bytes(changed)) == raw
    except PayloadError:
        return


@given(lengths, st.binary(max_size=500), st.booleans())
def test_noise_is_no_zstandard_frame(raw_length: int, noise: bytes, magic: bool) -> None:
    with pytest.raises(ZstdPayloadError):
        decode_zstd(b"\x28\xb5\x2f\xfd" + noise if magic else noise, raw_length)


@pytest.mark.parametrize("states_its_size", [True, False])
def test_a_zstandard_bomb_takes_no_more_memory_than_a_chunk(states_its_size: bool) -> None:
    stream = ZstdCompressor(level=9, write_content_size=states_its_size).compress(bytes(256 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(ZstdPayloadError, match="states"):
            decode_zstd(stream, CHUNK)
        # A header that lies about the size: the frame header's four bytes of content size are made those of a chunk.
        if states_its_size:
            at = stream.index((256 << 20).to_bytes(4, "little"))
            with pytest.raises(ZstdPayloadError):
                decode_zstd(stream[:at] + CHUNK.to_bytes(4, "little") + stream[at + 4 :], CHUNK)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * CHUNK


def test_a_payload_of_bombs_takes_no_more_memory_than_a_chunk() -> None:
    stream = bomb(GRAIN)
    assert len(stream) < GRAIN
    payload = b"".join([len(stream).to_bytes(4, "little") * 16, stream * 16])
    frame = Frame(FrameType.DATA, Codec.GRAINS, 0, 0, CHUNK, len(payload), bytes(32))
    tracemalloc.start()
    try:
        with pytest.raises(PayloadError) as caught:
            verify_payload(frame, payload)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.reason == BAD_PAYLOAD
    assert peak < 2 * CHUNK
