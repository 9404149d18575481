# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy against a real gateway: what arrives is what lay on the disk, whatever happens on the way."""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_lab import MIB, empty_image
from copy_lab import Session, with_disk

from coldmig_agent.api import DataClient, FramesAnswer
from coldmig_agent.copying import onepass
from coldmig_agent.copying.channel import Channel, Closed
from coldmig_agent.copying.controller import Controller, Plan, Sample
from coldmig_agent.copying.engine import Copier, CopyError
from coldmig_agent.copying.groups import groups, place_key
from coldmig_agent.copying.planner import Backoff, count_set, has_all, missing_ranges
from coldmig_agent.copying.progress import DiskProgress
from coldmig_agent.copying.sender import CopyStopped, SessionLost, StateChanged
from coldmig_agent.discovery.disks import read_image_files
from coldmig_wire.frames import HEADER
from support.gateway import Gateway
from support.images import mixed_image, overwrite, random_image, sha256
from support.relay import Relay


@pytest.fixture
def relay(gateway: Gateway) -> Iterator[Relay]:
    found = Relay(gateway.port)
    yield found
    found.close()


def test_two_disks_arrive_as_they_were(gateway: Gateway, tmp_path: Path) -> None:
    images = [mixed_image(tmp_path / "a.img", 37, 1, tail=4096 + 512), mixed_image(tmp_path / "b.img", 20, 2)]
    before = [sha256(path) for path in images]
    session = Session(gateway, "two-disks", images)
    session.copier.check_session(session.control.session(session.enrolment.session_token))
    session.copier.run(4)
    migration = session.wait_for("copied")
    assert all(disk["verified"] for disk in migration["disks"])
    for index, image in enumerate(images):
        arrived = gateway.image(session.enrolment.migration_id, index, tmp_path / f"arrived-{index}.raw")
        with arrived.open("r+b") as file:
            file.truncate(image.stat().st_size)
        assert sha256(arrived) == before[index]
        assert sha256(image) == before[index]
    views = [item.view() for item in session.copier.progress.values()]
    assert [view.fraction for view in views] == [1.0, 1.0]
    # What the file systems of the images never stored is not read; everything else once.
    assert all(0 < view.read_bytes <= path.stat().st_size for view, path in zip(views, images, strict=True))


def test_zeros_are_not_sent(gateway: Gateway, tmp_path: Path) -> None:
    session = Session(gateway, "zeros", [empty_image(tmp_path / "empty.img", 300 * MIB)])
    session.copier.run(2)
    session.wait_for("copied")
    assert session.copier.progress[0].view().sent_bytes < 10 * HEADER


def test_a_cut_connection_costs_only_what_was_on_the_way(gateway: Gateway, relay: Relay, tmp_path: Path) -> None:
    image = empty_image(tmp_path / "disk.img", 96 * MIB)
    image.write_bytes(random.Random(3).randbytes(96 * MIB))
    session = Session(gateway, "cut", [image], url=f"https://127.0.0.1:{relay.port}")

    def cutter() -> None:
        for _ in range(3):
            target = relay.sent + 20 * MIB
            while relay.sent < target and not session.stop.is_set():
                time.sleep(0.01)
            relay.cut()

    thread = threading.Thread(target=cutter, daemon=True)
    thread.start()
    session.copier.run(3)
    session.stop.set()
    session.wait_for("copied")
    assert any(problem and "connection was cut" in problem for problem in session.problems)
    # Three cuts, at most three connections with a batch of 56/3 MiB each: never the whole disk again.
    assert relay.sent < 96 * MIB + 3 * 60 * MIB
    arrived = gateway.image(session.enrolment.migration_id, 0, tmp_path / "arrived.raw")
    assert sha256(arrived) == sha256(image)


def test_a_killed_gateway_is_waited_for_and_nothing_durable_is_lost(own_gateway: Gateway, tmp_path: Path) -> None:
    own_gateway.start()
    own_gateway.activate()
    image = tmp_path / "disk.img"
    image.write_bytes(random.Random(5).randbytes(80 * MIB))
    session = Session(own_gateway, "kill", [image])
    progress = session.copier.progress[0]

    def power_cut() -> None:
        while progress.view().done_chunks < 20:
            time.sleep(0.01)
        own_gateway.kill()
        time.sleep(1)
        own_gateway.start()

    thread = threading.Thread(target=power_cut)
    thread.start()
    session.copier.run(2)
    thread.join()
    session.wait_for("copied")
    assert any(problem and "refused" in problem for problem in session.problems)
    arrived = own_gateway.image(session.enrolment.migration_id, 0, tmp_path / "arrived.raw")
    assert sha256(arrived) == sha256(image)


def test_what_the_site_has_is_not_read_again(gateway: Gateway, tmp_path: Path) -> None:
    session = Session(gateway, "again", [mixed_image(tmp_path / "disk.img", 30, 7)])
    session.copier.run(1)
    again = session.again()
    again.run(1)
    view = again.progress[0].view()
    assert (view.read_bytes, view.done_chunks) == (0, 30)


def test_the_site_is_asked_once_before_a_pass_and_once_after_it(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(gateway, "questions", [random_image(tmp_path / name, 3, 1) for name in ("a.img", "b.img")])
    asked: list[int] = []
    real = DataClient.have

    def have(self: DataClient, disk: int, chunks: int) -> bytes:
        asked.append(disk)
        return real(self, disk, chunks)

    monkeypatch.setattr(DataClient, "have", have)
    session.copier.run(2)
    assert sorted(asked) == [0, 0, 1, 1]
    asked.clear()
    # Bitmaps that would take too much memory are asked for again.
    monkeypatch.setattr(onepass, "BITMAP_TOTAL", 1)
    other = Session(gateway, "more-questions", [random_image(tmp_path / name, 3, 2) for name in ("c.img", "d.img")])
    other.copier.run(2)
    assert sorted(asked) == [0, 0, 1, 1, 1]


def test_a_canceled_migration_stops_the_copy(gateway: Gateway, tmp_path: Path) -> None:
    session = Session(gateway, "canceled", [mixed_image(tmp_path / "disk.img", 30, 8)])
    gateway.call("POST", f"/migrations/{session.enrolment.migration_id}/cancel", {"reason": "not today"})
    with pytest.raises(CopyStopped) as caught:
        session.copier.run(2)
    assert isinstance(caught.value, StateChanged | SessionLost)


def test_an_unknown_session_stops_the_copy(gateway: Gateway, tmp_path: Path) -> None:
    session = Session(gateway, "unknown", [mixed_image(tmp_path / "disk.img", 3, 8)])
    copier = Copier(session.site, "cm1_ses_" + "x" * 43, session.sources, session.stop, session.problems.append)
    with pytest.raises(SessionLost):
        copier.run(2)


def test_an_order_to_stop_ends_the_copy_while_the_site_is_away(gateway: Gateway, relay: Relay, tmp_path: Path) -> None:
    session = Session(
        gateway, "away", [mixed_image(tmp_path / "disk.img", 3, 9)], url=f"https://127.0.0.1:{relay.port}"
    )
    relay.refusing = True
    threading.Timer(1.0, session.stop.set).start()
    with pytest.raises(CopyStopped):
        session.copier.run(2)
    assert session.problems


def test_a_site_with_other_disks_is_refused(gateway: Gateway, tmp_path: Path) -> None:
    session = Session(gateway, "other", [mixed_image(tmp_path / "disk.img", 3, 9)])
    state = session.control.session(session.enrolment.session_token)
    (disk,) = state.disks
    with pytest.raises(CopyError, match="this machine has"):
        session.copier.check_session(replace(state, disks=(replace(disk, size_bytes=MIB),)))


def test_free_space_arrives_as_zeros_without_being_read_or_sent(gateway: Gateway, tmp_path: Path) -> None:
    image = random_image(tmp_path / "disk.img", 24, 11)
    free = [(2 * MIB + 4096, 9 * MIB), (15 * MIB, 15 * MIB + 65536), (20 * MIB, 24 * MIB)]
    session = Session(gateway, "free", [image], free=[free])
    session.copy()
    session.wait_for("copied")
    content = bytearray(image.read_bytes())
    for start, stop in free:
        content[start:stop] = bytes(stop - start)
    arrived = gateway.image(session.enrolment.migration_id, 0, tmp_path / "arrived.raw")
    assert arrived.read_bytes() == content
    view = session.copier.progress[0].view()
    assert view.skipped_bytes == sum(stop - start for start, stop in free)
    assert view.read_bytes == 14 * MIB
    assert view.sent_bytes < 14 * MIB


def test_free_space_is_copied_where_the_template_says_never(gateway: Gateway, tmp_path: Path) -> None:
    image = random_image(tmp_path / "disk.img", 6, 12)
    iso = gateway.iso("never", skip_free="never")
    session = Session(gateway, "never", [image], iso=iso, free=[[(MIB, 5 * MIB)]])
    session.copy()
    session.wait_for("copied")
    arrived = gateway.image(session.enrolment.migration_id, 0, tmp_path / "arrived.raw")
    assert sha256(arrived) == sha256(image)
    assert session.copier.progress[0].view().skipped_bytes == 0


def test_after_a_reboot_only_what_is_missing_or_changed_is_sent(gateway: Gateway, tmp_path: Path) -> None:
    image = random_image(tmp_path / "disk.img", 40, 13)
    iso = gateway.iso("reboot")
    known = {"iso": iso, "identity": str(uuid.uuid4()), "serials": ["S-1"]}
    first = Session(gateway, "reboot", [image], **known)
    threading.Thread(target=stop_at, args=(first, 25), daemon=True).start()
    with pytest.raises(CopyStopped):
        first.copy(1)
    client = DataClient(first.site, first.enrolment.session_token)
    kept = count_set(client.have(0, 40), 40)
    client.close()
    assert 25 <= kept < 40
    overwrite(image, [3, 4], 14)
    second = Session(gateway, "reboot", [image], **known)
    second.copy()
    second.wait_for("copied")
    arrived = gateway.image(second.enrolment.migration_id, 0, tmp_path / "arrived.raw")
    assert sha256(arrived) == sha256(image)
    view = second.copier.progress[0].view()
    assert kept - 2 <= view.reused_chunks <= kept
    assert view.sent_bytes < (40 - kept + 2) * (MIB + 4096)


def stop_at(session: Session, chunks: int) -> None:
    """End the copy, as a reboot does, when the site has so many chunks."""
    while session.copier.progress[0].view().done_chunks < chunks:
        time.sleep(0.005)
    session.stop.set()


def test_another_machine_gets_nothing_of_it(gateway: Gateway, tmp_path: Path) -> None:
    image = random_image(tmp_path / "disk.img", 4, 15)
    iso = gateway.iso("others")
    for _machine in range(2):
        session = Session(gateway, "others", [image], iso=iso, identity=str(uuid.uuid4()), serials=["S-1"])
        session.copy()
        assert session.copier.progress[0].view().reused_chunks == 0


def test_zstd_arrives_as_it_was(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Steady(Controller):
        def __init__(self, most_connections: int, codecs: Sequence[str], processors: int = 1) -> None:
            super().__init__(most_connections, codecs, processors)
            assert "zstd" in codecs
            self.plan = replace(self.plan, level=3)

        def tick(self, sample: Sample) -> Plan:
            return self.plan

        glance = tick

    monkeypatch.setattr(onepass, "Controller", Steady)
    image = mixed_image(tmp_path / "disk.img", 24, 16, tail=512)
    session = Session(gateway, "zstd", [image])
    session.copy()
    session.wait_for("copied")
    arrived = gateway.image(session.enrolment.migration_id, 0, tmp_path / "arrived.raw", image.stat().st_size)
    assert sha256(arrived) == sha256(image)
    assert session.copier.plan is not None
    assert session.copier.plan.codec == "zstd-3"


def test_one_connection_has_its_next_batch_on_the_way_while_an_answer_is_awaited(
    gateway: Gateway, relay: Relay, tmp_path: Path
) -> None:
    relay.delay = 0.2
    image = random_image(tmp_path / "disk.img", 48, 17)
    session = Session(gateway, "far", [image], url=f"https://127.0.0.1:{relay.port}")
    sending, most = 0, 0
    real = DataClient.send

    def send(self: DataClient, parts: Any, on_sent: Any) -> FramesAnswer:
        nonlocal sending, most
        sending += 1
        most = max(most, sending)
        try:
            return real(self, parts, on_sent)
        finally:
            sending -= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataClient, "send", send)
        session.copy(1)
    assert most == 2
    session.wait_for("copied")


def test_disks_behind_two_paths_are_read_one_after_the_other(tmp_path: Path) -> None:
    images = [empty_image(tmp_path / f"{number}.img", MIB) for number in range(4)]
    sources = dict(enumerate(read_image_files(images)))
    assert groups(sources, sources) == [[0], [1], [2], [3]]
    for index in (1, 3):
        sources[index] = with_disk(sources[index], wwn="naa.5000")
    assert groups(sources, sources) == [[0], [1, 3], [2]]
    assert groups({0: sources[0], 1: sources[0]}, [0, 1]) == [[0, 1]]


def test_partitions_of_one_disk_are_read_one_after_the_other(tmp_path: Path) -> None:
    devices = tmp_path / "devices"
    numbers = {}
    for number, name in enumerate(("sda/sda1", "sda/sda2", "sdb"), 1):
        place = devices / name
        place.mkdir(parents=True)
        if "/" in name:
            (place / "partition").write_text("1")
        numbers[f"8:{number}"] = place
    links = tmp_path / "sys/dev/block"
    links.mkdir(parents=True)
    for number, place in numbers.items():
        (links / number).symlink_to(place)
    found = [place_key(tmp_path / "sys", os.makedev(8, minor)) for minor in (1, 2, 3)]
    assert found[0] == found[1]
    assert found[2] not in found[:2]


def test_missing_ranges_are_those_without_a_bit() -> None:
    chance = random.Random(10)
    for _ in range(200):
        chunks = chance.randrange(1, 200)
        bits = [chance.random() < chance.choice([0.1, 0.9]) for _ in range(chunks)]
        have = bytearray((chunks + 7) // 8)
        for chunk, bit in enumerate(bits):
            have[chunk // 8] |= bit << chunk % 8
        found = [chunk for piece in missing_ranges(bytes(have), chunks) for chunk in piece]
        assert found == [chunk for chunk, bit in enumerate(bits) if not bit]
        assert count_set(bytes(have), chunks) == sum(bits)
        first = chance.randrange(chunks)
        count = chance.randrange(1, chunks - first + 1)
        assert has_all(bytes(have), first, count) == all(bits[first : first + count])


def test_waiting_times_grow_to_a_limit_and_start_again_after_success() -> None:
    backoff = Backoff(first=1, cap=30)
    times = [backoff.next() for _ in range(40)]
    assert 0.5 <= times[0] <= 1
    assert all(15 <= seconds <= 30 for seconds in times[6:])
    backoff.reset()
    assert backoff.next() <= 1


def test_progress_gives_rate_and_time_left_from_what_became_durable() -> None:
    now = [100.0]
    progress = DiskProgress(0, 100 * MIB, 100, now=lambda: now[0])
    progress.at_site(20)
    assert progress.view().seconds_left is None
    for _ in range(10):
        now[0] += 1
        progress.durable(2)
    view = progress.view()
    assert view.done_chunks == 40
    assert view.bytes_per_second == pytest.approx(2 * MIB)
    assert view.seconds_left == pytest.approx(30)
    now[0] += 300
    assert progress.view().bytes_per_second < MIB / 8


def test_an_aborted_channel_wakes_both_sides() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(1)
    errors: list[str] = []

    def blocked() -> None:
        try:
            channel.put(2)
        except Closed:
            errors.append("closed")

    thread = threading.Thread(target=blocked)
    thread.start()
    channel.abort()
    thread.join(5)
    assert errors == ["closed"]
    with pytest.raises(Closed):
        channel.get(1)
