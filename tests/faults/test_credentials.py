# SPDX-License-Identifier: GPL-3.0-or-later
"""What a copy was allowed by changes while it runs: certificate, credential, the migration itself."""

from __future__ import annotations

import signal
import ssl

from faults.lab import Lab
from support.gateway import Gateway
from support.images import MIB, random_image
from support.relay import Relay


def shown_certificate(gateway: Gateway) -> str:
    """The certificate that a new connection gets."""
    return ssl.get_server_certificate(("127.0.0.1", gateway.port))


def test_a_certificate_renewed_in_a_copy_is_not_noticed_by_it(own_lab: Lab, own_relay: Relay) -> None:
    image = random_image(own_lab.work / "disk.img", 32, 1)
    lab, relay = own_lab, own_relay
    relay.crawl(after=12 * MIB)
    agent = lab.boot(lab.iso(url=relay.url), image)
    lab.wait_stored(agent, 4)
    before = shown_certificate(lab.gateway)
    (lab.gateway.state / "pki/server.pem").unlink()
    lab.gateway.command("init")
    assert shown_certificate(lab.gateway) != before
    assert lab.stored(agent) < 32
    relay.cut()  # so that every connection has to be made with the new one
    relay.hurry()
    assert agent.finish() == 0, agent.text
    assert "certificate is not" not in agent.text
    lab.assert_arrived(agent, image)


def test_revoking_an_iso_ends_no_copy_but_lets_no_other_machine_in(lab: Lab, relay: Relay) -> None:
    image = random_image(lab.work / "disk.img", 24, 2)
    relay.crawl(after=12 * MIB)
    iso = lab.iso(url=relay.url)
    agent = lab.boot(iso, image)
    lab.wait_stored(agent, 4)
    path = f"/templates/{iso['template']['id']}/iso-credentials"
    (issued,) = lab.gateway.call("GET", path)["items"]
    lab.gateway.call("DELETE", f"{path}/{issued['id']}")
    assert lab.stored(agent) < 24

    other = lab.boot(iso, image)
    other.wait_for("PROBLEM: ")
    assert "the credential of this ISO was revoked: make a new ISO" in other.text
    other.signal(signal.SIGTERM)
    assert other.finish() == 3

    relay.hurry()
    lab.assert_copied(agent, image)
    assert len(lab.gateway.migrations(lab.template)) == 1


def test_a_migration_canceled_in_its_copy_stops_and_says_so_at_the_machine(lab: Lab, relay: Relay) -> None:
    image = random_image(lab.work / "disk.img", 24, 3)
    relay.crawl(after=8 * MIB)
    agent = lab.boot(lab.iso(url=relay.url), image)
    lab.wait_stored(agent, 2)
    lab.gateway.call("POST", f"/migrations/{agent.migration_id}/cancel", {"reason": "the wrong machine"})
    assert agent.finish() == 1, agent.text
    assert "The migration was canceled" in agent.text
    assert "the wrong machine" in agent.text
    migration = lab.migration(agent)
    assert migration["state"] == "canceled"
    assert lab.stored(agent) < 24
