# SPDX-License-Identifier: GPL-3.0-or-later
"""The GRAINS codec: a chunk as a table and sixteen 64 KiB grains, each already in the form that a VMDK holds.

Payload: one u32 (little endian) per grain, then the grains back to back in order.

- entry 0: the grain is all zeros and nothing is stored;
- bits 0..23: stored length; bit 31: stored raw; bits 24..30 are 0;
- not raw: a zlib stream (RFC 1950) that inflates to exactly the grain and is shorter than it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from isal import isal_zlib

from coldmig_wire.geometry import CHUNK, GRAIN, grain_count

_Buffer = bytes | bytearray | memoryview

_RAW_BIT = 1 << 31
_LENGTH_MASK = (1 << 24) - 1
_LEVEL = 1
_SAMPLE = 512
_SAMPLES = 4
_ZERO_GRAIN = bytes(GRAIN)
_ZERO_CHUNK = bytes(CHUNK)
#: ISA-L's stub declares its exception class as an instance.
_IsalError = cast(type[Exception], isal_zlib.error)


class GrainError(ValueError):
    """A payload that does not hold the chunk it should. The text names the grain and what is wrong."""


@dataclass(frozen=True, slots=True)
class Grain:
    """One grain of a payload as it is stored: ``data`` is empty for zeros, plain if ``raw``, else a zlib stream."""

    index: int
    raw_length: int
    data: memoryview
    raw: bool

    @property
    def is_zero(self) -> bool:
        """True if nothing is stored because the grain is all zeros."""
        return not self.data

    def plain(self) -> bytes | memoryview:
        """The grain's ``raw_length`` plain bytes. Never inflates more than one byte too many."""
        if self.is_zero:
            return _ZERO_GRAIN if self.raw_length == GRAIN else bytes(self.raw_length)
        return self.data if self.raw else self._inflate()

    def _inflate(self) -> bytes:
        inflater = isal_zlib.decompressobj()
        try:
            plain: bytes = inflater.decompress(self.data, self.raw_length + 1)
        except _IsalError as error:
            raise GrainError(f"grain {self.index}: not a zlib stream ({error})") from None
        if len(plain) != self.raw_length:
            size = f"more than {self.raw_length}" if len(plain) > self.raw_length else str(len(plain))
            raise GrainError(f"grain {self.index}: inflates to {size} bytes, must be {self.raw_length}")
        if not inflater.eof:
            raise GrainError(f"grain {self.index}: the zlib stream does not end")
        if inflater.unused_data:
            raise GrainError(f"grain {self.index}: {len(inflater.unused_data)} bytes after the zlib stream")
        return plain


def is_zero(buf: _Buffer) -> bool:
    """True if ``buf`` holds only zero bytes.

    Compares bytes with bytes: comparing a memoryview element by element is a hundred times slower than copying it.
    """
    size = len(buf)
    plain = bytes(buf) if isinstance(buf, memoryview) else buf
    if size == GRAIN:
        return plain == _ZERO_GRAIN
    return plain == (_ZERO_CHUNK if size == CHUNK else bytes(size))


def encode_chunk(raw: _Buffer) -> bytes:
    """The GRAINS payload of a chunk of 1 to 1 MiB bytes.

    A grain is kept raw unless deflate saves at least a sixteenth of it: inflating has a price at every reader.
    """
    size = len(raw)
    if not 1 <= size <= CHUNK:
        raise ValueError(f"raw: {size} bytes, must be 1 to {CHUNK}")
    view = memoryview(raw)
    table: list[int] = []
    stored: list[_Buffer] = []
    paying = True
    for start in range(0, size, GRAIN):
        grain = view[start : start + GRAIN]
        if is_zero(grain):
            table.append(0)
            continue
        # Incompressible data comes in long stretches: after one such grain, a sample decides whether to try the next.
        deflated: bytes | None = isal_zlib.compress(grain, _LEVEL) if paying or _sample_pays(grain) else None
        paying = deflated is not None and _pays(len(deflated), len(grain))
        if deflated is not None and paying:
            table.append(len(deflated))
            stored.append(deflated)
        else:
            table.append(len(grain) | _RAW_BIT)
            stored.append(grain)
    return b"".join((struct.pack(f"<{len(table)}I", *table), *stored))


def _pays(deflated: int, plain: int) -> bool:
    return deflated < plain and deflated <= plain - plain // 16


def _sample_pays(grain: memoryview) -> bool:
    sample = b"".join(grain[start : start + _SAMPLE] for start in range(0, len(grain), GRAIN // _SAMPLES))
    return _pays(len(isal_zlib.compress(sample, _LEVEL)), len(sample))


def iter_grains(payload: _Buffer, raw_length: int) -> Iterator[Grain]:
    """The grains of a GRAINS payload in order, zero ones included, without inflating anything.

    ``raw_length`` is the chunk's plain length. The whole table is checked against the payload's length before the
    first grain is yielded. Raises GrainError.
    """
    if not 1 <= raw_length <= CHUNK:
        raise GrainError(f"raw_length={raw_length}: must be 1 to {CHUNK}")
    count = grain_count(raw_length)
    view = memoryview(payload)
    offset = count * 4
    if len(view) < offset:
        raise GrainError(f"payload: {len(view)} bytes, the table of {count} grains alone has {offset}")
    table = struct.unpack_from(f"<{count}I", view)
    grains: list[Grain] = []
    for index, entry in enumerate(table):
        length = entry & _LENGTH_MASK
        raw = bool(entry & _RAW_BIT)
        grain_length = min(GRAIN, raw_length - index * GRAIN)
        if entry & ~(_RAW_BIT | _LENGTH_MASK):
            raise GrainError(f"grain {index}: entry {entry:#010x} uses bits 24 to 30, which must be 0")
        if raw and length != grain_length:
            raise GrainError(f"grain {index}: raw with {length} bytes, must be {grain_length}")
        if not raw and length >= grain_length:
            raise GrainError(f"grain {index}: deflated to {length} bytes, must be less than {grain_length}")
        if offset + length > len(view):
            raise GrainError(f"grain {index}: ends at byte {offset + length} of a payload of {len(view)} bytes")
        grains.append(Grain(index, grain_length, view[offset : offset + length], raw))
        offset += length
    if offset != len(view):
        raise GrainError(f"payload: {len(view) - offset} bytes after the last grain")
    yield from grains


def decode_chunk(payload: _Buffer, raw_length: int) -> bytes:
    """The ``raw_length`` plain bytes of a GRAINS payload. Raises GrainError; never inflates beyond ``raw_length``."""
    return b"".join(grain.plain() for grain in iter_grains(payload, raw_length))
