# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import time

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from coldmig_wire.digest import zero_digest
from coldmig_wire.geometry import CHUNK
from coldmig_wire.merkle import MerkleTree

digests = st.integers(0, 3).map(lambda n: bytes([n]) * 32)
runs = st.lists(st.tuples(digests, st.integers(1, 40)), min_size=1, max_size=12)


def tree_of(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if len(leaves) == 1:
        return blake3(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return blake3(b"\x01" + tree_of(leaves[:split]) + tree_of(leaves[split:])).digest()


def root(steps: list[tuple[bytes, int]]) -> str:
    tree = MerkleTree()
    for digest, times in steps:
        tree.add(digest, times)
    return tree.hexdigest()


@given(runs)
def test_the_root_is_that_of_the_definition_however_the_runs_are_cut(steps: list[tuple[bytes, int]]) -> None:
    leaves = [digest for digest, times in steps for _ in range(times)]
    assert root(steps) == tree_of(leaves).hex() == root([(leaf, 1) for leaf in leaves])


def test_order_and_number_of_the_chunks_count() -> None:
    a, b = bytes(32), b"\x01" * 32
    assert len({root([(a, 1)]), root([(a, 2)]), root([(a, 1), (b, 1)]), root([(b, 1), (a, 1)]), root([(a, 3)])}) == 5


def test_the_zeros_of_16_tib_cost_next_to_nothing() -> None:
    zeros = zero_digest(CHUNK)
    begun = time.process_time()
    sparse = root([(zeros, 5_000_001), (b"\x01" * 32, 1), (zeros, (16 << 20) - 5_000_003), (b"\x02" * 32, 1)])
    spent = time.process_time() - begun
    begun = time.process_time()
    assert root([(zeros, 1)] * 10_000) != sparse
    assert spent < (time.process_time() - begun) * 5


def test_a_tree_without_chunks_has_no_root() -> None:
    with pytest.raises(ValueError, match="at least one chunk"):
        MerkleTree().hexdigest()
