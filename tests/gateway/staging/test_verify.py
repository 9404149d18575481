# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from coldmig_gateway.staging.verify import VerificationStoppedError, verify_disk
from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import CHUNK, HEADER
from coldmig_wire.merkle import MerkleTree
from gateway.staging.conftest import Opener
from gateway.staging.content import data_frame, raw_chunk, store, zero_frame


def root_of(content: list[bytes]) -> str:
    tree = MerkleTree()
    for raw in content:
        tree.add(chunk_digest(raw))
    return tree.hexdigest()


def test_the_merkle_root_is_that_of_the_content_however_it_was_sent(open_staging: Opener) -> None:
    last = raw_chunk(3, 700)
    content = [bytes(CHUNK), raw_chunk(1), bytes(CHUNK), bytes(CHUNK), last]
    expected = root_of(content)
    size = sum(map(len, content))
    runs, single = open_staging(size, disk=0), open_staging(size, disk=1)
    store(runs, [data_frame(4, last), data_frame(1, content[1]), zero_frame(0, 4)])
    store(single, [data_frame(chunk, raw, disk=1) for chunk, raw in enumerate(content)])
    for staging, data_chunks in ((runs, 2), (single, 5)):
        verification = verify_disk(staging)
        assert verification.damaged == ()
        assert verification.merkle_root == expected
        assert verification.data_chunks == data_chunks
        assert verification.stored_bytes == staging.stored_bytes


@pytest.mark.parametrize("size", [1, 512, CHUNK, 3 * CHUNK + 5])
def test_a_disk_of_zeros_has_the_root_of_its_zeros(open_staging: Opener, size: int) -> None:
    staging = open_staging(size)
    store(staging, [zero_frame(0, staging.chunks)])
    parts = [bytes(min(CHUNK, size - start)) for start in range(0, size, CHUNK)]
    assert verify_disk(staging).merkle_root == root_of(parts)


def test_a_chunk_that_changed_on_the_disk_is_found_and_nothing_else_is(open_staging: Opener, pack: Path) -> None:
    staging = open_staging(4 * CHUNK)
    store(staging, [data_frame(chunk, raw_chunk(chunk)) for chunk in range(4)])
    for chunk in (1, 2):
        with pack.open("r+b") as file:
            file.seek(staging.slot(chunk).offset + HEADER + 1000 * chunk)
            file.write(b"changed")
    damaged = verify_disk(staging).damaged
    assert [error.chunk for error in damaged] == [1, 2]
    staging.drop(error.chunk for error in damaged)
    store(staging, [data_frame(chunk, raw_chunk(chunk)) for chunk in (1, 2)])
    assert verify_disk(staging).damaged == ()


def test_verification_can_be_stopped(open_staging: Opener) -> None:
    staging = open_staging(2 * CHUNK)
    store(staging, [data_frame(0, raw_chunk(0)), data_frame(1, raw_chunk(1))])
    with pytest.raises(VerificationStoppedError):
        verify_disk(staging, stopped=lambda: True)
