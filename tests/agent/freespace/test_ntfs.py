# SPDX-License-Identifier: GPL-3.0-or-later
"""The free clusters of NTFS: our own reading of $Bitmap against partclone's, and bitmaps that cannot be right."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from agent_lab import MIB, empty_image, need, run
from disk_lab import fuse_fill

from coldmig_agent.freespace import ntfs
from coldmig_agent.freespace.area import Area, Doubt
from coldmig_agent.freespace.ntfs import Bitmap, Layout
from coldmig_agent.freespace.partclone import free_in_map

NEVER = float("inf")
CLUSTER = 512
Runs = list[tuple[int, int]]


class _Probe:
    """ntfs-3g.probe that is content."""

    returncode = 0

    def __enter__(self) -> _Probe:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def output(self) -> bytes:
        return b""

    def failure(self) -> str:
        return ""


def area_over(data: bytes | bytearray, deadline: float = NEVER) -> Area:
    """Bytes as an area whose tools are content."""
    view = memoryview(data)
    sandbox: Any = SimpleNamespace(deadline=deadline, run=lambda *_command: _Probe())
    return Area(len(data), lambda offset, length: bytes(view[offset : offset + length]), sandbox)


def partclone(image: Path) -> Runs:
    """What partclone calls free."""
    said = run("partclone.ntfs", "-D", "-q", "-B", "-f", "1", "-L", "/dev/null", "-s", image, "-o", "-")
    return list(free_in_map(iter(said.splitlines()), image.stat().st_size))


@pytest.mark.usefixtures("loop_devices")
@pytest.mark.parametrize("cluster", [512, 2048, 4096, 65_536])
def test_partclone_calls_the_same_free_in_a_used_volume(cluster: int, tmp_path: Path) -> None:
    need("mkfs.ntfs", "partclone.ntfs", "ntfs-3g")
    # 7 sectors more: the last cluster is not whole, and the bitmap ends inside a byte.
    image = empty_image(tmp_path / "fs.img", 48 * MIB + 7 * 512)
    run("mkfs.ntfs", "-q", "-F", "-c", str(cluster), image)
    fuse_fill("ntfs-3g")(image, tmp_path / "mnt")
    ours = list(ntfs.free_ranges(area_over(image.read_bytes())))
    assert len(ours) > 5
    assert ours == partclone(image)


def test_partclone_calls_the_same_free_where_bits_are_set_by_chance(tmp_path: Path) -> None:
    need("mkfs.ntfs", "partclone.ntfs")
    image = empty_image(tmp_path / "fs.img", 24 * MIB)
    run("mkfs.ntfs", "-q", "-F", "-c", "512", image)
    data = bytearray(image.read_bytes())
    area = area_over(data)
    layout = ntfs.check_boot_sector(data[:512], len(data))
    bitmap = ntfs.find_bitmap(area, layout)
    chance = random.Random(7)
    at, size = bitmap.runs[0][0], layout.clusters // 8
    for byte in range(size // 8, size // 2):
        data[at + byte] |= chance.randrange(256) & chance.choice([0, 0xFF, 0xFF, 0x0F])
    image.write_bytes(data)
    ours = list(ntfs.free_ranges(area_over(data)))
    assert len(ours) > 1000
    assert ours == partclone(image)


def plain_runs(bits: bytes, clusters: int) -> Runs:
    """Runs of zero bits, found bit by bit."""
    free = [not bits[cluster >> 3] >> (cluster & 7) & 1 for cluster in range(clusters)]
    edges = [
        index for index in range(clusters + 1) if (index > 0 and free[index - 1]) != (index < clusters and free[index])
    ]
    return list(zip(edges[0::2], edges[1::2], strict=True))


def joined(runs: Iterator[tuple[int, int]]) -> Runs:
    """Nothing is known to be used."""
    return list(ntfs.checked(runs, iter(())))


@pytest.mark.parametrize("clusters", [1, 7, 8, 9, 4096 * 8, 4096 * 8 + 3, 20_011])
@pytest.mark.parametrize("piece", [1 << 20, 4096])
def test_free_clusters_against_a_plain_count(clusters: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ntfs, "_READ_BYTES", piece)
    chance = random.Random(clusters)
    size = -(-clusters // 8)
    bits = b"".join(bytes([chance.choice([0, 0, 0, 255, 255, chance.randrange(256)])]) for _ in range(size))
    # In two pieces of the volume, the second one before the first.
    cut = -(-size // 2 // CLUSTER) * CLUSTER
    stored = bytearray(16 * CLUSTER + 2 * size + 2 * CLUSTER)
    first, second = 8 * CLUSTER + cut, 4 * CLUSTER
    stored[first : first + cut] = bits[:cut].ljust(cut, b"\xff")
    second = first + cut + CLUSTER
    stored[second : second + len(bits[cut:])] = bits[cut:]
    runs = ((first, cut), (second, -(-size // CLUSTER) * CLUSTER)) if cut else ((second, CLUSTER),)
    layout = Layout(CLUSTER, clusters, 1024, 0)
    stored += bytes(2 * CLUSTER + size)
    assert joined(ntfs.free_clusters(area_over(stored), layout, Bitmap(runs, size))) == plain_runs(bits, clusters)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    need("mkfs.ntfs")
    image = empty_image(tmp_path_factory.mktemp("ntfs") / "fs.img", 16 * MIB)
    run("mkfs.ntfs", "-q", "-F", image)
    return image.read_bytes()


@pytest.mark.parametrize("what", ["the boot sector", "the first file records", "the bitmap itself"])
def test_a_bitmap_that_calls_free_what_ntfs_itself_uses(volume: bytes, what: str) -> None:
    data = bytearray(volume)
    area = area_over(data)
    layout = ntfs.check_boot_sector(data[:512], len(data))
    bitmap = ntfs.find_bitmap(area, layout)
    places = {"the boot sector": 0, "the first file records": layout.mft_offset, "the bitmap itself": bitmap.runs[0][0]}
    cluster = places[what] // layout.cluster_bytes
    data[bitmap.runs[0][0] + cluster // 8] &= ~(1 << cluster % 8) & 0xFF
    with pytest.raises(Doubt, match=f"calls cluster {cluster} free"):
        list(ntfs.free_ranges(area))


def test_a_bitmap_that_cannot_be_read_in_time(volume: bytes) -> None:
    with pytest.raises(Doubt, match="took too long"):
        list(ntfs.free_ranges(area_over(volume, deadline=0.0)))


def test_a_wrong_table_of_bits_is_noticed(volume: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    area = area_over(volume)
    layout = ntfs.check_boot_sector(volume[:512], len(volume))
    monkeypatch.setattr(ntfs, "_ZERO_RUNS", [((0, 8),)] * 256)
    with pytest.raises(Doubt, match="not counted right"):
        list(ntfs.free_clusters(area, layout, ntfs.find_bitmap(area, layout)))


def test_used_places_that_overlap_are_all_looked_at() -> None:
    used = [(0, 2), (4, 6), (9, 10)]
    assert list(ntfs.checked(iter([(2, 3), (3, 4), (6, 9), (10, 11)]), iter(used))) == [(2, 4), (6, 9), (10, 11)]
    for first, last in [(1, 2), (3, 5), (5, 7), (2, 12), (9, 10)]:
        with pytest.raises(Doubt, match="NTFS itself uses"):
            list(ntfs.checked(iter([(2, 3), (first, last)] if first > 2 else [(first, last)]), iter(used)))
