# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldmig_wire.frames import CHUNK, HEADER, MAX_PAYLOAD, MAX_RUN, Codec, Frame, FrameError, FrameType
from coldmig_wire.geometry import GRAIN

DIGEST = bytes(range(32))
DATA = Frame(FrameType.DATA, Codec.GRAINS, 3, 7, CHUNK, 1000, DIGEST)
ZEROS = Frame(FrameType.ZERO_RUN, Codec.RAW, 0, 0, 5, 0, bytes(32))


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    kind = draw(st.sampled_from(FrameType))
    disk = draw(st.integers(0, 0xFFFF))
    chunk = draw(st.integers(0, 1 << 63))
    if kind in (FrameType.ZERO_RUN, FrameType.FREE_RUN):
        return Frame(kind, Codec.RAW, disk, chunk, draw(st.integers(1, MAX_RUN)), 0, bytes(32))
    raw = draw(st.integers(1, CHUNK))
    digest = draw(st.binary(min_size=32, max_size=32))
    if kind is FrameType.REF:
        return Frame(kind, Codec.RAW, disk, chunk, raw, 0, digest)
    codec = draw(st.sampled_from(Codec))
    if codec is Codec.RAW or raw == 1:
        return Frame(kind, Codec.RAW, disk, chunk, raw, raw, digest)
    if codec is Codec.ZSTD:
        return Frame(kind, codec, disk, chunk, raw, draw(st.integers(1, raw - 1)), digest)
    table = -(-raw // GRAIN) * 4
    return Frame(kind, Codec.GRAINS, disk, chunk, raw, draw(st.integers(table, table + raw)), digest)


def with_crc(fields: bytes) -> bytes:
    return fields + struct.pack("<I", zlib.crc32(fields))


@given(frames())
def test_a_header_survives_the_round_trip(frame: Frame) -> None:
    packed = frame.pack()
    assert len(packed) == HEADER
    assert Frame.unpack(packed) == frame
    assert Frame.unpack(bytearray(packed) + b"payload") == frame


@given(st.binary(min_size=64, max_size=64))
def test_random_bytes_are_refused_with_a_typed_error(noise: bytes) -> None:
    with pytest.raises(FrameError):
        Frame.unpack(noise)


@given(st.binary(min_size=56, max_size=56))
def test_a_valid_crc_over_random_fields_gives_a_checked_frame_or_an_error(noise: bytes) -> None:
    try:
        frame = Frame.unpack(with_crc(b"CMF1" + noise))
    except FrameError:
        return
    assert frame.length <= MAX_PAYLOAD
    assert frame.run <= max(CHUNK, MAX_RUN)


@given(frames(), st.integers(0, 511))
def test_any_flipped_bit_is_noticed(frame: Frame, bit: int) -> None:
    damaged = bytearray(frame.pack())
    damaged[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(FrameError):
        Frame.unpack(damaged)


def test_the_layout_is_the_documented_one() -> None:
    packed = DATA.pack()
    assert packed[:4] == b"CMF1"
    assert struct.unpack_from("<BBHQII", packed, 4) == (1, 2, 3, 7, CHUNK, 1000)
    assert packed[24:56] == DIGEST
    assert struct.unpack_from("<II", packed, 56) == (0, zlib.crc32(packed[:60]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("disk", -1),
        ("disk", 1 << 16),
        ("chunk", -1),
        ("chunk", (1 << 64) - 1),
        ("run", 0),
        ("run", CHUNK + 1),
        ("length", 63),
        ("length", MAX_PAYLOAD + 1),
        ("length", 0xFFFFFFFF),
        ("digest", b"short"),
        ("codec", Codec.RAW),
    ],
)
def test_a_data_header_with_a_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(FrameError, match="length" if field == "codec" else field):
        replace(DATA, **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [("run", 0), ("run", MAX_RUN + 1), ("length", 1), ("codec", Codec.GRAINS), ("digest", DIGEST)],
)
def test_a_run_with_a_payload_or_without_chunks_is_refused(field: str, value: object) -> None:
    with pytest.raises(FrameError, match=field):
        replace(ZEROS, **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("offset", "field"), [(4, "type"), (5, "codec"), (56, "reserved")])
def test_unknown_types_codecs_and_reserved_bits_are_refused(offset: int, field: str) -> None:
    fields = bytearray(DATA.pack()[:60])
    fields[offset] = 0x77
    with pytest.raises(FrameError, match=field):
        Frame.unpack(with_crc(bytes(fields)))


def test_a_header_cut_short_is_refused() -> None:
    with pytest.raises(FrameError, match="63 bytes"):
        Frame.unpack(DATA.pack()[:63])


def test_end_chunk_counts_the_chunks_of_a_run_and_one_for_data() -> None:
    assert ZEROS.end_chunk == 5
    assert DATA.end_chunk == 8
