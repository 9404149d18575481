# SPDX-License-Identifier: GPL-3.0-or-later
"""Frame headers against every kind of damage and every field value."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coldmig_wire.frames import HEADER, Frame, FrameError
from gateway.properties.strategies import HEADER_FIELDS, frames

_SMALL = st.integers(0, 3)
_FIELD_VALUES = (
    st.one_of(_SMALL, st.integers(0, 255)),  # type
    st.one_of(_SMALL, st.integers(0, 255)),  # codec
    st.integers(0, 0xFFFF),  # disk
    st.one_of(_SMALL, st.integers((1 << 64) - (1 << 21), (1 << 64) - 1)),  # chunk
    st.one_of(_SMALL, st.integers((1 << 20) - 2, (1 << 20) + 2), st.integers(0, (1 << 32) - 1)),  # run
    st.one_of(_SMALL, st.integers((1 << 20) - 2, (1 << 20) + 66), st.integers(0, (1 << 32) - 1)),  # length
    st.one_of(st.just(bytes(32)), st.binary(min_size=32, max_size=32)),  # digest
    st.sampled_from([0, 0, 0, 1, 1 << 31]),  # reserved
)


def with_crc(fields: bytes) -> bytes:
    return fields + struct.pack("<I", zlib.crc32(fields))


@given(frames())
def test_what_is_packed_is_parsed_as_the_same_frame(frame: Frame) -> None:
    packed = frame.pack()
    assert len(packed) == HEADER
    for form in (packed, bytearray(packed), memoryview(packed + b"what follows")):
        assert Frame.unpack(form) == frame


@given(frames(), st.data())
def test_no_changed_byte_is_taken_for_another_frame(frame: Frame, data: st.DataObject) -> None:
    packed = bytearray(frame.pack())
    where = data.draw(st.lists(st.integers(0, HEADER - 1), min_size=1, max_size=3, unique=True))
    for at in where:
        packed[at] ^= data.draw(st.integers(1, 255))
    # CRC-32 finds every burst of up to 32 bits and so every single byte; three bytes are found as good as always.
    with pytest.raises(FrameError):
        Frame.unpack(packed)


@given(frames())
def test_each_single_byte_is_guarded(frame: Frame) -> None:
    packed = bytearray(frame.pack())
    for at in range(HEADER):
        for change in (0x01, 0x80, 0xFF):
            packed[at] ^= change
            with pytest.raises(FrameError):
                Frame.unpack(packed)
            packed[at] ^= change


@given(st.tuples(*_FIELD_VALUES))
@example((1, 1, 0, 0, 1 << 20, 100, bytes(32), 0))
def test_a_header_with_a_right_crc_is_a_frame_in_its_one_form_or_an_error(values: tuple[object, ...]) -> None:
    packed = with_crc(HEADER_FIELDS.pack(b"CMF1", *values))
    try:
        frame = Frame.unpack(packed)
    except FrameError:
        return
    assert frame.pack() == packed
    assert frame.end_chunk < 1 << 64
    if not frame.has_payload:
        assert frame.length == 0


@given(st.binary(max_size=200))
def test_noise_and_short_headers_are_refused(noise: bytes) -> None:
    with pytest.raises(FrameError):
        Frame.unpack(noise)
