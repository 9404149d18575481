# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import random
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldmig_wire.frames import MAX_PAYLOAD
from coldmig_wire.geometry import CHUNK, GRAIN, chunk_count, chunk_length
from coldmig_wire.grains import GrainEncoder, GrainError, decode_chunk, encode_chunk, is_zero, iter_grains

RAW_BIT = 1 << 31


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """Chunks made of pieces that deflate well, badly, or are zeros, with any last byte."""
    source = random.Random(draw(st.integers(0, 1 << 32)))
    size = draw(st.one_of(st.integers(1, 2000), st.integers(1, CHUNK), st.just(CHUNK)))
    kinds = draw(st.lists(st.sampled_from("ztr"), min_size=1, max_size=16))
    made = {"z": bytes(GRAIN), "t": b"some text that repeats. " * 2731, "r": source.randbytes(GRAIN)}
    return (b"".join(made[kind][:GRAIN] for kind in kinds) * 16)[:size]


def payload_of(entries: list[int], data: bytes = b"") -> bytes:
    return struct.pack(f"<{len(entries)}I", *entries) + data


@given(chunks())
def test_a_chunk_survives_the_round_trip(raw: bytes) -> None:
    payload = encode_chunk(raw)
    assert len(payload) <= MAX_PAYLOAD
    assert decode_chunk(payload, len(raw)) == raw
    assert decode_chunk(memoryview(bytearray(payload)), len(raw)) == raw
    assert encode_chunk(memoryview(bytearray(raw))) == payload


@given(chunks())
def test_every_stored_grain_is_a_zlib_stream_or_the_raw_bytes(raw: bytes) -> None:
    for grain in iter_grains(encode_chunk(raw), len(raw)):
        plain = raw[grain.index * GRAIN :][:GRAIN]
        if grain.is_zero:
            assert plain == bytes(len(plain))
        elif grain.raw:
            assert grain.data == plain
        else:
            assert zlib.decompress(grain.data) == plain


@given(st.binary(max_size=300), st.integers(1, CHUNK))
def test_random_payloads_are_refused_or_decoded_to_the_promised_length(noise: bytes, raw_length: int) -> None:
    try:
        raw = decode_chunk(noise, raw_length)
    except GrainError:
        return
    assert len(raw) == raw_length


@given(chunks(), st.data())
def test_a_damaged_payload_never_decodes_to_another_length(raw: bytes, data: st.DataObject) -> None:
    payload = bytearray(encode_chunk(raw))
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decoded = decode_chunk(payload, len(raw))
    except GrainError:
        return
    assert len(decoded) == len(raw)


def test_zero_chunks_cost_only_their_table() -> None:
    assert encode_chunk(bytes(CHUNK)) == bytes(64)
    assert decode_chunk(bytes(64), CHUNK) == bytes(CHUNK)
    assert encode_chunk(bytes(513)) == bytes(4)


def test_incompressible_grains_are_kept_raw_even_after_compressible_ones() -> None:
    raw = b"a" * GRAIN + os.urandom(2 * GRAIN) + b"b" * GRAIN
    table = struct.unpack_from("<4I", encode_chunk(raw))
    assert [bool(entry & RAW_BIT) for entry in table] == [False, True, True, False]


@pytest.mark.parametrize("size", [0, CHUNK + 1])
def test_a_chunk_of_impossible_size_is_refused_on_both_sides(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size}"):
        encode_chunk(bytes(size))
    with pytest.raises(GrainError, match="raw_length"):
        decode_chunk(bytes(64), size)


def test_a_zip_bomb_is_stopped_at_the_grain_size_without_being_inflated() -> None:
    bomb = zlib.compress(bytes(40 << 20), 9)
    assert len(bomb) < GRAIN
    payload = payload_of([len(bomb)], bomb)
    tracemalloc.start()
    try:
        with pytest.raises(GrainError, match="inflates to more than 65536"):
            decode_chunk(payload, GRAIN)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * GRAIN


def test_a_grain_that_inflates_to_one_byte_too_many_is_refused() -> None:
    stream = zlib.compress(bytes(GRAIN + 1))
    with pytest.raises(GrainError, match="grain 0: inflates to more than 65536"):
        decode_chunk(payload_of([len(stream)], stream), GRAIN)


def test_a_grain_that_inflates_to_too_few_bytes_is_refused() -> None:
    stream = zlib.compress(bytes(GRAIN - 1))
    with pytest.raises(GrainError, match="grain 1: inflates to 65535 bytes, must be 65536"):
        decode_chunk(payload_of([0, len(stream)], stream), 2 * GRAIN)


def test_a_stream_without_its_end_is_refused() -> None:
    stream = zlib.compress(b"x" * GRAIN)[:-1]
    with pytest.raises(GrainError, match="does not end"):
        decode_chunk(payload_of([len(stream)], stream), GRAIN)


def test_a_wrong_checksum_inside_a_stream_is_refused() -> None:
    stream = bytearray(zlib.compress(b"x" * GRAIN))
    stream[-1] ^= 1
    with pytest.raises(GrainError, match="not a zlib stream"):
        decode_chunk(payload_of([len(stream)], bytes(stream)), GRAIN)


def test_garbage_behind_a_stream_inside_its_grain_is_refused() -> None:
    stream = zlib.compress(b"x" * GRAIN) + b"?"
    with pytest.raises(GrainError, match="1 bytes after the zlib stream"):
        decode_chunk(payload_of([len(stream)], stream), GRAIN)


def test_garbage_behind_the_last_grain_is_refused() -> None:
    with pytest.raises(GrainError, match="3 bytes after the last grain"):
        decode_chunk(payload_of([0]) + b"abc", GRAIN)


@pytest.mark.parametrize(
    ("entries", "raw_length", "message"),
    [
        ([1 << 24], GRAIN, "bits 24 to 30"),
        ([RAW_BIT | (GRAIN - 1)], GRAIN, "raw with 65535 bytes, must be 65536"),
        ([RAW_BIT], GRAIN, "raw with 0 bytes"),
        ([GRAIN], GRAIN, "deflated to 65536 bytes, must be less"),
        ([600], 512, "must be less than 512"),
        ([100], GRAIN, "ends at byte 104 of a payload of 4 bytes"),
        ([0], 2 * GRAIN, "table of 2 grains"),
    ],
)
def test_a_table_that_cannot_be_true_is_refused(entries: list[int], raw_length: int, message: str) -> None:
    with pytest.raises(GrainError, match=message):
        decode_chunk(payload_of(entries), raw_length)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, 511, GRAIN, GRAIN + 1, CHUNK])
def test_is_zero_sees_a_single_bit_anywhere(kind: type, size: int) -> None:
    assert is_zero(kind(bytes(size)))
    for position in {0, size // 2, size - 1} if size else ():
        buf = bytearray(size)
        buf[position] = 1
        assert not is_zero(kind(buf))


@given(st.integers(1, 1 << 50))
def test_chunk_lengths_add_up_to_the_disk(size: int) -> None:
    count = chunk_count(size)
    assert (count - 1) * CHUNK + chunk_length(count - 1, size) == size
    with pytest.raises(ValueError, match="chunk="):
        chunk_length(count, size)


def test_an_encoder_finds_its_way_back_from_data_that_does_not_shrink_to_data_that_does() -> None:
    noise, text = random.Random(2).randbytes(CHUNK), b"some text that shrinks well. " * 40_000
    encoder = GrainEncoder()
    assert encoder.encode(noise) is None
    assert encoder.encode(noise) is None
    # One grain of text in a chunk of noise is enough to look at each grain.
    mixed = bytearray(noise)
    mixed[5 * GRAIN : 6 * GRAIN] = text[:GRAIN]
    payload = encoder.encode(mixed)
    assert payload is not None
    assert len(payload) < CHUNK - GRAIN // 2
    assert decode_chunk(payload, CHUNK) == mixed
    found = encoder.encode(text[:CHUNK])
    assert found is not None
    assert len(found) < CHUNK // 10
    assert decode_chunk(found, CHUNK) == text[:CHUNK]


def test_a_zero_grain_is_worth_a_payload_even_where_nothing_shrinks() -> None:
    encoder = GrainEncoder()
    raw = bytearray(random.Random(3).randbytes(CHUNK))
    assert encoder.encode(raw) is None
    raw[GRAIN : 2 * GRAIN] = bytes(GRAIN)
    payload = encoder.encode(memoryview(raw))
    assert payload is not None
    assert len(payload) == 64 + 15 * GRAIN
    assert decode_chunk(payload, CHUNK) == raw


@pytest.mark.parametrize("place", [0, 255, 256, GRAIN - 1, GRAIN, CHUNK - 1])
def test_a_single_byte_anywhere_is_no_zero_chunk(place: int) -> None:
    raw = bytearray(CHUNK)
    assert is_zero(memoryview(raw))
    raw[place] = 1
    assert not is_zero(memoryview(raw))
    assert not is_zero(raw)
