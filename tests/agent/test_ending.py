# SPDX-License-Identifier: GPL-3.0-or-later
"""What the machine does at its end, decided, counted down and called off; and what a real site tells a real agent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_lab import MIB, Authority, empty_image

from coldmig_agent import ending
from coldmig_agent.api import parse_session
from coldmig_agent.config import Config, parse_config
from coldmig_agent.ending import Act, AtEnd, decide
from coldmig_agent.lifecycle import Agent, Stopped
from coldmig_agent.status import Phase, Status
from support.agent import Agent as Process
from support.agent import iso_settings
from support.gateway import Gateway

STAY, POWER_OFF, REBOOT = Act.STAY, Act.POWER_OFF, Act.REBOOT


def config(*, poweroff_when_done: bool = False) -> Config:
    settings = iso_settings("https://site.example", Authority.create().pem, poweroff_when_done=poweroff_when_done)
    return parse_config(json.dumps(settings).encode())


@pytest.mark.parametrize(
    ("phase", "at_end", "by_the_iso", "act"),
    [
        (Phase.DONE, AtEnd(), False, STAY),
        (Phase.DONE, AtEnd(POWER_OFF), False, POWER_OFF),
        (Phase.DONE, AtEnd(REBOOT), False, REBOOT),
        (Phase.DONE, AtEnd(failure=REBOOT), False, STAY),
        (Phase.DONE, AtEnd(), True, POWER_OFF),
        (Phase.DONE, AtEnd(STAY), True, STAY),
        (Phase.ASSESSED, AtEnd(), True, STAY),
        (Phase.ASSESSED, AtEnd(REBOOT), False, REBOOT),
        (Phase.FAILED, AtEnd(), True, STAY),
        (Phase.FAILED, AtEnd(POWER_OFF), True, STAY),
        (Phase.FAILED, AtEnd(failure=REBOOT), False, REBOOT),
        (Phase.CANCELED, AtEnd(failure=POWER_OFF), False, POWER_OFF),
    ],
)
def test_the_template_decides_before_the_iso_and_nothing_means_to_stay(
    phase: Phase, at_end: AtEnd, by_the_iso: bool, act: Act
) -> None:
    decision = decide(phase, at_end, config(poweroff_when_done=by_the_iso))
    assert decision.act is act
    if act is not STAY:
        assert decision.because == ("as this ISO says" if by_the_iso else "as its template says")


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        ({}, AtEnd()),
        ({"at_end": None}, AtEnd()),
        ({"at_end": {"success": "poweroff", "failure": None}}, AtEnd(POWER_OFF)),
        ({"at_end": {"success": "levitate", "failure": "reboot"}}, AtEnd(None, REBOOT)),
    ],
)
def test_what_a_newer_or_older_site_says_is_never_obeyed_by_guess(said: dict[str, Any], understood: AtEnd) -> None:
    session = parse_session(json.dumps({"state": "waiting", "disks": [], **said}).encode())
    assert (session.at_end, session.collect_logs) == (understood, False)


class PressedKeys:
    """Keys as they are pressed, one for each time that the agent looks. ``patience`` seconds later it is stopped."""

    def __init__(self, stop: threading.Event, keys: str, patience: float) -> None:
        self._stop = stop
        self._keys = list(keys)
        self._patience = patience
        self._last = time.monotonic()

    def read(self, _seconds: float) -> str:
        if self._keys:
            self._last = time.monotonic()
            return self._keys.pop(0)
        if time.monotonic() - self._last >= self._patience:
            self._stop.set()
        return ""


def at_the_end(
    phase: Phase, at_end: AtEnd, pressed: str, *, wait: bool, actions: bool = True
) -> tuple[list[str], Agent]:
    """What is done on a machine whose migration has ended in this phase. ``wait``: until something is done."""
    stop = threading.Event()
    agent = Agent(config(), Status(), stop)
    agent.status.phase(phase, "what was said before")
    calls: list[str] = []

    def action(what: str) -> tuple[str, Callable[[], None]]:
        def do() -> None:
            calls.append(what)
            stop.set()

        return what, do

    # What was chosen stops the agent; where nothing was, somebody else does.
    keys: Any = PressedKeys(stop, pressed, 30.0 if wait else 0.0)
    offered = {key: action(ending.WORDS[act]) for key, act in ending.KEYS.items()} if actions else {}
    with pytest.raises(Stopped):
        ending.finish(agent, keys, offered, at_end)
    return calls, agent


@pytest.mark.parametrize(
    ("pressed", "done"),
    [
        ("r", ["rebooting"]),
        ("p", ["powering off"]),
        ("rr", ["rebooting"]),  # a key that is held down
        ("xq", []),
        ("rx", []),
        ("rxp", ["powering off"]),
        ("rp", []),
        ("", []),
    ],
)
@pytest.mark.parametrize("phase", [Phase.DONE, Phase.FAILED, Phase.CANCELED, Phase.ASSESSED])
def test_a_machine_that_stays_is_rebooted_or_powered_off_by_a_key(
    monkeypatch: pytest.MonkeyPatch, phase: Phase, pressed: str, done: list[str]
) -> None:
    monkeypatch.setattr(ending, "LAST_SECONDS", 0.3)
    calls, agent = at_the_end(phase, AtEnd(), pressed, wait=bool(done))
    assert calls == done
    assert agent.status.snapshot().phase is phase


@pytest.mark.parametrize(
    ("phase", "at_end", "done"),
    [
        (Phase.DONE, AtEnd(POWER_OFF), ["powering off"]),
        (Phase.DONE, AtEnd(REBOOT), ["rebooting"]),
        (Phase.FAILED, AtEnd(POWER_OFF, REBOOT), ["rebooting"]),
        (Phase.FAILED, AtEnd(POWER_OFF), []),
    ],
)
def test_the_machine_does_what_was_decided_after_a_countdown(
    monkeypatch: pytest.MonkeyPatch, phase: Phase, at_end: AtEnd, done: list[str]
) -> None:
    monkeypatch.setattr(ending, "COUNTDOWN_SECONDS", 0.3)
    calls, agent = at_the_end(phase, at_end, "", wait=bool(done))
    assert calls == done
    told = "\n".join(text for _, text in agent.status.events_after(0))
    for what in done:
        assert f"what was said before; {what} in 0 s, as its template says; press a key to stay" in told


def test_a_key_keeps_the_machine_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "COUNTDOWN_SECONDS", 30.0)
    calls, agent = at_the_end(Phase.DONE, AtEnd(POWER_OFF), "x", wait=False)
    assert calls == []
    assert agent.status.snapshot().detail == "what was said before"


def test_in_a_laboratory_nothing_is_done_to_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "COUNTDOWN_SECONDS", 0.0)
    assert at_the_end(Phase.DONE, AtEnd(POWER_OFF), "pr", wait=False, actions=False)[0] == []


def test_the_logs_reach_the_site_scrubbed_and_only_when_it_asks(gateway: Gateway, tmp_path: Path) -> None:
    image = empty_image(tmp_path / "disk.img", 4 * MIB)
    for name, wanted in (("with-logs", True), ("without-logs", False)):
        iso = gateway.iso(name, collect_logs=wanted, at_end={"success": "poweroff"})
        with Process(tmp_path / name, iso, [image]) as process:
            assert process.finish() == 0, process.text
        assert ("the site has this machine's logs" in process.text) is wanted
        (migration,) = gateway.migrations(name)
        assert migration["at_end"] == {"success": "poweroff", "failure": None}
        if not wanted:
            continue
        text = gateway.call("GET", f"/migrations/{migration['id']}/logs")["text"]
        for words in ("== memory", "least available", "== agent", "Registering at the site", "== kernel"):
            assert words in text
        assert "the site has verified every chunk" in text
        assert iso["credential"] not in text
        assert "cm1_" not in text


def test_a_failed_machine_says_why_in_its_logs(gateway: Gateway, tmp_path: Path) -> None:
    image = empty_image(tmp_path / "disk.img", 4 * MIB)
    iso = gateway.iso("canceled-with-logs", auto_start=False, collect_logs=True)
    with Process(tmp_path / "agent", iso, [image]) as process:
        process.wait_for("Waiting for confirmation")
        (migration,) = gateway.migrations("canceled-with-logs")
        gateway.call("POST", f"/migrations/{migration['id']}/cancel", {"reason": "the wrong rack"})
        assert process.finish() == 1
    assert "the wrong rack" in gateway.call("GET", f"/migrations/{migration['id']}/logs")["text"]
