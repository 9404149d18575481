# SPDX-License-Identifier: GPL-3.0-or-later
"""The link between agent and site: pulled, dead for a long time, dead for good, and a proxy that tires."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from faults.lab import Lab
from support.agent import Agent
from support.gateway import ApiError, Gateway
from support.images import MIB, mixed_image, random_image
from support.namespaces import Cable
from support.processes import wait_until
from support.relay import Relay

OUTAGE = 60.0


def copy_over_a_pulled_cable(work: Path, cable: Cable, seconds: float) -> Agent:
    """A copy whose cable is pulled for some seconds; what it ends with is looked at here."""
    image = mixed_image(work / "disk.img", 40, 1, tail=512)
    gateway = Gateway(
        work / "g",
        names=("127.0.0.1", cable.address),
        listen="0.0.0.0",  # noqa: S104 - in a network namespace of the test's own
        prefix=cable.gateway,
        connect=cable.connect,
    )
    with gateway.init().start(), Lab(gateway, work, "cable") as lab:
        gateway.activate()
        cable.limit(2 * MIB)
        agent = lab.boot(lab.iso(url=f"https://{cable.address}:{gateway.port}"), image, prefix=cable.agent)
        lab.wait_stored(agent, 2)
        cable.pull()
        time.sleep(seconds)
        assert lab.migration(agent)["state"] == "copying"
        assert lab.stored(agent) < 41
        cable.plug()
        cable.limit(100 * MIB)
        lab.assert_copied(agent, image)
        assert len(gateway.migrations("cable")) == 1
    return agent


def test_a_cable_pulled_for_a_second_is_survived(tmp_path: Path, cable: Cable) -> None:
    copy_over_a_pulled_cable(tmp_path, cable, 1)


@pytest.mark.slow
def test_after_an_outage_of_a_minute_the_copy_goes_on_by_itself(tmp_path: Path, cable: Cable) -> None:
    agent = copy_over_a_pulled_cable(tmp_path, cable, OUTAGE)
    assert "PROBLEM: no answer from the site for" in agent.text
    assert "the problem is over; going on" in agent.text


def test_an_agent_keeps_trying_when_the_link_is_gone_for_good_and_nothing_is_called_copied(
    lab: Lab, relay: Relay
) -> None:
    image = random_image(lab.work / "disk.img", 24, 2)
    relay.crawl(after=10 * MIB)
    agent = lab.boot(lab.iso(url=relay.url), image)
    lab.wait_stored(agent, 4)
    relay.refusing = True
    relay.cut()
    agent.wait_for("PROBLEM: cannot reach")
    assert "the connection was cut" in agent.text
    tries, last_seen = relay.connections, lab.migration(agent)["last_seen_at"]
    wait_until(lambda: relay.connections > tries + 4 or not agent.alive, "more tries")
    assert agent.alive, agent.text
    migration = lab.migration(agent)
    assert migration["state"] == "copying"
    assert lab.stored(agent) < 24
    # The site knows no more than when it last heard of the agent.
    assert migration["last_seen_at"] == last_seen is not None
    with pytest.raises(ApiError) as refused:
        lab.gateway.image(agent.migration_id, 0, lab.work / "arrived.raw")
    assert refused.value.slug == "wrong-state"


def test_a_proxy_that_resets_every_connection_after_some_mebibytes_only_slows_the_copy(lab: Lab, relay: Relay) -> None:
    image = random_image(lab.work / "disk.img", 40, 3)
    relay.reset_after = 3 * MIB
    agent = lab.boot(lab.iso(url=relay.url), image)
    lab.assert_copied(agent, image)
    assert relay.resets >= 8
    # What was whole when a connection ended stays at the site, and only the rest is sent again.
    assert relay.sent < 2 * 40 * MIB
    assert "the connection was cut" in agent.text
