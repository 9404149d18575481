# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys that the agent asks for: whose they are, and that none is taken for an answer to another question."""

from __future__ import annotations

import json
import threading

import pytest
from agent_lab import Authority

from coldmig_agent import cli, ending, keys
from coldmig_agent.config import parse_config
from coldmig_agent.keys import Keys
from coldmig_agent.lifecycle import Agent, Stopped
from coldmig_agent.orders import BeginAgainError
from coldmig_agent.status import Phase, Status
from support.agent import iso_settings


def test_a_key_goes_to_who_asks_for_one() -> None:
    asked = Keys()
    assert asked.read(0) == ""
    asked.push("R")
    asked.push("page up")
    assert (asked.read(1), asked.read(1), asked.read(0)) == ("r", "\x1b", "")


def test_what_was_pressed_before_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Keys()
    asked.push("p")
    assert asked.read(0) == ""
    asked.push("p")  # somebody still reads; then nobody does for a while
    monkeypatch.setattr(keys, "_PATIENCE", 0.0)
    assert not asked.wanted
    assert asked.read(0) == ""


def test_a_reader_waits_for_a_key() -> None:
    asked = Keys()
    asked.read(0)
    threading.Timer(0.2, asked.push, ["p"]).start()
    assert asked.read(30) == "p"


def test_a_person_may_begin_again_after_an_end() -> None:
    settings = iso_settings("https://site.example", Authority.create().pem)
    agent = Agent(parse_config(json.dumps(settings).encode()), Status(), threading.Event())
    agent.status.phase(Phase.FAILED, "the site is gone")
    threading.Timer(0.2, agent.orders.begin_again).start()
    with pytest.raises(BeginAgainError):
        cli._last_word(agent, Keys(), laboratory=True)


@pytest.mark.parametrize(
    ("phase", "laboratory", "happens"),
    [(Phase.ASSESSED, False, "reboot"), (Phase.ASSESSED, True, ""), (Phase.FAILED, False, "reboot")],
)
def test_a_machine_reboots_at_a_key_but_not_that_of_a_laboratory(
    monkeypatch: pytest.MonkeyPatch, phase: Phase, laboratory: bool, happens: str
) -> None:
    stop = threading.Event()
    settings = iso_settings("https://site.example", Authority.create().pem)
    agent = Agent(parse_config(json.dumps(settings).encode()), Status(), stop)
    agent.status.phase(phase)
    done: list[str] = []

    def note(what: str) -> None:
        done.append(what)
        stop.set()

    class PressedOnce(Keys):
        """Somebody presses r as soon as the agent looks, and comes back no more."""

        def read(self, seconds: float) -> str:
            if not done:
                done.append("")
                super().read(0)
                self.push("r")
            return super().read(seconds)

    monkeypatch.setattr(ending, "LAST_SECONDS", 0.2)
    monkeypatch.setattr(cli, "_reboot", lambda: note("reboot"))
    monkeypatch.setattr(cli, "_poweroff", lambda: note("poweroff"))
    if not happens:
        stop.set()
    with pytest.raises(Stopped):
        cli._last_word(agent, PressedOnce(), laboratory=laboratory)
    assert [what for what in done if what] == ([happens] if happens else [])
