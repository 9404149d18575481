# SPDX-License-Identifier: GPL-3.0-or-later
"""A frame's payload, whatever its codec: its grains, its plain bytes, and whether they have the promised digest."""

from __future__ import annotations

from collections.abc import Iterator

from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import Codec, Frame
from coldmig_wire.geometry import GRAIN
from coldmig_wire.grains import Grain, GrainError, decode_chunk, is_zero, iter_grains
from coldmig_wire.zstd import ZstdPayloadError, decode_zstd

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
    """The grains of a payload, also of one that was sent plain (codec RAW). Raises GrainError.

    A ZSTD payload has none: it is made into grains when it arrives.
    """
    if codec is Codec.GRAINS:
        yield from iter_grains(payload, raw_length)
        return
    if codec is not Codec.RAW:
        raise GrainError(f"codec={codec.name}: has no grains")
    if len(payload) != raw_length:
        raise GrainError(f"payload: {len(payload)} bytes, must be {raw_length}")
    view = memoryview(payload)
    for index, start in enumerate(range(0, raw_length, GRAIN)):
        data = view[start : start + GRAIN]
        yield Grain(index, len(data), data[:0] if is_zero(data) else data, raw=True)


def plain_payload(frame: Frame, payload: _Buffer) -> _Buffer:
    """The plain bytes of a DATA or UNREADABLE frame's payload, whose digest is the header's. Raises PayloadError."""
    if len(payload) != frame.length:
        raise PayloadError(BAD_PAYLOAD, f"payload: {len(payload)} bytes, the header promises {frame.length}")
    raw: _Buffer
    try:
        if frame.codec is Codec.GRAINS:
            raw = decode_chunk(payload, frame.run)
        elif frame.codec is Codec.ZSTD:
            raw = decode_zstd(payload, frame.run)
        else:
            raw = payload
    except (GrainError, ZstdPayloadError) as error:
        raise PayloadError(BAD_PAYLOAD, str(error)) from None
    if chunk_digest(raw) != frame.digest:
        raise PayloadError(DIGEST_MISMATCH, f"chunk {frame.chunk}: the bytes do not have the digest of the header")
    return raw


def verify_payload(frame: Frame, payload: _Buffer) -> None:
    """Inflates the payload and compares the digest with the header's. Raises PayloadError."""
    plain_payload(frame, payload)
