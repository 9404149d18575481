# SPDX-License-Identifier: GPL-3.0-or-later
"""The source starts again: every boot is a new migration, and what the site holds already does not move again."""

from __future__ import annotations

import signal
import uuid
from pathlib import Path

from faults.lab import Lab
from support.gateway import Gateway
from support.images import MIB, mixed_image, overwrite, random_image, sha256
from support.processes import wait_until
from support.relay import Relay
from support.tamper import Middle


def test_a_killed_agent_that_is_started_again_sends_at_most_a_hundredth_again(lab: Lab, relay: Relay) -> None:
    machine, image = uuid.uuid4(), random_image(lab.work / "disk.img", 48, 1)
    iso = lab.iso(url=relay.url)
    relay.crawl(after=30 * MIB)
    first = lab.boot(iso, image, identity=machine)
    lab.wait_stored(first, 16)
    first.kill()
    relay.cut()
    wait_until(lambda: relay.quiet, "the end of the first boot's connections")
    relay.hurry()
    kept, relay.sent = lab.stored(first), 0

    second = lab.boot(iso, image, identity=machine)
    assert second.finish() == 0, second.text
    assert second.migration_id != first.migration_id
    assert relay.sent <= (48 - kept) * MIB * 1.01 + kept * MIB * 0.01
    lab.assert_arrived(second, image)
    (disk,) = lab.migration(second)["progress"]["disks"]
    assert disk["reused_chunks"] == kept


def test_a_source_that_is_reset_in_its_copy_goes_on_and_its_first_attempt_is_ended_and_collected(
    tmp_path: Path,
) -> None:
    machine, image = uuid.uuid4(), random_image(tmp_path / "disk.img", 32, 2)
    gateway = Gateway(tmp_path / "g").init().configure(silent_seconds=6, janitor_seconds=1)
    with gateway.start(), Relay(gateway.port) as relay, Lab(gateway, tmp_path, "reset") as lab:
        gateway.activate()
        relay.crawl(after=20 * MIB)
        iso = lab.iso(url=relay.url)
        first = lab.boot(iso, image, identity=machine)
        lab.wait_stored(first, 10)
        first.signal(signal.SIGTERM)
        assert first.finish() == 3
        relay.cut()
        relay.hurry()

        second = lab.boot(iso, image, identity=machine)
        assert second.finish() == 0, second.text
        ended = gateway.wait_for(first.migration_id, "canceled")
        assert ended["reason"] == "superseded"
        assert second.migration_id in ended["detail"]
        # Its staging is given up, and what the second took over from it is not lost with it.
        wait_until(lambda: not lab.pack(first).exists(), "the end of the first attempt's staging")
        lab.assert_arrived(second, image)
        assert lab.verify(second)[0] == 0


def test_a_source_that_is_switched_off_after_its_last_byte_is_not_needed_any_more(lab: Lab) -> None:
    # So few that they are on the way at once, however small the batches of a slow machine are.
    image = random_image(lab.work / "disk.img", 4, 5)
    with Middle(lab.gateway.state / "pki", lab.work / "middle", lab.gateway.port) as middle:
        middle.hold()
        agent = lab.boot(lab.iso(url=middle.url), image)
        wait_until(lambda: {sent.chunk for sent in middle.seen} == set(range(4)), "all chunks on the way")
        agent.wait_for("registered as migration ")
        agent.kill()
        assert lab.stored(agent) == 0
        middle.release()
        # The site verifies by itself what is complete.
        lab.assert_arrived(agent, image)


def test_a_second_pass_moves_only_the_chunks_that_changed(lab: Lab, relay: Relay) -> None:
    machine, image = uuid.uuid4(), mixed_image(lab.work / "disk.img", 64, 3, tail=4096)
    iso = lab.iso(url=relay.url)
    first = lab.boot(iso, image, identity=machine)
    assert first.finish() == 0, first.text
    before = sha256(image)

    # The source ran again for a while: new data, among it where zeros were, and zeros where data was.
    overwrite(image, (1, 33), seed=4)
    with image.open("r+b") as file:
        file.seek(20 * MIB)
        file.write(bytes(2 * MIB))
        file.seek(64 * MIB + 100)
        file.write(b"changed")
    relay.sent = 0
    second = lab.boot(iso, image, identity=machine)
    assert second.finish() == 0, second.text
    assert relay.sent < 2 * MIB + 64 * MIB * 0.01
    lab.assert_arrived(second, image)

    # The first copy is still the disk as it was then.
    arrived = lab.gateway.image(first.migration_id, 0, lab.work / "first.raw", image.stat().st_size)
    assert sha256(arrived) == before
