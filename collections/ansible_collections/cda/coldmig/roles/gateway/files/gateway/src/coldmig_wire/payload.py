# SPDX-License-Identifier: GPL-3.0-or-later
"""A frame's payload, whatever its codec: its grains, its plain bytes, and whether they have the promised digest."""

from __future__ import annotations

from collections.abc import Iterator

from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import Codec, Frame
from coldmig_wire.geometry import GRAIN
from coldmig_wire.grains import Grain, GrainError, decode_chunk, is_zero, iter_grains

_Buffer = bytes | bytearray | memoryview

#: The reasons for which a chunk is refused, as they stand in answers.
DIGEST_MISMATCH = "digest-mismatch"
BAD_PAYLOAD = "bad-payload"


class PayloadError(ValueError):
    """A payload that is not what its header promises. ``reason`` is DIGEST_MISMATCH or BAD_PAYLOAD."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def payload_grains(codec: Codec, payload: _Buffer, raw_length: int) -> Iterator[Grain]:
    """The grains of a payload, also of one that was sent plain (codec RAW). Raises GrainError."""
    if codec is Codec.GRAINS:
        yield from iter_grains(payload, raw_length)
        return
    if len(payload) != raw_length:
        raise GrainError(f"payload: {len(payload)} bytes, must be {raw_length}")
    view = memoryview(payload)
    for index, start in enumerate(range(0, raw_length, GRAIN)):
        data = view[start : start + GRAIN]
        yield Grain(index, len(data), data[:0] if is_zero(data) else data, raw=True)


def verify_payload(frame: Frame, payload: _Buffer) -> None:
    """Inflates the payload and compares the digest with the header's. Raises PayloadError."""
    if len(payload) != frame.length:
        raise PayloadError(BAD_PAYLOAD, f"payload: {len(payload)} bytes, the header promises {frame.length}")
    try:
        raw = decode_chunk(payload, frame.run) if frame.codec is Codec.GRAINS else payload
    except GrainError as error:
        raise PayloadError(BAD_PAYLOAD, str(error)) from None
    if chunk_digest(raw) != frame.digest:
        raise PayloadError(DIGEST_MISMATCH, f"chunk {frame.chunk}: the bytes do not have the digest of the header")
