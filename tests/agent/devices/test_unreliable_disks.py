# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that lie, vanish, or answer slowly."""

from __future__ import annotations

import re
from pathlib import Path

from agent.devices.strange_disks import lying, served
from support.agent import Agent
from support.gateway import Gateway
from support.images import random_image
from support.processes import wait_until


def test_a_disk_that_gives_other_bytes_the_second_time_is_found_out(gateway: Gateway, tmp_path: Path) -> None:
    image = random_image(tmp_path / "disk.img", 6, seed=3)
    strange = served(tmp_path / "disk", *lying(tmp_path / "disk", image))
    with strange as disk, Agent(tmp_path / "agent", gateway.iso("liar"), [disk.path]) as agent:
        migration_id = agent.migration_id
        assert agent.finish() == 1
        text = agent.text
    migration = gateway.migration(migration_id)
    assert (migration["state"], migration["reason"]) == ("failed", "source-unstable")
    # The addresses are those of mebibytes that lie: they begin in the middle of the disk.
    told = [int(found) for found in re.findall(r"(\d+) to \d+", text)]
    assert told
    assert {address % (1 << 20) for address in told} == {0}
    assert min(told) >= image.stat().st_size // 2
    assert "when it was read a second time" in text


def test_a_disk_that_vanishes_ends_the_migration_with_the_reason(gateway: Gateway, tmp_path: Path) -> None:
    image = random_image(tmp_path / "disk.img", 64, seed=4)
    slow = ["--filter=rate", "file", image, "rate=64M"]  # bits per second
    strange = served(tmp_path / "disk", *slow)
    with strange as disk, Agent(tmp_path / "agent", gateway.iso("vanishes"), [disk.path]) as agent:
        migration_id = agent.migration_id
        agent.wait_for("Copying")
        wait_until(lambda: gateway.migration(migration_id)["disks"][0]["have_chunks"] > 0, "the first chunks")
        disk.vanish()
        assert agent.finish() == 1
        text = agent.text
    migration = gateway.migration(migration_id)
    assert (migration["state"], migration["reason"]) == ("failed", "source-lost")
    assert "does not answer any more" in text
    # What the site has of it is no copy, and cannot become one.
    assert 0 < migration["disks"][0]["have_chunks"] < 64
    assert not migration["disks"][0]["verified"]


def test_a_dying_disk_does_not_hold_up_a_healthy_one(gateway: Gateway, tmp_path: Path) -> None:
    healthy = random_image(tmp_path / "healthy.img", 32, seed=5)
    image = random_image(tmp_path / "dying.img", 6, seed=6)
    bits_per_second = tmp_path / "rate"
    dying = ["--filter=rate", "file", image, f"rate-file={bits_per_second}"]
    strange = served(tmp_path / "disk", *dying)
    iso = gateway.iso("dying", auto_start=False)
    with strange as disk, Agent(tmp_path / "agent", iso, [disk.path, healthy]) as agent:
        migration_id = agent.migration_id
        bits_per_second.write_text("1M")
        gateway.call("POST", f"/migrations/{migration_id}/confirm")

        def arrived() -> list[int]:
            return [found["have_chunks"] for found in gateway.migration(migration_id)["disks"]]

        wait_until(lambda: arrived()[1] == 32, "the healthy disk to arrive")
        assert arrived()[0] < 6
        disk.vanish()
