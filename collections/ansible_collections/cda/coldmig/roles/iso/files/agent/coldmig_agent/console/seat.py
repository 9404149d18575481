# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps consoles going while the agent works: each in a thread of its own, and none of them can stop the copy.

A virtual console shows the full screen. A serial line goes line by line, for those who record it, until somebody
presses Enter there: then the full screen, and back after a while. A console that has a fault goes on as a plain one.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from coldmig_agent.console import shell
from coldmig_agent.console.desk import Desk
from coldmig_agent.console.hands import AgentHands, Machine
from coldmig_agent.console.scroll import PROGRESS_SECONDS, Scroll
from coldmig_agent.console.talk import Talk, progress_lines
from coldmig_agent.console.terminal import Terminal
from coldmig_agent.console.view import Now, View
from coldmig_agent.keys import Keys
from coldmig_agent.settings import split_words
from coldmig_agent.status import Status

if TYPE_CHECKING:
    from coldmig_agent.console.fullscreen import FullScreen

LOG = logging.getLogger(__name__)

REFRESH_SECONDS = 1.0
#: Kernel messages may have been written over the screen: it is drawn anew at least this often.
REDRAW_SECONDS = 15.0
#: A serial line goes back to lines when nobody has pressed a key for so long.
IDLE_SECONDS = 600.0
_KEY_SECONDS = 0.25
_PLAIN_PROGRESS_SECONDS = 60.0
_FAULT_SECONDS = 2.0
_MAX_LINE = 1000
_VIRTUAL_CONSOLE = re.compile(r"^/dev/tty[0-9]+$")
_ARGUMENT = "coldmig.console="


class Mode(Enum):
    """How a console is used."""

    SCREEN = "screen"
    LINES = "lines"
    PLAIN = "plain"


def wanted_mode(setting: str, command_line: str) -> str:
    """``auto``, ``plain`` or ``screen``: the kernel argument, else the ISO's setting."""
    words = split_words(command_line)
    modes = [word.removeprefix(_ARGUMENT) for word in words if word.startswith(_ARGUMENT)]
    mode = modes[-1] if modes else setting
    return mode if mode in {"plain", "screen"} else "auto"


def first_mode(path: Path, wanted: str, takes_input: bool) -> Mode:
    """How a console begins."""
    if wanted == "plain":
        return Mode.PLAIN
    if not takes_input:
        return Mode.LINES
    return Mode.SCREEN if wanted == "screen" or _VIRTUAL_CONSOLE.match(str(path)) else Mode.LINES


class Seat:
    """One console and whoever sits there."""

    def __init__(self, terminal: Terminal, machine: Machine, status: Status, keys: Keys, wanted: str = "auto") -> None:
        self._terminal = terminal
        self._status = status
        self._keys = keys
        self._wanted = wanted
        self._virtual = bool(_VIRTUAL_CONSOLE.match(str(terminal.path)))
        self._term = "linux" if self._virtual else "vt100"
        self._desk = Desk(AgentHands(machine, terminal.path.name, self._shell))
        self._stop = threading.Event()
        self._full: FullScreen | None = None
        self._scroll = Scroll(PROGRESS_SECONDS)
        self._hinted = False
        self.mode = first_mode(terminal.path, wanted, terminal.takes_input)
        self._thread = threading.Thread(target=self._run, name=f"console {terminal.path.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Show the last state and leave the terminal as it was."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        ended = last = False
        while not (ended or last):
            last = self._stop.is_set()  # a fault at the end is followed by one more turn, which shows the last state
            try:
                turn = {Mode.SCREEN: self._on_screen, Mode.LINES: self._in_lines, Mode.PLAIN: self._plainly}
                self.mode = turn[self.mode]()
                ended = self._stop.is_set()
            except Exception as error:
                # Whatever it was: the copy does not depend on being looked at.
                LOG.exception("the console on %s", self._terminal.path)
                self._status.event(
                    f"the console on {self._terminal.path.name} had a fault ({type(error).__name__}) and begins again,"
                    " line by line"
                )
                self.mode = Mode.PLAIN if self._terminal.takes_input else Mode.LINES
                self._stop.wait(_FAULT_SECONDS)
        try:
            self._terminal.close()
        except OSError as error:
            LOG.info("console %s: %s", self._terminal.path, error)

    # -- line by line, for a log; keys only where they were asked for

    def _write(self, lines: Sequence[str], prefix: str = "") -> None:
        if lines:
            # A terminal makes CR LF of it by itself (ONLCR).
            end = "\n" if self._terminal.takes_input else "\r\n"
            self._terminal.write("".join(f"{prefix}{line}{end}" for line in lines))

    def _in_lines(self) -> Mode:
        self._terminal.keys()
        if self._terminal.takes_input and not self._hinted:
            self._hinted = True
            self._write(["press Enter here for the full screen"], "coldmig: ")
        while True:
            self._write(self._scroll.new(self._status), "coldmig: ")
            if self._stop.is_set():
                return Mode.LINES
            data = self._read(REFRESH_SECONDS)
            if data[:1] == b"\x1b":  # a key that sends several characters, or an answer of the terminal itself
                self._keys.push("escape")
                self._terminal.read(_KEY_SECONDS)
            elif b"\r" in data or b"\n" in data:
                return Mode.SCREEN
            elif data:
                self._keys.push(data[:1].decode("ascii", "replace"))

    def _read(self, seconds: float) -> bytes:
        """What is typed; looks at the end of everything meanwhile."""
        deadline = time.monotonic() + seconds
        while not self._stop.is_set() and (left := deadline - time.monotonic()) > 0:
            if data := self._terminal.read(min(left, _KEY_SECONDS)):
                return data
        return b""

    # -- plain: words and Enter

    def _plainly(self) -> Mode:
        talk = Talk(self._desk)
        scroll = Scroll(_PLAIN_PROGRESS_SECONDS, progress_lines)
        typed = b""
        self._terminal.lines()
        self._write(talk.greeting())
        while True:
            new = scroll.new(self._status)
            if not talk.asking or self._stop.is_set():
                self._write(new)
                new = []
            if self._stop.is_set():
                return Mode.PLAIN
            typed = (typed + self._read(REFRESH_SECONDS))[-_MAX_LINE:]
            while b"\n" in typed:
                line, _newline, typed = typed.partition(b"\n")
                self._keys.push("enter")
                log = [text for _at, text in self._status.log()]
                self._write(talk.answer(line.decode("utf-8", "replace"), self._status.snapshot(), log))
                self._terminal.lines(echo=not talk.secret)
            self._write(new)

    # -- the full screen

    def _on_screen(self) -> Mode:
        from coldmig_agent.console.fullscreen import FullScreen  # noqa: PLC0415 - 6 MiB, only where it is used

        view = View(self._desk, self._keys)
        full = FullScreen(self._terminal, self._term)
        full.start()
        self._full = full
        try:
            return self._drive(view, full)
        finally:
            view.leave()
            self._full = None
            full.stop()

    def _now(self) -> Now:
        return Now(self._status.snapshot(), self._status.log())

    def _drive(self, view: View, full: FullScreen) -> Mode:
        touched = redrawn = time.monotonic()
        drawn = -REFRESH_SECONDS
        size = full.size()
        while True:
            pressed = full.keys(self._terminal.read(_KEY_SECONDS))
            now = time.monotonic()
            for key in pressed:
                touched = now
                if not self._virtual and self._wanted == "auto" and key == "q" and view.screen == "main":
                    return Mode.LINES
                if key == "ctrl l":
                    full.refresh()
                view.key(key, self._now())
            if self._stop.is_set():
                self._draw(view, full)
                return Mode.SCREEN
            if not self._virtual and self._wanted == "auto" and now - touched > IDLE_SECONDS:
                return Mode.LINES
            if full.size() != size or now - redrawn > REDRAW_SECONDS:
                size, redrawn = full.size(), now
                full.refresh()
                drawn = -REFRESH_SECONDS
            if pressed or now - drawn >= REFRESH_SECONDS:
                drawn = now
                self._draw(view, full)
            if view.pending is not None:
                view.submit()
                self._draw(view, full)

    def _draw(self, view: View, full: FullScreen) -> None:
        size = full.size()
        lines, cursor = view.picture(self._now(), size)
        full.draw(lines, cursor, size)

    # -- a shell on this terminal

    def _shell(self) -> None:
        if self._full is not None:
            self._full.stop()
        else:
            self._terminal.restore()
        try:
            shell.run(self._terminal.path, self._term)
        finally:
            self._terminal.reopen()
            if self._full is not None:
                self._full.start()
            elif self.mode is Mode.PLAIN:
                self._terminal.lines()


class Seats:
    """All consoles of a machine. A context manager: leaving it shows the last state."""

    def __init__(
        self, paths: Sequence[Path], machine: Machine, status: Status, keys: Keys, wanted: str = "auto"
    ) -> None:
        self._seats: list[Seat] = []
        for path in paths:
            try:
                self._seats.append(Seat(Terminal(path), machine, status, keys, wanted))
            except OSError as error:
                LOG.info("console %s: %s", path, error.strerror)

    def __len__(self) -> int:
        return len(self._seats)

    def __enter__(self) -> Seats:
        for seat in self._seats:
            seat.start()
        return self

    def __exit__(self, *_: object) -> None:
        for seat in self._seats:
            seat.end()
