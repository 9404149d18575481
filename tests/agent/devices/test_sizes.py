# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of every size: from one sector to 16 TiB, with ends that fall into chunks, grains and pages."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from coldmig_wire.digest import chunk_digest, zero_digest
from coldmig_wire.geometry import CHUNK, chunk_length
from coldmig_wire.merkle import MerkleTree
from load.lab import gateway_memory, started
from support.agent import Agent
from support.gateway import Gateway
from support.images import sha256
from support.memory_disk import huge_memory_disk
from support.processes import SupportError

MIB = 1 << 20
TIB = 1 << 40
SIZES = [
    512,
    4096,
    MIB - 512,
    MIB,
    MIB + 512,
    2 * MIB - 4096,
    3 * MIB + 65536,
    3 * MIB + 65536 - 512,
    5 * MIB + 65536 + 1536,
    7_777_280,
    16 * MIB,
    17 * MIB + 512,
]


def filled(path: Path, size: int) -> Path:
    """Random data but for a hole in the middle and, in every other disk, at the end."""
    chance = random.Random(size)
    content = bytearray(chance.randbytes(size))
    content[size // 3 : size // 2] = bytes(size // 2 - size // 3)
    if size // 512 % 2:
        content[-min(size // 2, 70_000) :] = bytes(min(size // 2, 70_000))
    path.write_bytes(content)
    return path


def test_many_disks_of_odd_sizes_arrive_as_they_were(gateway: Gateway, tmp_path: Path) -> None:
    disks = [filled(tmp_path / f"disk-{number}.img", size) for number, size in enumerate(SIZES)]
    with Agent(tmp_path / "agent", gateway.iso("sizes"), disks) as agent:
        migration_id = agent.migration_id
        assert agent.finish() == 0
    migration = gateway.wait_for(migration_id, "copied")
    assert [disk["size_bytes"] for disk in migration["disks"]] == SIZES
    for index, disk in enumerate(disks):
        arrived = gateway.image(migration_id, index, tmp_path / "arrived.raw")
        # An image ends at a whole mebibyte, and there is nothing behind the disk.
        content = arrived.read_bytes()
        assert len(content) == -(-SIZES[index] // MIB) * MIB
        assert not any(content[SIZES[index] :])
        arrived.write_bytes(content[: SIZES[index]])
        assert sha256(arrived) == sha256(disk), f"disk of {SIZES[index]} bytes"


def merkle_root(disk: Path, size: int, data: dict[int, bytes]) -> str:
    """The root of a disk that is zeros but for these chunks."""
    tree = MerkleTree()
    following = 0
    for chunk, content in sorted(data.items()):
        if chunk > following:
            tree.add(zero_digest(CHUNK), chunk - following)
        tree.add(chunk_digest(content.ljust(chunk_length(chunk, size), b"\0")))
        following = chunk + 1
    chunks = -(-size // CHUNK)
    last = chunk_length(chunks - 1, size)
    if chunks - 1 > following:
        tree.add(zero_digest(CHUNK), chunks - 1 - following)
    if chunks > following:
        tree.add(zero_digest(last))
    return tree.hexdigest()


def test_sixteen_tebibytes_that_hold_little_take_little(tmp_path: Path) -> None:
    size = 16 * TIB - 512
    try:
        mounted = huge_memory_disk()
        memory = mounted.__enter__()
    except SupportError as error:
        pytest.skip(str(error))
    try:
        chance = random.Random(16)
        chunks = [0, 1, 2_097_151, 2_097_152, 9_999_999, size // CHUNK]
        data = {chunk: chance.randbytes(4096 + chunk % 7) for chunk in chunks}
        disk = memory / "disk.img"
        with disk.open("wb") as file:
            file.truncate(size)
            for chunk, content in data.items():
                file.seek(chunk * CHUNK)
                file.write(content)
        with started(memory / "site") as gateway, gateway_memory(gateway) as site:
            with Agent(tmp_path / "agent", gateway.iso("large"), [disk]) as agent:
                migration_id = agent.migration_id
                assert agent.finish() == 0
            migration = gateway.wait_for(migration_id, "copied")
            staged = sum(path.stat().st_blocks * 512 for path in (gateway.staging / migration_id).iterdir())
        (found,) = migration["disks"]
        assert (found["size_bytes"], found["verified"], found["data_chunks"]) == (size, True, len(data))
        assert found["merkle_root"] == merkle_root(disk, size, data)
        assert agent.peak_kib <= 200 << 10
        assert site.peak_mib - site.first_mib <= 64
        # Bitmaps of two bits for each chunk, twice, and the few chunks themselves.
        assert staged < 32 * MIB
    finally:
        mounted.__exit__(None, None, None)
