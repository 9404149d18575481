# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole migrations of a real machine, and what the agent says on its console when the site is not as it should be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.qemu import Firmware, scaled
from e2e.site import ORGANIZATION, ApiError, Site
from e2e.story import Plain, Story, sha256

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory whose big images are gone after the test; the logs stay as long as pytest keeps them."""
    yield tmp_path
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix in (".raw", ".qcow2", ".iso", ".vmdk", ".pack"):
            path.unlink()


def secrets_in(logs: Path) -> list[str]:
    """Names of logs that hold a token of the gateway (cm1_ and its kind, then 43 characters of base64url)."""
    token = re.compile(rb"cm1_(pro|org|iso|ses)_[A-Za-z0-9_-]{43}")
    return [path.name for path in sorted(logs.iterdir()) if path.is_file() and token.search(path.read_bytes())]


@pytest.mark.parametrize(
    ("firmware", "auto_start"),
    [(Firmware.BIOS, True), (Firmware.UEFI, False)],
    ids=["bios-auto-start", "uefi-confirmed"],
)
def test_a_machine_moves_and_boots_where_it_arrived(directory: Path, firmware: Firmware, auto_start: bool) -> None:
    with Story(directory, Plain(), firmware, auto_start) as story:
        outcome = story.tell()  # its checks are assertions: found hardware, untouched source, equal disks, login prompt
        audit = story.site.audit(outcome.migration["id"])
    transitions = [item["to"] for item in audit if item["to"]]
    confirmers = [item["actor"] for item in audit if item["to"] == "confirmed"]
    assert list(dict.fromkeys(transitions)) == ["waiting", "confirmed", "copying", "copied", "importing", "finished"]
    assert len(confirmers) == 1
    assert ("auto-start" if auto_start else f"organization {ORGANIZATION}") in confirmers[0]
    assert outcome.guest_says["data"] == "intact"
    assert secrets_in(directory / "logs") == []
    assert all(disk["verified"] for disk in outcome.migration["disks"])
    assert sum(disk["stored_bytes"] for disk in outcome.migration["disks"]) < sum(
        disk["size_bytes"] for disk in outcome.migration["disks"]
    )


def test_the_console_says_what_is_wrong_with_the_site_and_the_agent_goes_on_when_it_is_right(directory: Path) -> None:
    with Story(directory, Plain()) as story:
        story.make_source()
        story.start_gateway()
        story.make_iso()
        site = story.site
        site.stop_gateway()
        source = story.power_on_source()

        source.wait_for(rf"cannot reach https://10\.0\.2\.2:{site.port}: connection refused", 90)

        with Site(directory / "other", port=site.port) as other:
            other.init_gateway()
            other.start_gateway()
            source.wait_for("certificate is not the one on this ISO", 30)
            assert other.migrations() == []

        site.start_gateway()
        source.wait_for("not activated for cold migration", 30)
        assert site.migrations() == []

        story.activate()
        migration = site.wait_for_migration(("waiting",), scaled(30))
        source.wait_for("Waiting for confirmation", 15)

        site.api("tenant").call("POST", f"/migrations/{migration['id']}/cancel", {"reason": "only a rehearsal"})
        source.wait_for("(?i)canceled.*", 30)
        with pytest.raises(ApiError) as refused:
            site.api("tenant").call("POST", f"/migrations/{migration['id']}/confirm")
        assert refused.value.status == 409

        assert all(stats.untouched for stats in source.block_stats())
        source.stop()
        assert [sha256(image) for image in story.disks.all] == story.outcome.source_sha256
