# SPDX-License-Identifier: GPL-3.0-or-later
"""Sectors that cannot be read: retried singly, told with their addresses, and never silently zeros."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.devices.strange_disks import MIB, SECTOR, damaged, recovering, served
from support.agent import Agent
from support.gateway import ApiError, Gateway
from support.images import random_image, sha256

#: Near the beginning, across the middle, and at the very end: a disk that does not answer there is not gone.
BAD = [(3 * SECTOR, SECTOR), (3 * MIB - SECTOR, 2 * SECTOR), (6 * MIB - SECTOR, SECTOR)]


def holed(image: Path, target: Path) -> Path:
    """The image with zeros in the bad ranges."""
    content = bytearray(image.read_bytes())
    for start, length in BAD:
        content[start : start + length] = bytes(length)
    target.write_bytes(content)
    return target


def test_what_cannot_be_read_is_told_and_has_to_be_accepted(gateway: Gateway, tmp_path: Path) -> None:
    image = random_image(tmp_path / "disk.img", 6, seed=1)
    iso = gateway.iso("bad-sectors")
    strange = served(tmp_path / "disk", *damaged(tmp_path / "disk", image, BAD))
    with strange as disk, Agent(tmp_path / "agent", iso, [disk.path]) as agent:
        migration_id = agent.migration_id
        assert agent.finish() == 0
        text = agent.text
    migration = gateway.wait_for(migration_id, "copied")
    unreadable = migration["disks"][0]["unreadable"]
    assert unreadable == {"bytes": 4 * SECTOR, "chunks": 4, "ranges": [list(found) for found in BAD]}
    assert migration["progress"]["message"] == f"{4 * SECTOR} bytes of the source could not be read"
    # The person at the console learns it, in the end too.
    assert "cannot be read" in text.partition("Done")[0]
    assert "cannot be read" in text.partition("Done")[2]
    arrived = gateway.image(migration_id, 0, tmp_path / "arrived.raw", image.stat().st_size)
    assert sha256(arrived) == sha256(holed(image, tmp_path / "expected.img"))
    with pytest.raises(ApiError) as refused:
        gateway.call("POST", f"/migrations/{migration_id}/import", {"run": "test"})
    assert (refused.value.status, refused.value.slug) == (409, "unreadable-sectors"), refused.value.problem
    assert str(4 * SECTOR) in str(refused.value)
    assert gateway.migration(migration_id)["state"] == "copied"
    gateway.call("PATCH", f"/migrations/{migration_id}", {"accept_unreadable": True})
    gateway.call("POST", f"/migrations/{migration_id}/import", {"run": "test"})
    assert gateway.migration(migration_id)["state"] == "importing"


def test_a_sector_that_can_be_read_at_the_third_try_is_not_lost(gateway: Gateway, tmp_path: Path) -> None:
    image = random_image(tmp_path / "disk.img", 3, seed=2)
    strange = served(tmp_path / "disk", *recovering(tmp_path / "disk", image, MIB + 7 * SECTOR, tries=3))
    with strange as disk, Agent(tmp_path / "agent", gateway.iso("recovers"), [disk.path]) as agent:
        migration_id = agent.migration_id
        assert agent.finish() == 0
    migration = gateway.wait_for(migration_id, "copied")
    assert migration["disks"][0]["unreadable"] == {"bytes": 0, "chunks": 0, "ranges": []}
    arrived = gateway.image(migration_id, 0, tmp_path / "arrived.raw", image.stat().st_size)
    assert sha256(arrived) == sha256(image)
    assert (tmp_path / "disk/tries").read_text().count("\n") == 3
