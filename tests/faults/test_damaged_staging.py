# SPDX-License-Identifier: GPL-3.0-or-later
"""A chunk goes bad on the site's disk: while the source is there it is fetched again, later it is not hidden."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

import pytest

from faults.lab import Lab, damage
from support.agent import Agent
from support.gateway import ApiError, SupportError
from support.images import overwrite, random_image
from support.processes import wait_until
from support.tamper import Middle, Sent


class Withhold:
    """Lets frames of some chunks not through."""

    def __init__(self, *chunks: int) -> None:
        self.chunks = set(chunks)

    def __call__(self, frames: Sequence[Sent]) -> Sequence[Sent]:
        return [sent for sent in frames if sent.frame.chunk not in self.chunks]


def damage_noticed(lab: Lab, agent: Agent) -> list[str]:
    """What the migration's audit trail says of damaged chunks."""
    trail = lab.gateway.audit(agent.migration_id)
    return [item["detail"]["message"] for item in trail if item["event"] == "chunk-damaged"]


@pytest.fixture
def middle(own_lab: Lab) -> Iterator[Middle]:
    """The way to the test's own gateway."""
    with Middle(own_lab.gateway.state / "pki", own_lab.work / "middle", own_lab.gateway.port) as found:
        yield found


def test_a_chunk_that_went_bad_before_the_verification_is_fetched_again(own_lab: Lab, middle: Middle) -> None:
    lab, image = own_lab, random_image(own_lab.work / "disk.img", 16, 1)
    middle.change = way = Withhold(15)
    agent = lab.boot(lab.iso(url=middle.url), image)
    lab.wait_stored(agent, 15)
    damage(lab.pack(agent), 3)
    way.chunks.clear()
    lab.assert_copied(agent, image)
    (message,) = damage_noticed(lab, agent)
    assert "disk 0: chunk 3" in message
    assert [sent.chunk for sent in middle.seen].count(3) == 2
    assert lab.verify(agent)[0] == 0


def test_a_chunk_that_went_bad_when_its_source_has_gone_keeps_the_migration_from_being_copied(
    own_lab: Lab, middle: Middle
) -> None:
    lab, image = own_lab, random_image(own_lab.work / "disk.img", 16, 2)
    middle.change = way = Withhold(15)
    agent = lab.boot(lab.iso(url=middle.url), image)
    lab.wait_stored(agent, 15)
    damage(lab.pack(agent), 3)
    way.chunks = {3}
    wait_until(lambda: damage_noticed(lab, agent), "the discovery of the damage")
    agent.kill()
    status, said = lab.verify(agent)
    assert status == 1
    assert "15 of 16 chunks are there" in said
    assert lab.migration(agent)["state"] == "copying"
    with pytest.raises(ApiError) as refused:
        lab.gateway.image(agent.migration_id, 0, lab.work / "arrived.raw")
    assert refused.value.slug == "wrong-state"


def test_a_chunk_that_goes_bad_after_the_copy_is_found_by_verify_and_never_leaves_the_site(own_lab: Lab) -> None:
    image = random_image(own_lab.work / "disk.img", 16, 3)
    agent = own_lab.boot(own_lab.iso(), image)
    assert agent.finish() == 0, agent.text
    assert own_lab.verify(agent)[0] == 0
    damage(own_lab.pack(agent), 9)
    status, said = own_lab.verify(agent)
    assert status == 1
    assert "chunk 9" in said
    with pytest.raises(SupportError, match="too early"):
        own_lab.gateway.image(agent.migration_id, 0, own_lab.work / "arrived.raw")
    migration = own_lab.gateway.wait_for(agent.migration_id, "failed")
    assert migration["reason"] == "staging-damaged"
    assert "chunk 9" in migration["detail"]


def test_a_chunk_of_an_earlier_attempt_that_went_bad_is_not_taken_over(lab: Lab) -> None:
    machine, image = uuid.uuid4(), random_image(lab.work / "disk.img", 24, 4)
    iso = lab.iso()
    first = lab.boot(iso, image, identity=machine)
    assert first.finish() == 0, first.text
    damage(lab.pack(first), 11)
    overwrite(image, [5], seed=6)
    second = lab.boot(iso, image, identity=machine)
    lab.assert_copied(second, image)
    (disk,) = lab.migration(second)["progress"]["disks"]
    assert disk["reused_chunks"] >= 22
    (message,) = damage_noticed(lab, second)
    assert "disk 0: chunk 11" in message
