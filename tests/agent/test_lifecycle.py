# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole agent against a real gateway: as a process of its own, or in this one where a wait must be shortened."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_lab import MIB, Authority, empty_image
from inside import Inside

from coldmig_agent import lifecycle
from coldmig_agent.config import parse_config
from coldmig_agent.copying import device, salvage
from coldmig_agent.copying.controller import Plan
from coldmig_agent.copying.engine import Copier
from coldmig_agent.discover import Found
from coldmig_agent.discovery.disks import read_image_files
from coldmig_agent.lifecycle import describe_plan, refusal
from coldmig_agent.machine import Notice
from coldmig_agent.site import ProblemError, Site, UnreachableError
from coldmig_agent.status import Phase
from support.agent import Agent as Process
from support.agent import iso_settings
from support.gateway import Gateway
from support.images import random_image, sha256
from support.processes import free_port
from support.relay import Relay


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = empty_image(tmp_path / "disk.img", 48 * MIB)
    with path.open("r+b") as file:
        file.seek(8 * MIB)
        file.write(random.Random(1).randbytes(20 * MIB))
    return path


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(settings: dict[str, Any] | None, *images: Path) -> Process:
        started.append(Process(tmp_path, settings, images))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def test_a_machine_is_copied_from_boot_to_the_last_word(
    gateway: Gateway, launch: Callable[..., Process], image: Path
) -> None:
    before = sha256(image)
    process = launch(gateway.iso("whole"), image)
    assert process.finish() == 0, process.text
    for words in ("Registering at the site", "registered as migration", "You can power off this machine now"):
        assert words in process.text
    (migration,) = gateway.migrations("whole")
    assert migration["state"] == "copied"
    assert migration["disks"][0]["verified"]
    assert migration["machine"]["cpu"]["sockets"] >= 1
    assert sha256(image) == before


def test_the_agent_waits_for_the_confirmation(gateway: Gateway, launch: Callable[..., Process], image: Path) -> None:
    process = launch(gateway.iso("confirm", auto_start=False), image)
    process.wait_for("Waiting for confirmation")
    (migration,) = gateway.migrations("confirm")
    assert (migration["state"], migration["disks"][0]["have_chunks"]) == ("waiting", 0)
    gateway.call("POST", f"/migrations/{migration['id']}/confirm")
    assert process.finish() == 0, process.text
    assert gateway.migration(migration["id"])["state"] == "copied"


def test_a_cancellation_is_shown_with_its_reason(gateway: Gateway, launch: Callable[..., Process], image: Path) -> None:
    process = launch(gateway.iso("cancel", auto_start=False), image)
    process.wait_for("Waiting for confirmation")
    (migration,) = gateway.migrations("cancel")
    gateway.call("POST", f"/migrations/{migration['id']}/cancel", {"reason": "wrong machine"})
    assert process.finish() == 1
    assert "The migration was canceled" in process.text
    assert "wrong machine" in process.text


def test_a_removed_migration_ends_the_agent_with_an_explanation(
    gateway: Gateway, launch: Callable[..., Process], image: Path
) -> None:
    process = launch(gateway.iso("removed", auto_start=False), image)
    process.wait_for("Waiting for confirmation")
    (migration,) = gateway.migrations("removed")
    gateway.call("POST", f"/migrations/{migration['id']}/cancel", {"reason": "x"})
    gateway.call("DELETE", f"/migrations/{migration['id']}")
    assert process.finish() == 1
    assert "does not know this session" in process.text or "was canceled" in process.text


def test_memory_stays_bounded(gateway: Gateway, launch: Callable[..., Process], tmp_path: Path) -> None:
    images = []
    for number in range(2):
        path = empty_image(tmp_path / f"disk-{number}.img", 400 * MIB)
        with path.open("r+b") as file:
            for _ in range(192):
                file.write(random.Random(number).randbytes(MIB))
        images.append(path)
    process = launch(gateway.iso("memory"), *images)
    assert process.finish() == 0, process.text
    assert 10 * 1024 < process.peak_kib < 200 * 1024


def test_an_iso_without_settings_says_so(launch: Callable[..., Process], image: Path) -> None:
    process = launch(None, image)
    assert process.finish() == 2
    assert "use an ISO made for a template" in process.text


def test_a_signal_ends_the_agent_while_it_waits(launch: Callable[..., Process], image: Path) -> None:
    settings = iso_settings(f"https://127.0.0.1:{free_port()}", Authority.create().pem)
    process = launch(settings, image)
    process.wait_for("connection refused")
    process.signal(signal.SIGTERM)
    assert process.finish() == 3


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "RETRY_SECONDS", 0.3)
    monkeypatch.setattr(lifecycle, "REFUSED_SECONDS", 0.3)


@pytest.mark.usefixtures("short_waits")
def test_a_site_that_is_away_and_then_not_activated_is_waited_for(own_gateway: Gateway, image: Path) -> None:
    settings = iso_settings(own_gateway.url, own_gateway.ca_pem)
    inside = Inside(settings, image)
    inside.wait_for(f"cannot reach {own_gateway.url}: connection refused")
    inside.stop.set()
    inside.join()

    own_gateway.start()
    settings = own_gateway.iso("later")
    inside = Inside(settings, image)
    inside.wait_for("site is not activated for cold migration: ask the provider; trying again in")
    own_gateway.activate()
    assert inside.join() is True, inside.text
    assert len(own_gateway.migrations("later")) == 1


@pytest.mark.usefixtures("short_waits")
def test_a_wrong_credential_says_what_to_do(gateway: Gateway, image: Path) -> None:
    inside = Inside(iso_settings(gateway.url, gateway.ca_pem), image)
    inside.wait_for("make a new ISO")
    assert "cm1_iso_" not in inside.text
    inside.stop.set()
    assert inside.join() is None


@pytest.mark.usefixtures("short_waits")
def test_a_foreign_site_is_never_given_the_credential(gateway: Gateway, image: Path) -> None:
    inside = Inside(iso_settings(gateway.url, Authority.create().pem), image)
    inside.wait_for("certificate is not the one on this ISO")
    inside.stop.set()
    inside.join()


@pytest.mark.parametrize(
    ("slug", "status", "words", "seconds"),
    [
        ("not-activated", 403, "ask the provider; trying again in 15 s", 15),
        ("credential-expired", 401, "has expired: make a new ISO", 60),
        ("template-deleted", 410, "was deleted", 60),
        ("disk-too-large", 413, "refuses this machine: disk 0 is too large", 60),
        ("internal", 500, "refuses this machine", 15),
    ],
)
def test_every_refusal_has_a_sentence_and_another_try(slug: str, status: int, words: str, seconds: float) -> None:
    text, wait = refusal(ProblemError(status, slug, "disk 0 is too large", {}))
    assert words in text
    assert wait == seconds


def test_the_site_learns_progress_and_the_kernels_write_counters(
    gateway: Gateway, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "REPORT_SECONDS", 0.2)
    inside = Inside(gateway.iso("progress"), image)
    assert inside.join() is True, inside.text
    (migration,) = gateway.migrations("progress")
    (disk,) = migration["progress"]["disks"]
    assert disk["kernel_writes"] == {"ios": 0, "sectors": 0}
    assert disk["done_chunks"] == 48
    assert disk["read_bytes"] == 20 * MIB  # the rest of the image are holes


def test_an_assessment_is_reported_and_nothing_is_copied(
    gateway: Gateway, launch: Callable[..., Process], image: Path
) -> None:
    before = sha256(image)
    process = launch(gateway.iso("assess", mode="assess"), image)
    assert process.finish() == 0, process.text
    assert "This machine was looked at and reported to the site" in process.text
    assert "You can power off this machine now" not in process.text
    (migration,) = gateway.migrations("assess")
    assert (migration["state"], migration["reserved_bytes"]) == ("assessed", None)
    assert migration["machine"]["inspection"] is not None
    assert (migration["progress"], migration["disks"][0]["have_chunks"]) == (None, 0)
    assert sha256(image) == before


@pytest.fixture
def a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every machine has a warning that holds it back."""
    real = lifecycle.discover.discover

    def discover(*arguments: Any) -> Found:
        found = real(*arguments)
        notice = Notice("tpm-sealed", "a key is sealed", "block", "Add another key.")
        return replace(found, machine=replace(found.machine, warnings=(notice,)))

    monkeypatch.setattr(lifecycle.discover, "discover", discover)


@pytest.mark.usefixtures("a_block")
def test_a_machine_that_a_warning_holds_back_says_so_and_goes_on_when_it_is_accepted(
    gateway: Gateway, image: Path
) -> None:
    inside = Inside(gateway.iso("held-back"), image)
    inside.wait_for("held back by its warning tpm-sealed, which somebody has to accept")
    (migration,) = gateway.migrations("held-back")
    assert (migration["state"], migration["blocked"]) == ("waiting", ["tpm-sealed"])
    gateway.call("POST", f"/migrations/{migration['id']}/confirm", {"accept_warnings": ["tpm-sealed"]})
    assert inside.join() is True, inside.text


@pytest.mark.usefixtures("a_block")
def test_an_assessment_says_at_the_console_what_would_be_in_the_way(gateway: Gateway, image: Path) -> None:
    inside = Inside(gateway.iso("in-the-way", mode="assess", limits={"max_disk_bytes": 1 << 20}), image)
    assert inside.join() is True, inside.text
    snapshot = inside.agent.status.snapshot()
    assert snapshot.phase is Phase.ASSESSED
    assert "warnings would hold its migration back: tpm-sealed" in snapshot.detail
    assert "the site would refuse it: Disk 0" in snapshot.detail


def test_a_failed_fence_ends_the_migration_before_it_begins(monkeypatch: pytest.MonkeyPatch, image: Path) -> None:
    def refuse(*_: object) -> None:
        raise lifecycle.FenceError("/dev/sda is not read-only")

    monkeypatch.setattr(lifecycle.discover, "find_sources", refuse)
    inside = Inside(iso_settings("https://127.0.0.1:1", Authority.create().pem), image)
    assert inside.join() is False
    assert inside.agent.status.snapshot().phase is Phase.FAILED
    assert "/dev/sda is not read-only" in inside.text


def failing_reads(monkeypatch: pytest.MonkeyPatch, code: int, first: int, last: int) -> None:
    """Every read that touches bytes ``first`` to ``last`` of a source fails with this errno."""
    real = os.preadv

    def read(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if offset <= last and first < offset + sum(map(len, buffers)):
            raise OSError(code, os.strerror(code))
        return real(fd, buffers, offset)

    monkeypatch.setattr(device.os, "preadv", read)


def test_bad_sectors_are_reported_with_their_addresses(
    gateway: Gateway, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(salvage, "PAUSES", (0.0,))
    start = 9 * MIB + 3 * 512
    failing_reads(monkeypatch, errno.EIO, start, start + 1023)
    inside = Inside(gateway.iso("damaged"), image)
    assert inside.join() is True, inside.text
    (migration,) = gateway.migrations("damaged")
    (disk,) = gateway.migration(migration["id"])["disks"]
    assert disk["unreadable"] == {"bytes": 1024, "chunks": 1, "ranges": [[start, 1024]]}
    content = bytearray(image.read_bytes())
    content[start : start + 1024] = bytes(1024)
    arrived = gateway.image(migration["id"], 0, image.with_name("arrived.raw"))
    assert arrived.read_bytes() == content


def test_a_disk_that_vanishes_ends_the_migration_with_a_reason(
    gateway: Gateway, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_reads(monkeypatch, errno.ENXIO, 20 * MIB, 48 * MIB)
    inside = Inside(gateway.iso("vanished"), image)
    assert inside.join() is False
    (migration,) = gateway.migrations("vanished")
    assert (migration["state"], migration["reason"]) == ("failed", "source-lost")
    assert "does not answer any more" in inside.text
    assert str(image) in inside.text


def test_a_disk_that_lies_ends_the_migration_with_a_reason(
    gateway: Gateway, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, reads = os.preadv, set[int]()

    def lie(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        count = real(fd, buffers, offset)
        covered = range(offset // MIB, (offset + count) // MIB)
        if count >= MIB and reads & set(covered):
            buffers[0][4711] ^= 1
        reads.update(covered)
        return count

    monkeypatch.setattr(device.os, "preadv", lie)
    inside = Inside(gateway.iso("liar"), image)
    assert inside.join() is False
    (migration,) = gateway.migrations("liar")
    assert (migration["state"], migration["reason"]) == ("failed", "source-unstable")
    assert "gave other data when it was read a second time" in inside.text
    assert "at bytes" in inside.text


def test_a_machine_waits_for_a_free_place_and_is_told_which_it_has(
    own_gateway: Gateway, launch: Callable[..., Process], image: Path, tmp_path: Path
) -> None:
    own_gateway.start()
    own_gateway.activate()
    own_gateway.call("PATCH", "/site/limits", {"max_concurrent_copies": 1})
    big = random_image(tmp_path / "big.img", 64, 5)
    relay = Relay(own_gateway.port)
    relay.rate = MIB
    with relay, Process(tmp_path / "first", own_gateway.iso("first", url=relay.url), [big]) as first:
        first.wait_for("Copying")
        until(lambda: own_gateway.only_migration("first")["state"] == "copying", first)
        second = launch(own_gateway.iso("second"), image)
        second.wait_for("Waiting for a free place: 1 of 1")
        assert own_gateway.only_migration("second")["state"] == "confirmed"
        relay.rate = None
        assert first.finish() == 0, first.text
        assert second.finish() == 0, second.text


def until(condition: Callable[[], bool], process: Process) -> None:
    """Wait for something at the site while the agent runs."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, process.text
        time.sleep(0.05)


def test_the_site_learns_what_limits_the_copy(gateway: Gateway, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(3, 3, 2, "link")
    monkeypatch.setattr(Copier, "plan", property(lambda _copier: plan))
    inside = Inside(gateway.iso("limits"), image)
    assert inside.join() is True, inside.text
    (migration,) = gateway.migrations("limits")
    progress = migration["progress"]
    assert (progress["limited_by"], progress["connections"], progress["codec"]) == ("link", 3, "zstd-3")
    assert progress["sample"]["mismatched"] == 0
    assert progress["sample"]["checked"] > 0
    assert describe_plan(plan) == "the link to the site limits the speed; 3 connections, zstd-3"
    assert describe_plan(Plan(1, 0, 2, "disk")) == "this machine's disk limits the speed; 1 connection, grains"
    assert describe_plan(None) == ""


class FakeControl:
    """A site that takes a report the second time."""

    def __init__(self) -> None:
        self.reports: list[Any] = []

    def unreadable(self, _token: str, disks: Any) -> None:
        self.reports.append(disks)
        if len(self.reports) == 1:
            raise UnreachableError("away")


def test_unreadable_places_are_reported_until_the_site_knows_and_again_when_there_are_more(image: Path) -> None:
    config = parse_config(json.dumps(iso_settings("https://127.0.0.1:1", Authority.create().pem)).encode())
    copier = Copier(Site(config.site), "t", read_image_files([image]), threading.Event(), lambda _text: None)
    bad_places = lifecycle._BadPlaces("t", copier)
    control: Any = FakeControl()
    bad_places.report(control)
    assert control.reports == []
    copier.unreadable.note(0, 1, [(MIB, 512)])
    for _attempt in range(3):
        bad_places.report(control)
    assert control.reports == [[{"index": 0, "bytes": 512, "ranges": [[MIB, 512]]}]] * 2
    copier.unreadable.note(0, 2, [(2 * MIB, 512)])
    bad_places.report(control)
    assert len(control.reports) == 3
