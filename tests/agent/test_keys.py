# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys on real terminals (pseudo-terminals)."""

from __future__ import annotations

import json
import os
import pty
import select
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_lab import Authority

from coldmig_agent import cli, ending
from coldmig_agent.config import parse_config
from coldmig_agent.keys import Keys
from coldmig_agent.lifecycle import Agent, Stopped
from coldmig_agent.status import Phase, Status
from support.agent import iso_settings

PATIENCE = 30.0


class Terminal:
    """A terminal and the person at it."""

    def __init__(self) -> None:
        self.person, self._fd = pty.openpty()
        self.path = Path(os.ttyname(self._fd))

    def press(self, data: bytes) -> None:
        """Comes back when a reader would see it."""
        os.write(self.person, data)
        assert select.select([self._fd], [], [], PATIENCE)[0]

    @property
    def settings(self) -> object:
        return termios.tcgetattr(self._fd)

    def hang_up(self) -> None:
        os.close(self.person)

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def test_a_key_needs_no_enter_and_is_not_echoed(terminal: Terminal) -> None:
    with Keys([terminal.path]) as keys:
        terminal.press(b"R")
        assert keys.read(PATIENCE) == "r"
        os.set_blocking(terminal.person, False)
        with pytest.raises(BlockingIOError):
            os.read(terminal.person, 10)


def test_any_of_several_terminals_may_be_used(terminal: Terminal) -> None:
    other = Terminal()
    with Keys([terminal.path, other.path]) as keys:
        other.press(b"p")
        assert keys.read(PATIENCE) == "p"
        terminal.press(b"r")
        assert keys.read(PATIENCE) == "r"
    other.close()


def test_what_was_typed_before_is_no_answer(terminal: Terminal) -> None:
    terminal.press(b"r\n")
    with Keys([terminal.path]) as keys:
        assert keys.read(0.2) == ""


def test_a_key_that_sends_a_letter_in_a_sequence_is_not_that_letter(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = [b"OR"]  # F3 over a slow line: this comes while the reader waits for it
    monkeypatch.setattr(time, "sleep", lambda _seconds: terminal.press(rest.pop()))
    with Keys([terminal.path]) as keys:
        terminal.press(b"\x1b")
        assert keys.read(PATIENCE) == "\x1b"
        assert rest == []
        assert keys.read(0.2) == ""


def test_the_terminal_is_left_as_it_was(terminal: Terminal) -> None:
    before = terminal.settings
    with Keys([terminal.path]):
        assert terminal.settings != before
    assert terminal.settings == before


def test_what_is_no_terminal_or_goes_away_is_left_out(terminal: Terminal, tmp_path: Path) -> None:
    gone = Terminal()
    (tmp_path / "file").write_text("r")
    with Keys([tmp_path / "file", tmp_path / "missing", gone.path, terminal.path]) as keys:
        gone.hang_up()
        assert keys.read(0.1) == ""
        terminal.press(b"r")
        assert keys.read(PATIENCE) == "r"
    with Keys([]) as keys:
        assert keys.read(0.01) == ""
    gone.close()


@pytest.mark.parametrize(
    ("phase", "laboratory", "happens"),
    [(Phase.ASSESSED, False, "reboot"), (Phase.ASSESSED, True, ""), (Phase.FAILED, False, "reboot")],
)
def test_a_machine_reboots_at_a_key_but_not_that_of_a_laboratory(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal, phase: Phase, laboratory: bool, happens: str
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
                terminal.press(b"r")
            return super().read(seconds)

    monkeypatch.setattr(ending, "LAST_SECONDS", 0.2)
    monkeypatch.setattr(cli, "Keys", PressedOnce)
    monkeypatch.setattr(cli, "_reboot", lambda: note("reboot"))
    monkeypatch.setattr(cli, "_poweroff", lambda: note("poweroff"))
    if not happens:
        stop.set()
    with pytest.raises(Stopped):
        cli._last_word(agent, [terminal.path], laboratory=laboratory)
    assert [what for what in done if what] == ([happens] if happens else [])
