# SPDX-License-Identifier: GPL-3.0-or-later
"""The running service puts its site in order by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.sitekit import TEMPLATE, machine
from support.api import Api
from support.gateway import Gateway
from support.processes import wait_until


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """A service that takes an agent for gone after eight seconds and puts things in order every second."""
    with Gateway(tmp_path / "gateway") as made:
        made.init().configure(silent_seconds=8, janitor_seconds=1, staging_reserve_bytes=0)
        made.start()
        made.activate()
        yield made


def _boot(gateway: Gateway, iso: Api) -> tuple[str, Api]:
    answer = iso.call("POST", "/enrolments", machine())
    return answer["migration_id"], gateway.api(answer["session_token"])


def test_a_machine_that_boots_again_supersedes_its_silent_boot_and_nobody_else_s(gateway: Gateway) -> None:
    template = gateway.template("linux", destination=TEMPLATE["destination"])
    iso = gateway.api(gateway.call("POST", f"/templates/{template['id']}/iso-credentials", {})["credential"])
    first, _ = _boot(gateway, iso)
    twin, twin_s_agent = _boot(gateway, iso)
    third, _ = _boot(gateway, iso)
    staged = gateway.staging / first
    staged.mkdir()
    (staged / "disk-0.pack").write_bytes(b"x")

    def superseded() -> bool:
        twin_s_agent.get("/session")
        return bool(gateway.migration(first)["state"] == "canceled")

    wait_until(superseded, "the first boot is superseded")
    assert gateway.migration(first)["superseded_by"] == third
    assert gateway.migration(twin)["state"] == "waiting"  # it was heard of all the time
    assert gateway.migration(third)["state"] == "waiting"  # nothing came after it
    # It may be what the third boot begins with, once somebody confirms that; until then it stays.
    assert staged.exists()
    for migration in (twin, third):
        gateway.call("POST", f"/migrations/{migration}/cancel", {})
    wait_until(lambda: not staged.exists(), "the staged copy is removed")
    assert gateway.events(first)[-1] == "staging-removed"
