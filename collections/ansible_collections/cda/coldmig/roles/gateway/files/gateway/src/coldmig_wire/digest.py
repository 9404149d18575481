# SPDX-License-Identifier: GPL-3.0-or-later
"""Digests of chunks and disks: BLAKE3, 256 bits."""

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


class DiskDigest:
    """The digest of a whole disk: BLAKE3-256 of all chunk digests in ascending order.

    A chunk of zeros counts with the digest of its zero bytes, so the result does not depend on how it was sent.
    """

    def __init__(self) -> None:
        self._state = blake3()

    def add(self, digest: bytes, times: int = 1) -> None:
        """Appends one chunk's digest, or the same digest ``times`` times (a run of zero chunks)."""
        block = 4096
        while times > 0:
            self._state.update(digest * min(times, block))
            times -= block

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return self._state.hexdigest()
