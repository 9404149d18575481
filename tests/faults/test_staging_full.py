# SPDX-License-Identifier: GPL-3.0-or-later
"""The site's disk fills up during a copy: the copy pauses and says why, nothing is lost, and it goes on with room."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from faults.lab import Lab
from support.gateway import Gateway
from support.images import MIB, random_image
from support.processes import wait_until
from support.relay import Relay

SIZE = 128 * MIB
RESERVE = 16 * MIB


@pytest.fixture
def small_lab(tmp_path: Path) -> Iterator[Lab]:
    """A gateway whose staging and database lie on a file system of 128 MiB."""
    path = tmp_path / "d"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)], check=True)
    try:
        gateway = Gateway(path).init().configure(staging_reserve_bytes=RESERVE)
        with gateway.start(), Lab(gateway, tmp_path, "full") as lab:
            gateway.activate()
            yield lab
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def link(small_lab: Lab) -> Iterator[Relay]:
    """The way to it, slow enough to do something on the way."""
    with Relay(small_lab.gateway.port) as found:
        found.crawl(after=12 * MIB)
        yield found


def free(path: Path) -> int:
    """Bytes that may still be written to a file system."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def fill(path: Path, leave: int) -> Path:
    """Let somebody else's file take all but ``leave`` bytes."""
    ballast = path / f"ballast-{leave}"
    with ballast.open("wb") as file:
        while (room := free(path) - leave) > 0:
            file.write(bytes(min(room, MIB)))
            file.flush()
    return ballast


def test_a_copy_pauses_while_the_staging_area_is_full_and_goes_on_when_there_is_room(
    small_lab: Lab, link: Relay
) -> None:
    lab, disk = small_lab, small_lab.gateway.directory
    image = random_image(lab.work / "disk.img", 64, 1)
    agent = lab.boot(lab.iso(url=link.url), image)
    lab.wait_stored(agent, 4)
    ballast = fill(disk, RESERVE + 20 * MIB)
    link.hurry()
    agent.wait_for("PROBLEM: ")
    assert "staging" in agent.text
    assert "full" in agent.text or "room" in agent.text

    # The reserve is the database's, but for what was being read when the mark was reached: all but the copy works.
    assert free(disk) > MIB
    assert lab.migration(agent)["state"] == "copying"
    lab.gateway.template("while-it-is-full")
    assert 4 <= lab.stored(agent) < 64
    wait_until(
        lambda: "staging" in (lab.migration(agent)["progress"] or {}).get("message", ""),
        "the reason of the pause in the migration",
    )

    ballast.unlink()
    lab.assert_copied(agent, image)
    assert "the problem is over; going on" in agent.text


def test_a_disk_without_a_single_free_byte_damages_neither_database_nor_copy(small_lab: Lab, link: Relay) -> None:
    lab = small_lab
    image = random_image(lab.work / "disk.img", 64, 2)
    agent = lab.boot(lab.iso(url=link.url), image)
    before = lab.wait_stored(agent, 4)
    ballast = fill(lab.gateway.directory, 0)
    link.hurry()
    agent.wait_for("PROBLEM: ")
    assert agent.alive
    ballast.unlink()
    assert lab.stored(agent) >= before
    lab.assert_copied(agent, image)
    lab.gateway.stop()
    with closing(sqlite3.connect(lab.gateway.database)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
