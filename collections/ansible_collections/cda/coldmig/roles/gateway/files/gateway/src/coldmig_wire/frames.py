# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames: the 64-byte headers in which chunks travel and in which they lie in the pack.

All integers little endian::

    0  magic "CMF1"   4 type u8   5 codec u8   6 disk u16   8 chunk u64   16 run u32   20 length u32
    24 digest[32]     56 reserved u32 = 0      60 crc32 u32 of bytes 0..59

=============  ==================  ===============================================  =====================
type           run                 payload (``length`` bytes)                       digest
=============  ==================  ===============================================  =====================
DATA           raw bytes of chunk  the chunk, coded as ``codec`` says               of the raw chunk
ZERO_RUN       number of chunks    none; the chunks are zeros                       zeros
FREE_RUN       number of chunks    none; unused by its file system, zeros for us    zeros
REF            raw bytes of chunk  none; an earlier attempt's chunk, same place     of the raw chunk
UNREADABLE     raw bytes of chunk  as DATA, with zeros where the source's disk      of what was sent
                                   gave a read error
=============  ==================  ===============================================  =====================
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

from coldmig_wire.digest import DIGEST_SIZE
from coldmig_wire.geometry import CHUNK, GRAIN, GRAINS_PER_CHUNK, grain_count

__all__ = ["CHUNK", "GRAIN", "HEADER", "MAX_PAYLOAD", "MAX_RUN", "Codec", "Frame", "FrameError", "FrameType"]

HEADER = 64
TABLE_ENTRY = 4
#: A grain that does not shrink is kept raw, so no payload is longer than a chunk and its grain table.
MAX_PAYLOAD = CHUNK + GRAINS_PER_CHUNK * TABLE_ENTRY
#: Chunks that one run may cover (1 TiB); longer stretches take several frames. It bounds the work a header can cause.
MAX_RUN = 1 << 20

_MAGIC = b"CMF1"
_FIELDS = struct.Struct("<4sBBHQII32sI")
_CRC = struct.Struct("<I")
_NO_DIGEST = bytes(DIGEST_SIZE)


class FrameType(IntEnum):
    """What a frame says about its chunk or chunks."""

    DATA = 1
    ZERO_RUN = 2
    FREE_RUN = 3
    REF = 4
    UNREADABLE = 5


class Codec(IntEnum):
    """How a payload is coded. ZSTD is for the wire only: no pack holds it."""

    RAW = 0
    ZSTD = 1
    GRAINS = 2


_RUNS = frozenset({FrameType.ZERO_RUN, FrameType.FREE_RUN})
_WITH_PAYLOAD = frozenset({FrameType.DATA, FrameType.UNREADABLE})


class FrameError(ValueError):
    """A frame header that no honest sender makes. The text names the field, its value and what is allowed."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame header. Values are checked when it is made, so a ``Frame`` that exists is well-formed.

    ``disk`` and ``chunk`` cannot be judged here: compare them with the disk (``end_chunk``).
    """

    type: FrameType
    codec: Codec
    disk: int
    chunk: int
    run: int
    length: int
    digest: bytes

    def __post_init__(self) -> None:
        _between("disk", self.disk, 0, 0xFFFF)
        _between("chunk", self.chunk, 0, (1 << 64) - 1 - MAX_RUN)
        if len(self.digest) != DIGEST_SIZE:
            raise FrameError(f"digest: {len(self.digest)} bytes, must be {DIGEST_SIZE}")
        if self.is_run:
            _between("run", self.run, 1, MAX_RUN)
            if self.digest != _NO_DIGEST:
                raise FrameError(f"digest: must be zeros in a {self.type.name} frame")
        else:
            _between("run", self.run, 1, CHUNK)
        if not self.has_payload:
            if self.codec is not Codec.RAW:
                raise FrameError(f"codec={self.codec.name}: a {self.type.name} frame has codec RAW")
            _between("length", self.length, 0, 0)
        elif self.codec is Codec.RAW:
            _between("length", self.length, self.run, self.run)
        elif self.codec is Codec.GRAINS:
            table = grain_count(self.run) * TABLE_ENTRY
            _between("length", self.length, table, table + self.run)
        else:
            _between("length", self.length, 1, self.run - 1)

    @property
    def is_run(self) -> bool:
        """True for ZERO_RUN and FREE_RUN: ``run`` counts chunks."""
        return self.type in _RUNS

    @property
    def has_payload(self) -> bool:
        """True for DATA and UNREADABLE: ``length`` bytes follow the header and ``run`` is their raw length."""
        return self.type in _WITH_PAYLOAD

    @property
    def end_chunk(self) -> int:
        """The chunk number after the last one that this frame speaks of."""
        return self.chunk + (self.run if self.is_run else 1)

    def pack(self) -> bytes:
        """The 64 bytes of the header."""
        fields = _FIELDS.pack(
            _MAGIC, self.type, self.codec, self.disk, self.chunk, self.run, self.length, self.digest, 0
        )
        return fields + _CRC.pack(zlib.crc32(fields))

    @classmethod
    def unpack(cls, buf: bytes | bytearray | memoryview) -> Frame:
        """Reads the header in the first 64 bytes of ``buf``. Raises FrameError if anything in it is wrong."""
        if len(buf) < HEADER:
            raise FrameError(f"header: {len(buf)} bytes, must be {HEADER}")
        magic, kind, codec, disk, chunk, run, length, digest, reserved = _FIELDS.unpack_from(buf)
        if magic != _MAGIC:
            raise FrameError(f"magic={magic!r}: must be {_MAGIC!r}")
        (crc,) = _CRC.unpack_from(buf, _FIELDS.size)
        expected = zlib.crc32(memoryview(buf)[: _FIELDS.size])
        if crc != expected:
            raise FrameError(f"crc32={crc:#010x}: the header's bytes have {expected:#010x}")
        if reserved != 0:
            raise FrameError(f"reserved={reserved}: must be 0")
        try:
            frame_type = FrameType(kind)
        except ValueError:
            raise FrameError(f"type={kind}: must be 1 to 5") from None
        try:
            frame_codec = Codec(codec)
        except ValueError:
            raise FrameError(f"codec={codec}: must be 0 to 2") from None
        return cls(frame_type, frame_codec, disk, chunk, run, length, digest)


def _between(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        allowed = str(low) if low == high else f"{low} to {high}"
        raise FrameError(f"{field}={value}: must be {allowed}")
