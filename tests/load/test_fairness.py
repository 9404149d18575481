# SPDX-License-Identifier: GPL-3.0-or-later
"""Fifty machines that copy at once get equal parts of the site, and it needs little memory for each."""

from __future__ import annotations

from pathlib import Path

from load.lab import MIB, Fleet, Memory, gateway_memory, random_file, shares, started

AGENTS = 50
DISK_MIB = 96


def test_fifty_copies_at_once_are_fair_and_take_little_memory(tmp_path: Path, in_memory: Path) -> None:
    # Where the disk is not the limit the processors are, and they are what has to be shared.
    disk = random_file(in_memory / "disk.img", DISK_MIB)
    with started(in_memory / "site") as gateway:
        isos = [gateway.iso(f"machine-{number}", auto_start=False) for number in range(AGENTS)]
        with Fleet(tmp_path / "fleet", [(iso, [disk]) for iso in isos]) as fleet:
            migrations = fleet.migrations()
            with gateway_memory(gateway) as site, Memory(*fleet.pids, together=False) as agents:
                arrived = shares(gateway, migrations, DISK_MIB * MIB, until=0.8)
    mean = sum(arrived) / AGENTS
    assert min(arrived) >= mean / 2, sorted(arrived)
    assert (site.peak_mib - site.first_mib) / AGENTS <= 64
    assert agents.peak_mib <= 200
