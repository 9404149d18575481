# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames that are changed after TLS ended: damaged, doubled, in another order, lost."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from coldmig_wire.frames import FrameType
from faults.lab import Lab
from support.agent import Agent
from support.images import MIB, mixed_image
from support.tamper import Middle, Sent, flipped

CONTENT = (FrameType.DATA,)


@pytest.fixture
def middle(lab: Lab) -> Iterator[Middle]:
    """The man in the middle."""
    with Middle(lab.gateway.state / "pki", lab.work / "middle", lab.gateway.port) as found:
        yield found


@pytest.fixture
def image(lab: Lab) -> Path:
    """40 MiB with data that deflates, data that does not, zeros, and a short end."""
    return mixed_image(lab.work / "disk.img", 40, 5, tail=3 * 512)


def copied(lab: Lab, middle: Middle, image: Path) -> Agent:
    """A copy by way of ``middle`` that must arrive as it was."""
    agent = lab.boot(lab.iso(url=middle.url), image)
    lab.assert_copied(agent, image)
    return agent


class Damage:
    """Turns a bit in each of the first ``times`` plain payloads, and in as many compressed ones."""

    def __init__(self, times: int) -> None:
        self.left = {"plain": times, "compressed": times}
        self._chance = random.Random(1)

    def __call__(self, frames: Sequence[Sent]) -> Sequence[Sent]:
        return [self._one(sent) for sent in frames]

    def _one(self, sent: Sent) -> Sent:
        kind = "plain" if sent.frame.length >= sent.frame.run else "compressed"
        if sent.frame.type not in CONTENT or not self.left[kind]:
            return sent
        self.left[kind] -= 1
        return flipped(sent, self._chance)


def test_payloads_damaged_on_the_way_are_refused_and_sent_again(lab: Lab, middle: Middle, image: Path) -> None:
    middle.change = damage = Damage(3)
    agent = copied(lab, middle, image)
    assert damage.left == {"plain": 0, "compressed": 0}
    sent = [sent.chunk for sent in middle.seen if sent.type in CONTENT]
    assert len(sent) - len(set(sent)) == 6, "exactly what was damaged is sent again"
    assert "damaged on the way, sent again" in agent.text


def test_a_header_damaged_on_the_way_costs_the_connection_and_nothing_else(
    lab: Lab, middle: Middle, image: Path
) -> None:
    left = [2]

    def change(frames: Sequence[Sent]) -> Sequence[Sent]:
        if left[0] and len(frames) > 2:
            left[0] -= 1
            header = bytearray(frames[1].header)
            header[8] ^= 0x04  # the chunk's number: its content would come to lie in another's place
            return [frames[0], Sent(frames[1].frame, bytes(header), frames[1].payload), *frames[2:]]
        return frames

    middle.change = change
    agent = copied(lab, middle, image)
    assert left == [0]
    assert "PROBLEM: " in agent.text
    assert "something on the way changes it" in agent.text


def test_a_way_that_damages_one_chunk_every_time_never_ends_in_a_copy_that_is_called_one(
    lab: Lab, middle: Middle, image: Path
) -> None:
    chance = random.Random(2)
    victim = 7

    def change(frames: Sequence[Sent]) -> Sequence[Sent]:
        return [
            flipped(sent, chance) if sent.frame.chunk == victim and sent.frame.type in CONTENT else sent
            for sent in frames
        ]

    with image.open("r+b") as file:
        file.seek(victim * MIB)
        file.write(chance.randbytes(MIB))
    middle.change = change
    agent = lab.boot(lab.iso(url=middle.url), image)
    agent.wait_for("the site keeps asking for the same chunks")
    assert lab.stored(agent) == 40  # of 41
    assert lab.migration(agent)["state"] == "copying"

    # And when the way is mended, it goes on by itself.
    middle.change = list
    lab.assert_copied(agent, image)


def test_doubled_frames_are_stored_once(lab: Lab, middle: Middle, image: Path) -> None:
    middle.change = lambda frames: [sent for sent in frames for _again in range(2)]
    agent = copied(lab, middle, image)
    once = {sent.chunk: sent.length for sent in middle.seen if sent.type in CONTENT}
    # A frame may be stored twice only when both came before the first was durable, which is never for more than a few.
    assert lab.pack(agent).stat().st_size < sum(once.values()) * 1.5


def test_old_frames_that_come_again_later_change_nothing(lab: Lab, middle: Middle, image: Path) -> None:
    before: list[Sent] = []

    def change(frames: Sequence[Sent]) -> Sequence[Sent]:
        again = list(before[:20])
        before.extend(frames)
        return [*again, *frames, *again]

    middle.change = change
    copied(lab, middle, image)
    assert middle.requests > 2


def test_frames_in_any_order_make_the_same_disk(lab: Lab, middle: Middle, image: Path) -> None:
    chance = random.Random(3)
    middle.change = lambda frames: chance.sample(frames, len(frames))
    copied(lab, middle, image)


def test_lost_frames_are_missed_and_sent_again(lab: Lab, middle: Middle, image: Path) -> None:
    lost: list[int] = []

    def change(frames: Sequence[Sent]) -> Sequence[Sent]:
        kept = []
        for sent in frames:
            if len(lost) < 5 and sent.frame.chunk not in lost:
                lost.append(sent.frame.chunk)
            else:
                kept.append(sent)
        return kept

    middle.change = change
    copied(lab, middle, image)
    assert len(lost) == 5
