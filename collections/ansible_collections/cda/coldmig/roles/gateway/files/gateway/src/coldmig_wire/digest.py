# SPDX-License-Identifier: GPL-3.0-or-later
"""Digests of chunks: BLAKE3, 256 bits."""

from __future__ import annotations

from blake3 import blake3

from coldmig_wire.geometry import CHUNK

DIGEST_SIZE = 32

_Buffer = bytes | bytearray | memoryview


def chunk_digest(raw: _Buffer) -> bytes:
    """BLAKE3-256 of a chunk's plain bytes."""
    return blake3(raw).digest()


_ZERO_CHUNK_DIGEST = chunk_digest(bytes(CHUNK))


def zero_digest(raw_length: int) -> bytes:
    """The digest of a chunk of ``raw_length`` zero bytes."""
    return _ZERO_CHUNK_DIGEST if raw_length == CHUNK else chunk_digest(bytes(raw_length))
