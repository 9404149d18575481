# SPDX-License-Identifier: GPL-3.0-or-later
"""A source that is not well: it is reset in the middle of its copy, and one of its disks has a sector that is gone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.images import SECTOR
from e2e.qemu import scaled
from e2e.site import ApiError, Site
from e2e.story import MIB, Plain, Story, sha256

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

_SLOW = 3 * MIB  # bytes per second: leaves time to press the button
_LOST = 5  # sectors into the file that the bad sector belongs to


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory whose big images are gone after the test; the logs stay as long as pytest keeps them."""
    yield tmp_path
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix in (".raw", ".iso", ".pack"):
            path.unlink()


def _sent(migration: dict[str, Any]) -> int:
    """Bytes that the agent has sent, as it says itself."""
    return sum(disk["sent_bytes"] for disk in (migration["progress"] or {}).get("disks", []))


def _stored(site: Site, identifier: str) -> int:
    """Bytes of the migration's packs on the site's disk."""
    packs = (site.directory / "state/staging" / identifier).glob("disk-*.pack")
    return sum(pack.stat().st_size for pack in packs if ".base-" not in pack.name)


def _sector_of_the_backup(data: Path) -> int:
    """A sector in the middle of the file backup.bin, whose first bytes the builder of the source knows."""
    content = data.read_bytes()
    start = content.index(hashlib.sha512(b"0").digest())
    return start // SECTOR + _LOST


def test_a_source_reset_in_its_copy_sends_the_rest_and_a_lost_sector_has_to_be_accepted(directory: Path) -> None:
    with Story(directory, Plain(), auto_start=True) as story:
        story.make_source()
        bad = _sector_of_the_backup(story.disks.data)
        story.bad_data_sectors = [bad]
        story.start_gateway()
        story.activate()
        story.make_iso()
        site = story.site
        provider = site.api()
        provider.call("PATCH", "/site/limits", {"bandwidth_limit": _SLOW})

        source = story.power_on_source()
        first = site.wait_for_migration(("copying",), scaled(90))
        while _sent(site.migration(first["id"])) < 60 * MIB:
            source.wait_for(".", 1)  # still alive?
        source.reset()
        kept = _stored(site, first["id"])
        provider.call("PATCH", "/site/limits", {"bandwidth_limit": None})

        second = site.wait_for_migration(("copied",), scaled(400), known=(first["id"],))
        assert kept > 50 * MIB
        content = sum(disk["stored_bytes"] for disk in second["disks"])
        # What was on its way when the button was pressed comes again, and the chunk with the bad sector.
        assert _stored(site, second["id"]) <= content - kept + 5 * MIB, "what the site had was sent again"
        reused = sum(disk["reused_chunks"] for disk in second["progress"]["disks"])
        assert reused >= kept // MIB - 5

        lost = second["disks"][1]["unreadable"]
        assert lost["ranges"] == [[bad * SECTOR, SECTOR]]
        assert second["disks"][0]["unreadable"] is None or second["disks"][0]["unreadable"]["bytes"] == 0
        with pytest.raises(ApiError) as refused:
            provider.call("POST", f"/migrations/{second['id']}/import", {"run": "test"})
        assert refused.value.slug == "unreadable-sectors"
        provider.call("PATCH", f"/migrations/{second['id']}", {"accept_unreadable": True})
        assert provider.call("POST", f"/migrations/{second['id']}/import", {"run": "test"})["state"] == "importing"

        assert all(stats.untouched for stats in source.block_stats())
        source.stop()
        assert [sha256(image) for image in story.disks.all] == story.outcome.source_sha256

        for index, image in enumerate(story.disks.all):
            arrived = site.image(second["id"], index, directory / f"arrived-{index}.raw", image.stat().st_size)
            assert _differing_sectors(image, arrived) == ({bad} if index == 1 else set())


def _differing_sectors(one: Path, other: Path) -> set[int]:
    """Numbers of the sectors that are not the same; the other may be longer by zeros."""
    differing: set[int] = set()
    with one.open("rb") as left, other.open("rb") as right:
        offset = 0
        while piece := left.read(MIB):
            found = right.read(len(piece))
            if piece != found:
                differing |= {
                    (offset + start) // SECTOR
                    for start in range(0, len(piece), SECTOR)
                    if piece[start : start + SECTOR] != found[start : start + SECTOR]
                }
            offset += len(piece)
    return differing
