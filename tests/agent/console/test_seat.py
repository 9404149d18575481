# SPDX-License-Identifier: GPL-3.0-or-later
"""Consoles on real terminals: what a person sees and what their keys do, and that nothing there stops the agent."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from console_lab import PATIENCE, SNAPSHOT, VIEW, Person

from coldmig_agent.console import fullscreen, seat, shell
from coldmig_agent.console.hands import Machine
from coldmig_agent.console.seat import Mode, Seats, first_mode, wanted_mode
from coldmig_agent.keys import Keys
from coldmig_agent.machine import Notice
from coldmig_agent.status import Phase, Status

HELLO = "Cold migration"


class Room:
    """A machine with one console and a person at it."""

    def __init__(self, person: Person, wanted: str = "screen") -> None:
        self.person = person
        self.status = Status()
        self.keys = Keys()
        self.done: list[str] = []
        machine = Machine(None, lambda: self.done.append("reboot"), lambda: self.done.append("poweroff"))
        self.seats = Seats([person.path], machine, self.status, self.keys, wanted)


@pytest.fixture
def person() -> Iterator[Person]:
    made = Person()
    yield made
    made.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_full_screen_shows_the_state_and_follows_it(person: Person) -> None:
    room = Room(person)
    room.status.configured("https://site.example:8443", "standard (acme)")
    with room.seats:
        person.wait_for("STARTING")
        text = person.wait_for("https://site.example:8443")
        assert text.startswith(" Cold migration")
        assert "standard (acme)" in text
        room.status.phase(Phase.COPYING)
        room.status.watch_disks(lambda: [VIEW])
        assert "1.2 GiB of 3.0 GiB  35.0 MiB/s  52 s left" in person.wait_for("40.0 %")
        assert "h help" in person.look()[-1]


def test_only_what_changes_is_sent_again(person: Person) -> None:
    room = Room(person)
    with room.seats:
        person.wait_for("h help")
        time.sleep(1.5)
        person.look()
        before = len(person.raw)
        room.status.phase(Phase.DISCOVERING)
        person.wait_for("LOOKING AT THIS MACHINE")
        assert len(person.raw) - before < 600


@pytest.mark.parametrize("size", [(80, 24), (132, 50), (100, 30)])
def test_the_screen_survives_other_sizes_while_it_runs(person: Person, size: tuple[int, int]) -> None:
    room = Room(person)
    with room.seats:
        person.wait_for("h help")
        person.resize(*size)
        wait_until(lambda: "h help" in person.look()[size[1] - 1])
        assert "Cold migration" in person.look()[0]
        person.resize(80, 24)
        wait_until(lambda: "h help" in person.look()[23])


def test_a_terminal_that_the_kernel_has_no_size_of_is_asked(person: Person) -> None:
    person.resize(0, 0)
    room = Room(person)
    with room.seats:
        person.wait_for("\x1b[6n", lambda: person.said)
        person.screen.resize(40, 120)
        person.type("\x1b[40;120R")
        wait_until(lambda: "h help" in person.look()[39])


def test_a_serial_line_goes_line_by_line_until_somebody_presses_enter(person: Person) -> None:
    room = Room(person, "auto")
    with room.seats:
        room.status.phase(Phase.NETWORK)
        person.wait_for("coldmig: Waiting for the network")
        assert "\x1b" not in person.said
        person.type("q")
        person.type("\r")
        person.wait_for("WAITING FOR THE NETWORK")
        room.status.event("while the screen is shown")
        person.type("q")
        person.wait_for("coldmig: while the screen is shown")
        room.status.event("and afterwards")
        person.wait_for("coldmig: and afterwards")


def test_a_serial_line_that_nobody_uses_any_more_goes_back_to_lines(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seat, "IDLE_SECONDS", 1.0)
    room = Room(person, "auto")
    with room.seats:
        person.type("\r")
        person.wait_for("STARTING")
        room.status.event("nobody is there")
        person.wait_for("coldmig: nobody is there")


def test_a_form_that_was_left_open_is_not_done(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "IDLE_SECONDS", 1.0)
    room = Room(person, "auto")
    with room.seats:
        person.type("\r")
        person.wait_for("STARTING")
        person.type("p")
        person.wait_for("Power this machine off?")
        room.status.event("nobody is there")
        person.wait_for("coldmig: nobody is there")
        person.type("y\ry")
        person.wait_for("STARTING")
    assert room.done == []


def test_rebooting_asks_back(person: Person) -> None:
    room = Room(person)
    with room.seats:
        person.wait_for("h help")
        person.type("r")
        person.wait_for("Reboot this machine?")
        person.type("n")
        person.wait_for("Nothing was changed.")
        assert room.done == []
        person.type("r")
        person.wait_for("Reboot this machine?")
        person.type("y")
        wait_until(lambda: room.done == ["reboot"])


def test_keys_that_the_agent_asks_for_go_to_the_agent(person: Person) -> None:
    room = Room(person)
    with room.seats:
        person.wait_for("h help")
        room.keys.read(0)
        person.type("r")
        assert room.keys.read(PATIENCE) == "r"
        time.sleep(0.5)
        assert "Reboot this machine?" not in person.text
        person.type("\x1b[A")
        assert room.keys.read(PATIENCE) == "\x1b"


@pytest.mark.parametrize("wanted", ["auto", "screen"])
def test_what_was_typed_before_is_no_answer(person: Person, wanted: str) -> None:
    room = Room(person, wanted)
    with room.seats:
        person.wait_for("full screen" if wanted == "auto" else "h help")
        person.type("p")
        time.sleep(0.7)
        assert room.keys.read(0.1) == ""


def test_a_key_of_a_line_console_needs_no_enter(person: Person) -> None:
    room = Room(person, "auto")
    with room.seats:
        person.wait_for("full screen")
        room.keys.read(0)
        person.type("P")
        assert room.keys.read(PATIENCE) == "p"


def test_plain_mode_speaks_in_lines_and_takes_words(person: Person) -> None:
    room = Room(person, "plain")
    with room.seats:
        person.wait_for("Type help")
        person.type("help\n")
        person.wait_for("network: correct address")
        person.type("status\n")
        person.wait_for("Starting.")
        room.status.phase(Phase.DISCOVERING)
        person.wait_for("Looking at this machine")
        person.type("poweroff\n")
        person.wait_for("Type yes to do it")
        person.type("no\n")
        person.wait_for("Nothing was done.")
        assert room.done == []
        person.type("poweroff\n")
        wait_until(lambda: person.said.count("Type yes to do it") == 2)
        person.type("yes\n")
        wait_until(lambda: room.done == ["poweroff"])
    assert not set(person.said) & set(map(chr, [*range(7), *range(11, 13), *range(14, 32), 127]))


def test_a_fault_of_the_screen_leaves_a_plain_console(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "_FAULT_SECONDS", 0.1)
    room = Room(person)
    with room.seats:
        person.wait_for("h help")
        monkeypatch.setattr(fullscreen.FullScreen, "draw", lambda *_: 1 / 0)
        person.wait_for("had a fault (ZeroDivisionError)", lambda: person.said)
        person.type("status\n")
        person.wait_for("Starting.", lambda: person.said)


def test_after_a_fault_just_before_the_end_the_last_state_is_still_shown(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seat, "_FAULT_SECONDS", 60.0)
    room = Room(person)
    with room.seats:
        person.wait_for("h help")
        faulty = threading.Event()
        monkeypatch.setattr(fullscreen.FullScreen, "draw", lambda *_: faulty.set() or 1 / 0)
        assert faulty.wait(PATIENCE)
        room.status.event("the very last words")
    person.wait_for("the very last words", lambda: person.said)


def test_without_the_library_there_is_a_plain_console(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "_FAULT_SECONDS", 0.1)
    monkeypatch.setitem(__import__("sys").modules, "coldmig_agent.console.fullscreen", None)
    room = Room(person)
    with room.seats:
        person.wait_for("Type help")


@pytest.mark.parametrize("wanted", ["auto", "screen", "plain"])
def test_escape_sequences_of_a_guest_never_reach_a_terminal(person: Person, wanted: str) -> None:
    room = Room(person, wanted)
    evil = "\x1b]0;owned\x07\x9b31m\x1b[2Jname\u202e\u2028\x00"
    with room.seats:
        room.status.machine([f"{evil} host"], [Notice("code", f"{evil} notice", action=evil)], [evil], [evil])
        room.status.configured(f"https://{evil}", evil)
        room.status.booted(evil, evil, f"{evil} banner")
        room.status.migration(evil, evil)
        room.status.problem(f"{evil} problem")
        person.wait_for("problem")
        if wanted == "screen":
            for key, words in (("l", "Log of this boot"), ("i", "What was found")):
                person.type(key)
                person.wait_for(words)
                person.type("q")
                person.wait_for("h help")
    for bad in ("\x1b]0", "owned\x07", "\x9b", "\x00", "\x1b[2Jname", "\u202e"):
        assert bad not in person.said


def test_a_line_that_nobody_reads_does_not_stop_the_agent(person: Person) -> None:
    for wanted in ("auto", "screen", "plain"):
        room = Room(person, wanted)
        began = time.monotonic()
        with room.seats:
            for number in range(1000):
                room.status.event(f"event {number} " + "x" * 300)
        assert time.monotonic() - began < 20


def test_a_terminal_is_left_as_it_was(person: Person) -> None:
    for wanted, words in (("screen", "h help"), ("auto", "full screen"), ("plain", "Type help")):
        before = person.settings
        room = Room(person, wanted)
        with room.seats:
            person.wait_for(words)
            assert person.settings != before
        assert person.settings == before


def test_somebody_who_hangs_up_and_a_path_that_is_no_console_stop_nothing(person: Person, tmp_path: Path) -> None:
    status, keys = Status(), Keys()
    machine = Machine(None, lambda: None, lambda: None)
    file = tmp_path / "console.txt"
    file.touch()
    seats = Seats([tmp_path / "missing", person.path, file], machine, status, keys, "screen")
    assert len(seats) == 2
    with seats:
        person.wait_for("h help")
        person.hang_up()
        status.event("still here")
        wait_until(lambda: "coldmig: still here" in file.read_text())
    assert "\x1b" not in file.read_text()


def test_a_shell_takes_the_terminal_and_gives_it_back(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shell.run
    script = ("/bin/sh", "-c", "tty; echo type; read answer; echo got $answer")
    monkeypatch.setattr(shell, "run", lambda path, term: real(path, term, script))
    room = Room(person)
    with room.seats:
        person.wait_for("h help")
        (one,) = room.seats._seats
        monkeypatch.setattr(one._desk._hands, "shell_wants", lambda: "nothing")
        monkeypatch.setattr(one._desk._hands, "shell", lambda _password: one._shell() or seat_reply())
        person.type("s")
        person.wait_for("Start a root shell?")
        person.type("y")
        person.wait_for("type")
        assert str(person.path) in person.text
        person.type("something\n")
        person.wait_for("it was left")
        assert "h help" in person.look()[23]
    assert "got something" in person.said


def seat_reply() -> object:
    from coldmig_agent.console.forms import Reply

    return Reply("it was left")


@pytest.mark.parametrize(
    ("setting", "arguments", "mode"),
    [
        ("auto", "quiet", "auto"),
        ("plain", "quiet", "plain"),
        ("plain", "coldmig.console=screen", "screen"),
        ("auto", "coldmig.console=plain coldmig.console=auto", "auto"),
        ("screen", "coldmig.console=beautiful", "auto"),
        ("auto", "a='", "auto"),
    ],
)
def test_the_kernel_argument_counts_before_the_setting(setting: str, arguments: str, mode: str) -> None:
    assert wanted_mode(setting, arguments) == mode


def test_virtual_consoles_begin_with_the_screen_and_others_with_lines() -> None:
    assert first_mode(Path("/dev/tty1"), "auto", True) is Mode.SCREEN
    assert first_mode(Path("/dev/ttyS0"), "auto", True) is Mode.LINES
    assert first_mode(Path("/dev/ttyS0"), "screen", True) is Mode.SCREEN
    assert first_mode(Path("/dev/tty1"), "plain", True) is Mode.PLAIN
    assert first_mode(Path("file"), "screen", False) is Mode.LINES


def test_progress_comes_now_and_then(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "PROGRESS_SECONDS", 0.0)
    room = Room(person, "auto")
    room.status.phase(Phase.COPYING)
    room.status.watch_disks(
        lambda: [replace(VIEW, skipped_bytes=1 << 30)], lambda: "the link to the site limits the speed"
    )
    assert SNAPSHOT.phase is Phase.COPYING
    with room.seats:
        person.wait_for("coldmig: disk 0 [########")
        person.wait_for("disk 0: 1.0 GiB free")
        person.wait_for("the link to the site limits the speed")


def test_a_line_that_was_hung_up_is_used_again(person: Person, tmp_path: Path) -> None:
    """As the kernel does to a terminal whose shell has ended: what was open gives nothing any more."""
    other = Person()
    link = tmp_path / "console"
    link.symlink_to(person.path)
    status, keys = Status(), Keys()
    with Seats([link], Machine(None, lambda: None, lambda: None), status, keys, "auto"):
        person.wait_for("full screen")
        link.unlink()
        link.symlink_to(other.path)
        person.hang_up()
        deadline = time.monotonic() + PATIENCE
        while "still here" not in other.text:
            assert time.monotonic() < deadline
            status.event("still here")
            time.sleep(0.3)
        other.type("\r")
        other.wait_for("STARTING")
    other.close()


_TIOCVHANGUP = 0x5437  # asm-generic/ioctls.h


@pytest.mark.skipif(os.geteuid() != 0, reason="hanging a terminal up needs root")
@pytest.mark.parametrize("wanted", ["auto", "screen", "plain"])
def test_a_terminal_that_the_kernel_has_hung_up_is_used_again(person: Person, wanted: str) -> None:
    room = Room(person, wanted)
    with room.seats:
        person.wait_for({"auto": "full screen", "screen": "h help", "plain": "Type help"}[wanted])
        fcntl.ioctl(person._slave, _TIOCVHANGUP)
        deadline = time.monotonic() + PATIENCE
        while "still here" not in person.text:
            assert time.monotonic() < deadline
            room.status.event("still here")
            time.sleep(0.3)
        person.type("log\n" if wanted == "plain" else "\r" if wanted == "auto" else "h")
        person.wait_for({"auto": "STARTING", "screen": "Ctrl-L", "plain": "still here"}[wanted])
