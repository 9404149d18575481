# SPDX-License-Identifier: GPL-3.0-or-later
"""The ZSTD codec: a chunk as one Zstandard frame (RFC 8878). On the wire only; staging and VMDK know grains.

The frame must state its content size, which is exactly the chunk's, and be shorter than the chunk. No dictionary, and a
window of at most 2 MiB: both sides know what a frame costs before they look into it.
"""

from __future__ import annotations

import threading

from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError, get_frame_parameters

from coldmig_wire.geometry import CHUNK

_Buffer = bytes | bytearray | memoryview

MAX_WINDOW = 2 << 20
#: Levels that the agent may choose; above, a chunk of 1 MiB hardly shrinks further.
MIN_LEVEL, MAX_LEVEL = 1, 9
_MAGIC = b"\x28\xb5\x2f\xfd"


class ZstdPayloadError(ValueError):
    """A payload that is not one Zstandard frame of the chunk it should hold. The text says what is wrong."""


class _Contexts(threading.local):
    """Compressors and a decompressor of this thread: they are costly to make, and not for use by two threads."""

    def __init__(self) -> None:
        self.compressors: dict[int, ZstdCompressor] = {}
        self.decompressor = ZstdDecompressor(max_window_size=MAX_WINDOW)


_contexts = _Contexts()


def encode_zstd(raw: _Buffer, level: int) -> bytes | None:
    """The ZSTD payload of a chunk of 1 to 1 MiB bytes; None where it saves less than a sixteenth.

    Raises ValueError for another length, or a level that is not 1 to 9.
    """
    size = len(raw)
    if not 1 <= size <= CHUNK:
        raise ValueError(f"raw: {size} bytes, must be 1 to {CHUNK}")
    compressor = _contexts.compressors.get(level)
    if compressor is None:
        if not MIN_LEVEL <= level <= MAX_LEVEL:
            raise ValueError(f"level={level}: must be {MIN_LEVEL} to {MAX_LEVEL}")
        compressor = _contexts.compressors[level] = ZstdCompressor(level=level, write_content_size=True)
    packed = compressor.compress(raw)
    return packed if len(packed) < size and len(packed) <= size - size // 16 else None


def decode_zstd(payload: _Buffer, raw_length: int) -> bytes:
    """The ``raw_length`` plain bytes of a ZSTD payload. Raises ZstdPayloadError; never makes more than that."""
    if not 1 <= raw_length <= CHUNK:
        raise ZstdPayloadError(f"raw_length={raw_length}: must be 1 to {CHUNK}")
    if bytes(payload[:4]) != _MAGIC:
        raise ZstdPayloadError("payload: does not begin as a Zstandard frame does")
    try:
        frame = get_frame_parameters(payload)
        if frame.content_size != raw_length:
            # Frames that do not say have 2**64 - 1 here.
            raise ZstdPayloadError(f"payload: the frame states {frame.content_size} bytes, must be {raw_length}")
        if frame.window_size > MAX_WINDOW:
            raise ZstdPayloadError(f"payload: a window of {frame.window_size} bytes, must be at most {MAX_WINDOW}")
        if frame.dict_id != 0:
            raise ZstdPayloadError(f"payload: needs dictionary {frame.dict_id}, must need none")
        plain = _contexts.decompressor.decompress(payload, allow_extra_data=False)
    except ZstdError as error:
        raise ZstdPayloadError(f"payload: {error}") from None
    if len(plain) != raw_length:
        raise ZstdPayloadError(f"payload: inflates to {len(plain)} bytes, must be {raw_length}")
    return plain
