# SPDX-License-Identifier: GPL-3.0-or-later
"""The ZSTD codec: what comes out is what went in, and nothing that a hostile sender states costs more than a chunk."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import CHUNK, Codec, Frame, FrameError, FrameType
from coldmig_wire.grains import GrainError
from coldmig_wire.payload import BAD_PAYLOAD, DIGEST_MISMATCH, PayloadError, payload_grains, plain_payload
from coldmig_wire.zstd import MAX_LEVEL, ZstdPayloadError, decode_zstd, encode_zstd

TEXT = b"".join(f"line {n} of some text\n".encode() for n in range(60_000))[:CHUNK]


def data_frame(raw: bytes, payload: bytes) -> Frame:
    return Frame(FrameType.DATA, Codec.ZSTD, 0, 0, len(raw), len(payload), chunk_digest(raw))


@pytest.mark.parametrize("level", [1, 3, MAX_LEVEL])
@pytest.mark.parametrize("size", [512, 70_000, CHUNK])
def test_what_was_encoded_is_decoded(level: int, size: int) -> None:
    raw = TEXT[:size]
    payload = encode_zstd(memoryview(bytearray(raw)), level)
    assert payload is not None
    assert len(payload) < size
    assert decode_zstd(payload, size) == raw
    assert plain_payload(data_frame(raw, payload), payload) == raw


def test_what_does_not_shrink_by_a_sixteenth_is_not_encoded() -> None:
    assert encode_zstd(random.Random(1).randbytes(CHUNK), 3) is None
    assert encode_zstd(b"x", 3) is None


@pytest.mark.parametrize(
    ("raw", "level", "named"), [(b"", 3, "raw"), (bytes(CHUNK + 1), 3, "raw"), (TEXT, 22, "level")]
)
def test_wrong_arguments_are_named(raw: bytes, level: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        encode_zstd(raw, level)


def refused(payload: bytes, size: int) -> str:
    with pytest.raises(ZstdPayloadError) as caught:
        decode_zstd(payload, size)
    return str(caught.value)


def test_a_frame_of_another_size_is_refused_before_it_is_inflated() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 30))
    assert "states 1073741824 bytes, must be 1048576" in refused(bomb, CHUNK)
    good = encode_zstd(TEXT, 3)
    assert good is not None
    assert "must be 1048575" in refused(good, CHUNK - 1)


def test_a_frame_that_does_not_say_its_size_is_refused() -> None:
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(TEXT)
    assert "must be 1048576" in refused(silent, CHUNK)


def test_a_window_beyond_the_bound_is_refused() -> None:
    # Magic, descriptor (content size of 8 bytes, no single segment), window of 16 MiB, content size, an empty block.
    frame = b"\x28\xb5\x2f\xfd" + bytes([0xC0, (24 - 10) << 3]) + struct.pack("<Q", 512) + b"\x01\x00\x00"
    assert "window of 16777216 bytes" in refused(frame, 512)


def test_a_frame_that_is_shorter_than_it_states_is_refused() -> None:
    frame = b"\x28\xb5\x2f\xfd" + bytes([0xC0, 0]) + struct.pack("<Q", 512) + b"\x01\x00\x00"
    refused(frame, 512)


def test_damage_a_cut_and_anything_behind_the_frame_are_refused() -> None:
    good = encode_zstd(TEXT, 3)
    assert good is not None
    assert "Zstandard" in refused(b"\0" + good[1:], CHUNK)
    skippable = b"\x50\x2a\x4d\x18" + struct.pack("<I", CHUNK)
    for payload in (good[:-1], good[:3], good + b"\0", good + good, b"", skippable, skippable + good):
        refused(payload, CHUNK)


@given(st.binary(max_size=200), st.integers(1, CHUNK))
def test_noise_is_refused_with_a_typed_error(noise: bytes, size: int) -> None:
    refused(b"\x28\xb5\x2f\xfd" + noise, size)


def test_a_payload_that_lies_about_its_chunk_is_refused_with_its_reason() -> None:
    payload = encode_zstd(TEXT, 3)
    assert payload is not None
    frame = data_frame(TEXT, payload)
    with pytest.raises(PayloadError) as caught:
        plain_payload(replace(frame, digest=bytes(32)), payload)
    assert caught.value.reason == DIGEST_MISMATCH
    with pytest.raises(PayloadError) as caught:
        plain_payload(frame, bytes(len(payload)))
    assert caught.value.reason == BAD_PAYLOAD


@pytest.mark.parametrize("length", [0, CHUNK])
def test_a_header_must_promise_something_shorter_than_the_chunk(length: int) -> None:
    with pytest.raises(FrameError, match="length"):
        Frame(FrameType.DATA, Codec.ZSTD, 0, 0, CHUNK, length, bytes(32))


def test_zstd_has_no_grains() -> None:
    with pytest.raises(GrainError, match="ZSTD"):
        list(payload_grains(Codec.ZSTD, b"", CHUNK))
