# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from blake3 import blake3

from coldmig_wire.digest import chunk_digest, zero_digest
from coldmig_wire.geometry import CHUNK


def test_a_chunk_digest_is_blake3_of_its_plain_bytes() -> None:
    assert chunk_digest(b"abc" * 1000) == blake3(b"abc" * 1000).digest()


def test_the_zero_digest_is_that_of_the_zero_bytes_of_the_length() -> None:
    assert zero_digest(CHUNK) == chunk_digest(bytes(CHUNK))
    assert zero_digest(512) == chunk_digest(bytes(512)) != zero_digest(CHUNK)
