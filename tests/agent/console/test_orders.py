# SPDX-License-Identifier: GPL-3.0-or-later
"""Orders of a person at the machine, carried out by the whole agent against a real gateway."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path

import pytest
from agent_lab import MIB, Authority, empty_image
from inside import Inside

from coldmig_agent import lifecycle
from coldmig_agent.config import parse_config
from coldmig_agent.lifecycle import Agent, no_disk
from coldmig_agent.machine import LeftOut
from coldmig_agent.status import Phase, Status
from support.agent import iso_settings
from support.gateway import Gateway
from support.processes import free_port


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    made = []
    for number in range(2):
        made.append(empty_image(tmp_path / f"disk-{number}.img", 32 * MIB))
        with made[-1].open("r+b") as file:
            file.write(random.Random(number).randbytes(16 * MIB))
    return made


def test_a_migration_is_given_up_at_the_machine_and_begun_again(gateway: Gateway, images: list[Path]) -> None:
    working = Inside(gateway.iso("given-up", auto_start=False), *images)
    working.wait_for("Waiting for confirmation")
    working.orders.cancel()
    assert working.join() is False
    (migration,) = gateway.migrations("given-up")
    assert (migration["state"], migration["reason"]) == ("failed", "canceled-at-machine")
    snapshot = working.agent.status.snapshot()
    assert (snapshot.phase, snapshot.detail) == (Phase.CANCELED, "at the console of this machine")

    again = threading.Thread(target=working.agent.run, daemon=True)
    again.start()
    working.wait_until(lambda: len(gateway.migrations("given-up")) == 2)
    second = next(one for one in gateway.migrations("given-up") if one["id"] != migration["id"])
    gateway.call("POST", f"/migrations/{second['id']}/confirm")
    again.join(90)
    assert gateway.migration(second["id"])["state"] == "copied"


def test_a_copy_stops_when_it_is_canceled_at_the_machine(
    gateway: Gateway, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "REPORT_SECONDS", 0.1)
    settings = gateway.iso("stopped", limits={"bandwidth_limit": MIB})
    working = Inside(settings, *images)
    working.wait_for("Copying")
    working.orders.cancel()
    assert working.join() is False
    (migration,) = gateway.migrations("stopped")
    assert (migration["state"], migration["reason"]) == ("failed", "canceled-at-machine")


def test_other_disks_make_another_registration(gateway: Gateway, images: list[Path]) -> None:
    working = Inside(gateway.iso("disks", auto_start=False), *images)
    working.wait_for("Waiting for confirmation")
    (first,) = gateway.migrations("disks")
    assert len(first["disks"]) == 2
    working.orders.leave_out(frozenset({str(images[1])}))
    working.wait_until(lambda: len(gateway.migrations("disks")) == 2)
    assert gateway.migration(first["id"])["reason"] == "disks-chosen"
    second = next(one for one in gateway.migrations("disks") if one["id"] != first["id"])
    assert [disk["path"] for disk in gateway.migration(second["id"])["machine"]["disks"]] == [str(images[0])]
    (left,) = gateway.migration(second["id"])["machine"]["left_out"]
    assert (left["path"], "chosen at the console" in left["reason"]) == (str(images[1]), True)
    working.end()


def test_nothing_is_registered_while_disks_are_being_chosen(gateway: Gateway, images: list[Path]) -> None:
    settings = gateway.iso("held")
    agent = parse_config(json.dumps(settings).encode())
    status = Status()
    made = Agent(agent, status, threading.Event(), images=images)
    made.orders.hold("somebody", True)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while "before the disks are chosen" not in status.snapshot().detail:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert gateway.migrations("held") == []
    made.orders.leave_out(frozenset({str(images[0])}))
    made.orders.hold("somebody", False)
    thread.join(90)
    (migration,) = gateway.migrations("held")
    assert [disk["path"] for disk in migration["machine"]["disks"]] == [str(images[1])]


def test_a_person_need_not_wait_for_the_next_try(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []
    working = Inside(iso_settings(f"https://127.0.0.1:{free_port()}", Authority.create().pem), *images)
    monkeypatch.setattr(lifecycle.network, "write_resolv_conf", lambda: tries.append(time.monotonic()))
    working.wait_for("trying again in 15 s")
    began = time.monotonic()
    working.orders.retry()
    working.wait_until(lambda: tries)
    assert time.monotonic() - began < 10
    working.orders.cancel()  # before there is anything that the site would have to be told
    assert working.join() is False
    assert working.agent.status.snapshot().phase is Phase.CANCELED


def test_a_machine_without_disks_to_copy_says_why() -> None:
    assert "driver" in no_disk(())
    left = LeftOut("/dev/sda", 1, "", "", "chosen")
    assert "(/dev/sda) are left out by the settings or at the console" in no_disk((left,))
