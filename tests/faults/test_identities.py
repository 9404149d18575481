# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that look alike: cloned hardware, two at once, and the machine of another organization."""

from __future__ import annotations

import uuid

from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import Codec, Frame, FrameType
from faults.lab import Lab
from support.images import MIB, overwrite, random_image
from support.relay import Relay
from support.tamper import Middle


def test_two_machines_of_the_same_identity_at_once_each_arrive_with_their_own_content(lab: Lab, relay: Relay) -> None:
    machine = uuid.uuid4()
    one = random_image(lab.work / "one.img", 32, 1)
    other = lab.work / "other.img"
    other.write_bytes(one.read_bytes())
    overwrite(other, range(4, 32, 3), seed=2)
    iso = lab.iso(url=relay.url)
    relay.crawl(after=20 * MIB)
    agents = [lab.boot(iso, one, identity=machine)]
    lab.wait_stored(agents[0], 6)
    agents.append(lab.boot(iso, other, identity=machine))
    lab.wait_stored(agents[1], 1)
    states = [lab.migration(agent)["state"] for agent in agents]
    assert states == ["copying", "copying"], "both are heard of, so none is superseded"
    relay.hurry()
    for agent, image in zip(agents, (one, other), strict=True):
        lab.assert_copied(agent, image)


def test_what_one_organization_has_at_the_site_is_never_offered_to_another(own_lab: Lab) -> None:
    own_lab.gateway.activate("acme", "globex")
    machine, image = uuid.uuid4(), random_image(own_lab.work / "disk.img", 16, 3)
    template = own_lab.gateway.template("same", auto_start=True)
    first = own_lab.boot(own_lab.gateway.iso("same", template=template), image, identity=machine)
    assert first.finish() == 0, first.text

    with Middle(own_lab.gateway.state / "pki", own_lab.work / "middle", own_lab.gateway.port) as middle:
        theirs = own_lab.gateway.iso("same", url=middle.url, organization="globex")
        foreign = own_lab.boot(theirs, image, identity=machine)
        assert foreign.finish() == 0, foreign.text
        assert {sent.type for sent in middle.seen} == {FrameType.DATA}
        own_lab.assert_arrived(foreign, image)
        assert not list((own_lab.gateway.staging / foreign.migration_id).glob("*.base-*"))

        # The same machine of the same organization, for comparison.
        middle.seen.clear()
        own = own_lab.boot(own_lab.gateway.iso("same", url=middle.url, template=template), image, identity=machine)
        assert own.finish() == 0, own.text
        assert {sent.type for sent in middle.seen} == {FrameType.REF}


def test_a_foreign_session_that_knows_a_digest_gets_nothing_for_it(own_lab: Lab) -> None:
    own_lab.gateway.activate("acme", "globex")
    machine, image = uuid.uuid4(), random_image(own_lab.work / "disk.img", 8, 4)
    first = own_lab.boot(own_lab.iso(), image, identity=machine)
    assert first.finish() == 0, first.text

    enrolled = own_lab.gateway.call("GET", f"/migrations/{first.migration_id}")["machine"]
    thief = own_lab.gateway.iso("theirs", organization="globex")
    enrolment = own_lab.gateway.call("POST", "/enrolments", enrolled, token=thief["credential"])
    session = own_lab.gateway.api(enrolment["session_token"])
    assert session.data("/disks/0/known?first=0&count=8") == (204, b"")
    raw = image.read_bytes()[:MIB]
    frame = Frame(FrameType.REF, Codec.RAW, 0, 0, MIB, 0, chunk_digest(raw))
    answer = session.send(frame.pack())
    assert answer["durable"] == 0
    assert [item["reason"] for item in answer["rejected"]] == ["unknown-ref"]
