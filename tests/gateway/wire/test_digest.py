# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from blake3 import blake3

from coldmig_wire.digest import DiskDigest, chunk_digest, zero_digest
from coldmig_wire.geometry import CHUNK


def test_a_disk_digest_is_blake3_over_the_chunk_digests_in_order() -> None:
    digests = [chunk_digest(bytes([n]) * CHUNK) for n in range(3)]
    disk = DiskDigest()
    for digest in digests:
        disk.add(digest)
    assert disk.hexdigest() == blake3(b"".join(digests)).hexdigest()


def test_a_run_counts_like_as_many_single_chunks() -> None:
    run, single = DiskDigest(), DiskDigest()
    run.add(zero_digest(CHUNK), 10_000)
    for _ in range(10_000):
        single.add(zero_digest(CHUNK))
    assert run.hexdigest() == single.hexdigest()


def test_the_zero_digest_is_that_of_the_zero_bytes_of_the_length() -> None:
    assert zero_digest(CHUNK) == chunk_digest(bytes(CHUNK))
    assert zero_digest(512) == chunk_digest(bytes(512)) != zero_digest(CHUNK)
