# SPDX-License-Identifier: GPL-3.0-or-later
"""The index of a pack: which chunks are there and where. Written behind; lost or damaged, it is made from the pack.

Little endian, for a disk of C chunks:

- two headers at 0 and 4096, used in turn: magic "CMINDEX1", version u32 = 2, disk u32, migration UUID 16 bytes,
  size u64, generation u64, watermark u64, crc32 u32 of the bitmaps, number of bases u32, 16 bases (migration UUID 16
  bytes, disk u32), crc32 u32 of the 384 bytes before; version 1 has no bases, and its second CRC after 60 bytes;
- two bitmap areas from 8192 on, also in turn: ceil(C/8) bytes "have", ceil(C/8) bytes "data", zeros to 4 KiB;
- slots of 96 bytes, one per chunk, valid where "data" is set: pack offset u64, payload length u32, raw length u32,
  codec u8, frame type u8, base u16, VMDK sectors u32, digest of the raw chunk 32 bytes, digest of the payload 32 bytes
  (zeros: the payload holds the plain bytes in one piece, and the chunk's digest says all), low half of the chunk number
  u32, crc32 u32 of the 92 bytes before. Base 0 is the disk's own pack, base n the n-th of the header.

A checkpoint writes the older area and header, so that a crash in the middle leaves the newer ones. Everything up to
the watermark of the valid header with the highest generation is in the index; the rest is read from the pack.
"""

from __future__ import annotations

import os
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from coldmig_gateway.staging.bitmap import Bitmap
from coldmig_gateway.staging.errors import ChunkDamagedError, storage_error
from coldmig_gateway.staging.pack import PACK_HEADER, DiskIdentity, PackId
from coldmig_wire.frames import Codec, FrameType

_MAGIC = b"CMINDEX1"
#: Also to be raised when the VMDK writer lays a grain out differently: slots keep its sectors.
_VERSION = 2
#: Bases that an index can name.
MAX_BASES = 16
_PAGE = 4096
_HEADER = struct.Struct("<8sII16sQQQI")
_SLOT = struct.Struct("<QIIBBHI32s32sI")
_BASES = struct.Struct("<I" + "16sI" * MAX_BASES)
_CRC = struct.Struct("<I")
#: ``Slot.stored_digest`` of a payload that is the plain chunk in one piece: the chunk's own digest proves it.
PLAIN = bytes(32)
_SLOTS_AT_ONCE = 4096
SLOT = _SLOT.size + _CRC.size
_DIGEST_WORD = 3  # the digest begins at byte 24 of a slot


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a data chunk lies, and how many 512-byte sectors its grains take in the VMDK.

    ``stored_digest`` is BLAKE3-256 of the payload: it was taken before the payload was inflated and found to have
    ``digest``, so a payload that still has it need not be inflated again. PLAIN where nothing has to be inflated.
    ``base`` is 0 for the disk's own pack, else the number of the pack of an earlier attempt.
    """

    chunk: int
    offset: int
    length: int
    raw_length: int
    codec: Codec
    type: FrameType
    sectors: int
    digest: bytes
    stored_digest: bytes
    base: int = 0

    def pack(self) -> bytes:
        """The slot's 96 bytes."""
        fields = _SLOT.pack(
            self.offset, self.length, self.raw_length, self.codec, self.type, self.base, self.sectors,
            self.digest, self.stored_digest, self.chunk & 0xFFFFFFFF,
        )  # fmt: skip
        return fields + _CRC.pack(zlib.crc32(fields))

    @classmethod
    def unpack(cls, chunk: int, buf: bytes | memoryview) -> Slot:
        """Reads the slot of ``chunk``. Raises ChunkDamagedError."""
        if len(buf) != SLOT or _CRC.unpack_from(buf, _SLOT.size)[0] != zlib.crc32(buf[: _SLOT.size]):
            raise ChunkDamagedError(chunk, "its slot in the index is damaged")
        offset, length, raw_length, codec, kind, base, sectors, digest, stored, low = _SLOT.unpack_from(buf)
        if low != chunk & 0xFFFFFFFF:
            raise ChunkDamagedError(chunk, f"its slot in the index is that of another chunk ({low})")
        return cls(chunk, offset, length, raw_length, Codec(codec), FrameType(kind), sectors, digest, stored, base)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What an index holds: chunks that are durable, those of them with data, how much of the pack that covers, and the
    bases that slots name.
    """

    watermark: int
    have: Bitmap
    data: Bitmap
    bases: Sequence[PackId] = ()


def _pack_bases(bases: Sequence[PackId]) -> bytes:
    table = [(base.migration.bytes, base.disk) for base in bases]
    table += [(bytes(16), 0)] * (MAX_BASES - len(table))
    return _BASES.pack(len(bases), *(value for entry in table for value in entry))


def _unpack_bases(buf: bytes) -> tuple[PackId, ...]:
    count, *values = _BASES.unpack_from(buf, _HEADER.size)
    return tuple(PackId(UUID(bytes=values[2 * n]), values[2 * n + 1]) for n in range(min(count, MAX_BASES)))


class Index:
    """One open index file. Its owner serialises checkpoints."""

    def __init__(self, path: Path, identity: DiskIdentity, chunks: int, *, read_only: bool = False) -> None:
        """Opens the file, and creates it unless ``read_only``; ``load`` tells what is in it.

        Raises StagingFullError, StagingError.
        """
        self.path = path
        self._identity = identity
        self._chunks = chunks
        self._bitmap = Bitmap.bytes_for(chunks)
        self._area = -(-2 * self._bitmap // _PAGE) * _PAGE
        self._slots = 2 * _PAGE + 2 * self._area
        self._generation = 0
        mode = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT
        try:
            self._fd = os.open(path, mode | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error(f"{path}: open", error) from error

    def load(self, pack_size: int) -> Checkpoint | None:
        """The newest checkpoint that is whole and does not speak of more than the pack has; None if there is none."""
        best: tuple[int, Checkpoint] | None = None
        for turn in (0, 1):
            found = self._load(turn, pack_size)
            if found is not None and (best is None or found[0] > best[0]):
                best = found
        if best is None:
            return None
        self._generation = best[0]
        return best[1]

    def _load(self, turn: int, pack_size: int) -> tuple[int, Checkpoint] | None:
        buf = os.pread(self._fd, _PAGE, turn * _PAGE).ljust(_PAGE, b"\0")
        magic, version, disk, migration, size_bytes, generation, watermark, crc = _HEADER.unpack_from(buf)
        covered = {1: _HEADER.size, _VERSION: _HEADER.size + _BASES.size}.get(version)
        if magic != _MAGIC or covered is None or _CRC.unpack_from(buf, covered)[0] != zlib.crc32(buf[:covered]):
            return None
        owner = (self._identity.disk, self._identity.migration.bytes, self._identity.size_bytes)
        if (disk, migration, size_bytes) != owner:
            return None
        bases = _unpack_bases(buf) if version == _VERSION else ()
        if not PACK_HEADER <= watermark <= pack_size:
            return None
        bitmaps = os.pread(self._fd, 2 * self._bitmap, self._area_offset(turn))
        if len(bitmaps) != 2 * self._bitmap or zlib.crc32(bitmaps) != crc:
            return None
        have = Bitmap(self._chunks, bitmaps[: self._bitmap])
        return generation, Checkpoint(watermark, have, Bitmap(self._chunks, bitmaps[self._bitmap :]), bases)

    def clear(self) -> None:
        """Forgets everything, before the index is made again from the pack."""
        os.ftruncate(self._fd, 0)
        self._generation = 0

    def write_slot(self, slot: Slot) -> None:
        """Notes where a chunk lies; counts from the next checkpoint on. Raises StagingFullError."""
        try:
            os.pwrite(self._fd, slot.pack(), self._slots + slot.chunk * SLOT)
        except OSError as error:
            raise storage_error(f"{self.path}: write", error) from error

    def read_slot(self, chunk: int) -> Slot:
        """Where a data chunk lies. Raises ChunkDamagedError."""
        return Slot.unpack(chunk, os.pread(self._fd, SLOT, self._slots + chunk * SLOT))

    def read_slots(self, data: Bitmap) -> Iterator[Slot]:
        """The slots of all chunks in ``data``, ascending, read many at a time. Raises ChunkDamagedError."""
        first, slots = 0, memoryview(b"")
        for chunk in data.indices():
            at = (chunk - first) * SLOT
            if at + SLOT > len(slots):
                first, at = chunk, 0
                slots = memoryview(os.pread(self._fd, _SLOTS_AT_ONCE * SLOT, self._slots + chunk * SLOT))
            yield Slot.unpack(chunk, slots[at : at + SLOT])

    def digest_prefixes(self, first: int, count: int) -> array[int]:
        """The first 8 bytes of the digests of ``count`` chunks, as numbers; of those without data, anything."""
        buf = os.pread(self._fd, count * SLOT, self._slots + first * SLOT).ljust(count * SLOT, b"\0")
        prefixes = array("Q")
        prefixes.frombytes(memoryview(buf).cast("Q")[_DIGEST_WORD :: SLOT // 8].tobytes())
        return prefixes

    def write_checkpoint(self, watermark: int, have: bytes, data: bytes, bases: Sequence[PackId] = ()) -> None:
        """Makes slots, bitmaps and watermark durable, in this order. Raises StagingFullError, StagingError.

        ``have`` must speak only of chunks whose records end before ``watermark`` and are durable in the pack.
        """
        generation = self._generation + 1
        turn = generation & 1
        bitmaps = have + data
        owner = (self._identity.disk, self._identity.migration.bytes, self._identity.size_bytes)
        fields = _HEADER.pack(_MAGIC, _VERSION, *owner, generation, watermark, zlib.crc32(bitmaps)) + _pack_bases(bases)
        try:
            os.pwrite(self._fd, bitmaps, self._area_offset(turn))
            os.fdatasync(self._fd)
            os.pwrite(self._fd, fields + _CRC.pack(zlib.crc32(fields)), turn * _PAGE)
            os.fdatasync(self._fd)
        except OSError as error:
            raise storage_error(f"{self.path}: checkpoint", error) from error
        self._generation = generation

    def _area_offset(self, turn: int) -> int:
        return 2 * _PAGE + turn * self._area

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)
