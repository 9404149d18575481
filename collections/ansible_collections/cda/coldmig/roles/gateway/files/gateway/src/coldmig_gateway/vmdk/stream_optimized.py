# SPDX-License-Identifier: GPL-3.0-or-later
"""streamOptimized VMDK: written front to back, from grains that are compressed already, with a length known before.

Source of the format: VMware's "Virtual Disk Format 5.0", and the readers of open-vmdk (vmdk/sparse.c) and QEMU
(block/vmdk.c). The layout is the one with the grain directory at the end:

header | descriptor | for each 32 MiB: its grains, then its grain table | grain directory | footer | end of stream

All integers little endian, all offsets in sectors of 512 bytes. Grains are in ascending order. A grain of zeros is
not written; neither is the table of 32 MiB of zeros (its directory entry is 0).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from isal import isal_zlib

from coldmig_wire.geometry import CHUNK, GRAIN
from coldmig_wire.grains import Grain

SECTOR = 512
_GRAIN_SECTORS = GRAIN // SECTOR
_CHUNK_SECTORS = CHUNK // SECTOR
_TABLE_ENTRIES = 512
_TABLE_CHUNKS = _TABLE_ENTRIES * GRAIN // CHUNK
_TABLE_SECTORS = 1 + _TABLE_ENTRIES * 4 // SECTOR
_DESCRIPTOR_SECTORS = 20
_OVERHEAD = 128
_GD_AT_END = (1 << 64) - 1
_FLAGS = 1 | 1 << 16 | 1 << 17  # newline test is valid, grains are compressed, markers are present
_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
_GRAIN_MARKER = struct.Struct("<QI")
_MARKER = struct.Struct("<QII")
_END_OF_STREAM, _GRAIN_TABLE, _GRAIN_DIRECTORY, _FOOTER = range(4)
_STORED_BLOCK = 0xFFFF
#: What a chunk takes at most: each of its grains stored, with marker and padding.
PIECE_BYTES = CHUNK + CHUNK // GRAIN * SECTOR


class ImageTooLargeError(ValueError):
    """The image would pass 2 TiB, which its 32-bit sector offsets cannot express."""


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """One chunk with data: its number on the disk and all its grains."""

    index: int
    grains: Iterable[Grain]


def capacity(size_bytes: int) -> int:
    """The virtual disk's size: ``size_bytes`` rounded up to whole MiB, as vCenter counts in KiB and its UI in MiB."""
    return -(-size_bytes // CHUNK) * CHUNK


def chunk_sectors(grains: Iterable[Grain]) -> int:
    """Sectors that a chunk's grains take in the image, markers and padding included."""
    return sum(_grain_sectors(grain) for grain in grains if not grain.is_zero)


def image_length(size_bytes: int, chunks: Iterable[tuple[int, int]]) -> int:
    """The exact length in bytes of the image. Raises ImageTooLargeError.

    ``chunks`` are the numbers of the chunks with data, ascending, each with its ``chunk_sectors``.
    """
    tables = _table_count(size_bytes)
    sectors = _OVERHEAD
    last_table = -1
    for index, length in chunks:
        if length and index // _TABLE_CHUNKS != last_table:
            last_table = index // _TABLE_CHUNKS
            sectors += _TABLE_SECTORS
        sectors += length
    sectors += 1 + _sectors(4 * tables) + 3
    if sectors >= 1 << 32:
        raise ImageTooLargeError(f"the image would have {sectors * SECTOR} bytes, must be less than {SECTOR << 32}")
    return sectors * SECTOR


def write_image(
    size_bytes: int, chunks: Iterable[ImageChunk], *, name: str, content_id: int, buffers: Sequence[bytearray] = ()
) -> Iterator[bytes | memoryview]:
    """The image's bytes, in pieces of about a chunk.

    ``chunks`` are those with data, ascending; whatever is not among them is zeros. ``name`` stands in the descriptor;
    ``content_id`` is its CID, 32 bits that should differ between different contents. Same input, same bytes.

    ``buffers``, of PIECE_BYTES each, take turns in holding the pieces, so a piece is good until there have been as many
    more as there are buffers. Without them each has memory of its own, which has its price.
    """
    turns = itertools.cycle(buffers)
    image_sectors = capacity(size_bytes) // SECTOR
    yield _front(image_sectors, name, content_id)
    position = _OVERHEAD
    directory = [0] * _table_count(size_bytes)
    table = [0] * _TABLE_ENTRIES
    table_index = 0
    for chunk in chunks:
        if chunk.index // _TABLE_CHUNKS != table_index:
            if any(table):
                directory[table_index] = position + 1
                yield _table(table)
                position += _TABLE_SECTORS
                table = [0] * _TABLE_ENTRIES
            table_index = chunk.index // _TABLE_CHUNKS
        pieces: list[bytes | memoryview] = []
        for grain in chunk.grains:
            if grain.is_zero:
                continue
            lba = chunk.index * _CHUNK_SECTORS + grain.index * _GRAIN_SECTORS
            table[lba // _GRAIN_SECTORS % _TABLE_ENTRIES] = position
            pieces += _grain(lba, grain)
            position += _grain_sectors(grain)
        if pieces:
            buffer = next(turns, None)
            yield b"".join(pieces) if buffer is None else _packed(pieces, buffer)
    if any(table):
        directory[table_index] = position + 1
        yield _table(table)
        position += _TABLE_SECTORS
    yield _back(image_sectors, directory, position)


def _packed(pieces: Iterable[bytes | memoryview], buffer: bytearray) -> memoryview:
    view, size = memoryview(buffer), 0
    for piece in pieces:
        end = size + len(piece)
        view[size:end] = piece
        size = end
    return view[:size]


def _sectors(size: int) -> int:
    return -(-size // SECTOR)


def _table_count(size_bytes: int) -> int:
    return -(-capacity(size_bytes) // (_TABLE_ENTRIES * GRAIN))


def _stored_length(plain: int) -> int:
    """Length of ``plain`` bytes in a zlib stream of stored blocks: 2 + 5 for each 64 KiB - 1 + 4."""
    return 2 + 5 * -(-plain // _STORED_BLOCK) + plain + 4


def _stored(plain: bytes | memoryview) -> list[bytes | memoryview]:
    """A zlib stream (RFC 1950) of stored deflate blocks (RFC 1951, 3.2.4)."""
    view = memoryview(plain)
    pieces: list[bytes | memoryview] = [b"\x78\x01"]
    for start in range(0, len(view), _STORED_BLOCK):
        block = view[start : start + _STORED_BLOCK]
        final = start + len(block) == len(view)
        pieces += [struct.pack("<BHH", final, len(block), len(block) ^ 0xFFFF), block]
    pieces.append(struct.pack(">I", isal_zlib.adler32(view)))
    return pieces


def _is_short(grain: Grain) -> bool:
    """The disk ends inside this grain. Readers want whole grains, so it is filled up with zeros and stored plain."""
    return grain.raw_length < GRAIN


def _compressed_length(grain: Grain) -> int:
    return _stored_length(GRAIN) if grain.raw or _is_short(grain) else len(grain.data)


def _grain_sectors(grain: Grain) -> int:
    return _sectors(_GRAIN_MARKER.size + _compressed_length(grain))


def _grain(lba: int, grain: Grain) -> list[bytes | memoryview]:
    length = _compressed_length(grain)
    padding = bytes(-(_GRAIN_MARKER.size + length) % SECTOR)
    if _is_short(grain):
        content = _stored(bytes(grain.plain()).ljust(GRAIN, b"\0"))
    else:
        content = _stored(grain.data) if grain.raw else [grain.data]
    return [_GRAIN_MARKER.pack(lba, length), *content, padding]


def _marker(sectors: int, kind: int) -> bytes:
    return _MARKER.pack(sectors, 0, kind).ljust(SECTOR, b"\0")


def _table(entries: list[int]) -> bytes:
    return _marker(_TABLE_SECTORS - 1, _GRAIN_TABLE) + struct.pack(f"<{_TABLE_ENTRIES}I", *entries)


def _front(image_sectors: int, name: str, content_id: int) -> bytes:
    descriptor = _descriptor(image_sectors, name, content_id).encode("ascii")
    front = _header(image_sectors, _GD_AT_END) + descriptor.ljust(_DESCRIPTOR_SECTORS * SECTOR, b"\0")
    return front.ljust(_OVERHEAD * SECTOR, b"\0")


def _back(image_sectors: int, directory: list[int], position: int) -> bytes:
    sectors = _sectors(4 * len(directory))
    entries = struct.pack(f"<{len(directory)}I", *directory).ljust(sectors * SECTOR, b"\0")
    footer = _header(image_sectors, position + 1)
    return b"".join(
        (_marker(sectors, _GRAIN_DIRECTORY), entries, _marker(1, _FOOTER), footer, _marker(0, _END_OF_STREAM))
    )


def _header(image_sectors: int, directory_offset: int) -> bytes:
    return _HEADER.pack(
        b"KDMV", 3, _FLAGS, image_sectors, _GRAIN_SECTORS, 1, _DESCRIPTOR_SECTORS, _TABLE_ENTRIES, 0, directory_offset,
        _OVERHEAD, 0, b"\n \r\n", 1,
    ).ljust(SECTOR, b"\0")  # fmt: skip


def _descriptor(image_sectors: int, name: str, content_id: int) -> str:
    cylinders = max(1, min(65535, image_sectors // (255 * 63)))
    return f"""\
# Disk DescriptorFile
version=1
encoding="UTF-8"
CID={content_id:08x}
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW {image_sectors} SPARSE "{name}"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.longContentID = "{content_id:032x}"
ddb.toolsVersion = "2147483647"
ddb.virtualHWVersion = "4"
"""
