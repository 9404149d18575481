# SPDX-License-Identifier: GPL-3.0-or-later
"""The GRAINS codec: a chunk as a table and sixteen 64 KiB grains, each already in the form that a VMDK holds.

Payload: one u32 (little endian) per grain, then the grains back to back in order.

- entry 0: the grain is all zeros and nothing is stored;
- bits 0..23: stored length; bit 31: stored raw; bits 24..30 are 0;
- not raw: a zlib stream (RFC 1950) that inflates to exactly the grain and is shorter than it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from isal import isal_zlib
from zstandard import ZstdCompressor

from coldmig_wire.geometry import CHUNK, GRAIN, grain_count

_Buffer = bytes | bytearray | memoryview

_RAW_BIT = 1 << 31
_LENGTH_MASK = (1 << 24) - 1
_LEVEL = 1
_SAMPLE = 512
_SAMPLES = 4
#: Bytes at the beginning that tell almost all content from zeros.
_GLANCE = 256
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

    Compares bytes with bytes: comparing a memoryview element by element is a hundred times slower than copying it. Of a
    view only what may be zeros is copied.
    """
    size = len(buf)
    if isinstance(buf, memoryview):
        if bytes(buf[:_GLANCE]) != _ZERO_GRAIN[: min(size, _GLANCE)]:
            return False
        return all(_is_zero(bytes(buf[start : start + GRAIN])) for start in range(0, size, GRAIN))
    return _is_zero(buf)


def _is_zero(plain: bytes | bytearray) -> bool:
    size = len(plain)
    if size == GRAIN:
        return plain == _ZERO_GRAIN
    return plain == (_ZERO_CHUNK if size == CHUNK else bytes(size))


class GrainEncoder:
    """Makes GRAINS payloads. Remembers from chunk to chunk whether deflate pays: content comes in long stretches.

    Not for use by two threads at once.
    """

    def __init__(self) -> None:
        self._paying = True
        # Ten times faster than deflate on what does not shrink, and no dearer to ask on what does.
        self._probe = ZstdCompressor(level=1)

    def may_shrink(self, raw: _Buffer) -> bool:
        """Whether it is worth while to compress a chunk by other means: a look at samples, after one that was not."""
        view = memoryview(raw)
        return self._paying or self._chunk_pays([view[start : start + GRAIN] for start in range(0, len(view), GRAIN)])

    def shrank(self, paid: bool) -> None:
        """How a chunk did that was compressed by other means."""
        self._paying = paid

    def encode(self, raw: _Buffer) -> bytes | None:
        """The GRAINS payload of a chunk of 1 to 1 MiB bytes; None where nothing of it shrinks: send it plain.

        A grain is kept raw unless deflate saves at least a sixteenth of it: inflating has a price at every reader.
        """
        size = len(raw)
        if not 1 <= size <= CHUNK:
            raise ValueError(f"raw: {size} bytes, must be 1 to {CHUNK}")
        view = memoryview(raw)
        grains = [view[start : start + GRAIN] for start in range(0, size, GRAIN)]
        zero = [is_zero(grain) for grain in grains]
        if not self._paying and not any(zero) and not self._chunk_pays(grains):
            return None
        table: list[int] = []
        stored: list[_Buffer] = []
        for grain, empty in zip(grains, zero, strict=True):
            if empty:
                table.append(0)
                continue
            deflated = self._deflate(grain)
            self._paying = deflated is not None
            if deflated is None:
                table.append(len(grain) | _RAW_BIT)
                stored.append(grain)
            else:
                table.append(len(deflated))
                stored.append(deflated)
        if all(entry & _RAW_BIT for entry in table):
            return None
        return b"".join((struct.pack(f"<{len(table)}I", *table), *stored))

    def _deflate(self, grain: memoryview) -> bytes | None:
        """The grain as a zlib stream; None where that does not pay. After such a grain a sample decides on trying."""
        if not self._paying and not self._pays(_sample(grain, _SAMPLES), 16):
            return None
        deflated: bytes = isal_zlib.compress(grain, _LEVEL)
        return deflated if len(deflated) <= len(grain) - max(1, len(grain) // 16) else None

    def _chunk_pays(self, grains: Sequence[memoryview]) -> bool:
        """Whether a sample from all grains shrinks, be it only because of one of them."""
        return self._pays(b"".join(_sample(grain, 2) for grain in grains), 100)

    def _pays(self, sample: bytes, share: int) -> bool:
        return len(self._probe.compress(sample)) <= len(sample) - len(sample) // share


def _sample(grain: memoryview, count: int) -> bytes:
    step = max(_SAMPLE, len(grain) // count)
    return b"".join(grain[start : start + _SAMPLE] for start in range(0, len(grain), step))


def encode_chunk(raw: _Buffer) -> bytes:
    """The GRAINS payload of a chunk of 1 to 1 MiB bytes, also where nothing of it shrinks."""
    payload = GrainEncoder().encode(raw)
    if payload is not None:
        return payload
    lengths = [min(GRAIN, len(raw) - start) | _RAW_BIT for start in range(0, len(raw), GRAIN)]
    return b"".join((struct.pack(f"<{len(lengths)}I", *lengths), raw))


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
