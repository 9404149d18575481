# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a chunk between the wire and the pack: it is inflated, compared with its digest, made into grains."""

from __future__ import annotations

from dataclasses import dataclass, replace

from blake3 import blake3

from coldmig_gateway.staging.index import PLAIN, Slot
from coldmig_gateway.vmdk.stream_optimized import chunk_sectors
from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import TABLE_ENTRY, Codec, Frame
from coldmig_wire.geometry import GRAIN, grain_count
from coldmig_wire.grains import Grain, GrainError, encode_chunk
from coldmig_wire.payload import BAD_PAYLOAD, DIGEST_MISMATCH, PayloadError, payload_grains
from coldmig_wire.zstd import ZstdPayloadError, decode_zstd

_Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Intake:
    """A verified chunk as it goes into the pack: header, payload, and its slot without an offset."""

    frame: Frame
    payload: _Buffer
    slot: Slot


def take_in(frame: Frame, payload: _Buffer) -> Intake:
    """Verifies a DATA or UNREADABLE frame. A ZSTD payload becomes GRAINS. Raises PayloadError."""
    if len(payload) != frame.length:
        raise PayloadError(BAD_PAYLOAD, f"payload: {len(payload)} bytes, the header promises {frame.length}")
    if frame.codec is Codec.ZSTD:
        try:
            payload = encode_chunk(decode_zstd(payload, frame.run))
        except ZstdPayloadError as error:
            raise PayloadError(BAD_PAYLOAD, str(error)) from None
        # What is checked from here on is what will be stored, so a fault in between cannot hide.
        frame = replace(frame, codec=Codec.GRAINS, length=len(payload))
    try:
        grains = list(payload_grains(frame.codec, payload, frame.run))
        if _is_plain(frame.codec, grains):
            stored_digest = PLAIN
            digest = chunk_digest(plain_part(frame.codec, frame.run, payload))
        else:
            # First the digest of what is stored, then the check of what it inflates to: whatever happens to the bytes
            # after the first shows in one of the two.
            stored_digest = chunk_digest(payload)
            digest = _inflated_digest(grains)
    except GrainError as error:
        raise PayloadError(BAD_PAYLOAD, str(error)) from None
    if digest != frame.digest:
        raise PayloadError(DIGEST_MISMATCH, f"chunk {frame.chunk}: the bytes do not have the digest of the header")
    slot = Slot(
        frame.chunk, 0, frame.length, frame.run, frame.codec, frame.type, chunk_sectors(grains), frame.digest,
        stored_digest,
    )  # fmt: skip
    return Intake(frame, payload, slot)


def is_unchanged(slot: Slot, payload: _Buffer) -> bool:
    """True if a payload read from a pack is the one that the slot was made for."""
    if slot.stored_digest != PLAIN:
        return chunk_digest(payload) == slot.stored_digest
    if slot.codec is Codec.GRAINS and bytes(payload[: _table_size(slot.raw_length)]) != _raw_table(slot.raw_length):
        return False
    return chunk_digest(plain_part(slot.codec, slot.raw_length, payload)) == slot.digest


def plain_part(codec: Codec, raw_length: int, payload: _Buffer) -> _Buffer:
    """The chunk's plain bytes inside a payload that holds them as they are."""
    return payload if codec is Codec.RAW else memoryview(payload)[_table_size(raw_length) :]


def _is_plain(codec: Codec, grains: list[Grain]) -> bool:
    """The chunk's bytes lie in the payload in one piece: their digest says all, a second one would cost for nothing."""
    return codec is Codec.RAW or all(grain.raw for grain in grains)


def _inflated_digest(grains: list[Grain]) -> bytes:
    state = blake3()
    for grain in grains:
        state.update(grain.plain())
    return state.digest()


def _table_size(raw_length: int) -> int:
    return grain_count(raw_length) * TABLE_ENTRY


def _raw_table(raw_length: int) -> bytes:
    """The grain table of a chunk whose grains are all stored plain."""
    lengths = (min(GRAIN, raw_length - start) for start in range(0, raw_length, GRAIN))
    return b"".join((length | 1 << 31).to_bytes(TABLE_ENTRY, "little") for length in lengths)
