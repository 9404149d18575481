# SPDX-License-Identifier: GPL-3.0-or-later
"""What the properties are tried with: frames, chunks, and payloads that are nearly right."""

from __future__ import annotations

import random
import struct
import zlib
from functools import cache

from hypothesis import strategies as st

from coldmig_wire.frames import CHUNK, MAX_RUN, Codec, Frame, FrameType
from coldmig_wire.geometry import GRAIN, grain_count

HEADER_FIELDS = struct.Struct("<4sBBHQII32sI")
_RAW_BIT = 1 << 31

#: Lengths of chunks: whole ones, last ones of a disk, and around the bounds of grains.
lengths = st.one_of(
    st.sampled_from([1, 511, 512, GRAIN - 1, GRAIN, GRAIN + 1, 3 * GRAIN, CHUNK - 512, CHUNK]), st.integers(1, CHUNK)
)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Any well-formed frame of a codec that every release knows."""
    kind = draw(st.sampled_from(FrameType))
    disk = draw(st.integers(0, 0xFFFF))
    chunk = draw(st.integers(0, 1 << 63))
    if kind in (FrameType.ZERO_RUN, FrameType.FREE_RUN):
        return Frame(kind, Codec.RAW, disk, chunk, draw(st.integers(1, MAX_RUN)), 0, bytes(32))
    raw = draw(lengths)
    digest = draw(st.binary(min_size=32, max_size=32))
    if kind is FrameType.REF:
        return Frame(kind, Codec.RAW, disk, chunk, raw, 0, digest)
    if draw(st.booleans()):
        return Frame(kind, Codec.RAW, disk, chunk, raw, raw, digest)
    table = grain_count(raw) * 4
    return Frame(kind, Codec.GRAINS, disk, chunk, raw, draw(st.integers(table, table + raw)), digest)


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """The plain bytes of a chunk: stretches of zeros, text and noise that keep to no boundary."""
    length = draw(lengths)
    chance = random.Random(draw(st.integers(0, 1 << 32)))
    pieces: list[bytes] = []
    size = 0
    while size < length:
        piece = min(length - size, chance.choice([1, 100, 5_000, GRAIN, 3 * GRAIN, CHUNK]))
        kind = chance.choice(["zero", "text", "noise"])
        if kind == "zero":
            pieces.append(bytes(piece))
        elif kind == "text":
            pieces.append((b"all work and no play %d " % chance.randrange(100) * (piece // 20 + 1))[:piece])
        else:
            pieces.append(chance.randbytes(piece))
        size += piece
    return b"".join(pieces)


@cache
def _bomb(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def bomb(most: int) -> bytes:
    """A zlib stream of less than ``most`` bytes that inflates to about a thousand times as much."""
    size = GRAIN
    while len(_bomb(size * 2)) < most and size < 4 << 20:
        size *= 2
    return _bomb(size)


@st.composite
def grain_payloads(draw: st.DrawFn) -> tuple[int, bytes]:
    """A plain length, and a GRAINS payload of it whose parts are right, wrong, or hostile."""
    raw_length = draw(lengths)
    chance = random.Random(draw(st.integers(0, 1 << 32)))
    table: list[int] = []
    stored: list[bytes] = []
    wrong = draw(st.sampled_from([0.0, 0.1, 0.5]))
    for index in range(grain_count(raw_length)):
        grain = min(GRAIN, raw_length - index * GRAIN)
        kinds = ["zero", "raw", "deflated"]
        if chance.random() < wrong:
            kinds = ["bits", "short raw", "bomb", "too short", "too long", "noise", "trailing", "huge", "cut"]
        kind = chance.choice(kinds)
        data, entry = _stored_grain(kind, grain, chance)
        table.append(entry)
        stored.append(data)
    payload = b"".join([struct.pack(f"<{len(table)}I", *table), *stored])
    end = draw(st.sampled_from([0, 0, 0, 1, -1, 4000]))
    return raw_length, payload[:end] if end < 0 else payload + bytes(end)


def _stored_grain(kind: str, grain: int, chance: random.Random) -> tuple[bytes, int]:
    """What is stored of a grain, and its entry in the table."""
    plain = bytes(chance.choices(b"abcdefgh", k=8)) * (grain // 8 + 1)
    deflated = zlib.compress(plain[:grain], 1)
    if kind == "zero":
        return b"", 0
    if kind == "raw" or (kind == "deflated" and len(deflated) >= grain):
        return plain[:grain], grain | _RAW_BIT
    data = {
        "bits": deflated,
        "short raw": plain[: grain - 1],
        "bomb": bomb(grain),
        "too short": zlib.compress(plain[: grain // 2], 1),
        "too long": zlib.compress(plain[:grain] + b"x", 1),
        "noise": chance.randbytes(min(grain - 1, 300)),
        "trailing": deflated + b"more",
        "huge": b"",
        "cut": deflated[:-3],
    }.get(kind, deflated)
    entry = {
        "bits": len(data) | 1 << chance.randrange(24, 31),
        "short raw": len(data) | _RAW_BIT,
        "huge": chance.randrange(1 << 20, 1 << 24),
    }.get(kind, len(data))
    return data, entry
