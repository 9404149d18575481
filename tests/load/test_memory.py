# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory does not grow with the disk: neither the agent's nor the site's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from load.lab import GIB, MIB, TIB, Fleet, Memory, gateway_memory, random_file, sparse_file, started


@pytest.fixture
def peaks(tmp_path: Path, in_memory: Path) -> Callable[[Path], tuple[float, float]]:
    """Copies one disk from its beginning to its verification: how much more memory the site took, and the agent's."""

    def copy(disk: Path) -> tuple[float, float]:
        name = disk.stem
        with started(in_memory / f"site-{name}") as gateway, gateway_memory(gateway) as site:
            fleet = Fleet(tmp_path / name, [(gateway.iso(name), [disk])])
            with fleet, Memory(*fleet.pids) as agent:
                (migration,) = fleet.migrations()
                fleet.finish()
            gateway.wait_for(migration, "copied")
        return site.peak_mib - site.first_mib, agent.peak_mib

    return copy


def test_the_size_of_a_disk_does_not_show_in_the_memory(
    peaks: Callable[[Path], tuple[float, float]], in_memory: Path
) -> None:
    places = [0, 5 * MIB, 700 * MIB + 512]
    small_site, small_agent = peaks(sparse_file(in_memory / "small.img", GIB, places))
    large_site, large_agent = peaks(sparse_file(in_memory / "large.img", TIB, [*places, 900 * GIB, TIB - 4096]))
    assert max(small_site, large_site) <= 64
    assert max(small_agent, large_agent) <= 200
    # Three or four bits for each of a million chunks, and what the allocator makes of it.
    assert large_site - small_site <= 16
    assert large_agent - small_agent <= 16


def test_data_that_nothing_shrinks_takes_no_more_memory_than_promised(
    peaks: Callable[[Path], tuple[float, float]], in_memory: Path
) -> None:
    site, agent = peaks(random_file(in_memory / "random.img", 512))
    assert site <= 64
    assert agent <= 200
