# SPDX-License-Identifier: GPL-3.0-or-later
"""The full screen as a thing that takes keys and gives pictures; knows no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coldmig_agent.console import picture, words
from coldmig_agent.console.desk import Desk
from coldmig_agent.console.forms import Editor, Form, Reply
from coldmig_agent.console.picture import Line
from coldmig_agent.keys import Keys
from coldmig_agent.status import Snapshot

#: What does not fit on one screen is shown in turns of this length.
PAGE_SECONDS = 8.0
#: How long the answer to a command stays.
MESSAGE_SECONDS = 12.0
MAIN, LOG, INFO, TESTS, HELP = "main", "log", "info", "tests", "help"
_SHORT = {"p": "off"}
_SCREENS = {"l": LOG, "i": INFO, "h": HELP, "?": HELP, "f1": HELP}
_BAR = ("h", "l", "n", "d", "t", "a", "c", "r", "p", "s", "i")
_ALWAYS_OURS = frozenset({"r", "p"})


@dataclass(frozen=True, slots=True)
class Now:
    """What there is to show."""

    snapshot: Snapshot
    log: Sequence[tuple[str, str]]


class View:
    """One person's screen. ``keys``: the agent's own questions, which go before the commands."""

    def __init__(self, desk: Desk, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        self._desk = desk
        self._keys = keys
        self._clock = clock
        self._began = clock()
        self._turned = 0
        self._screen = MAIN
        self._offset = 0
        self._editor: Editor | None = None
        self._message = ""
        self._message_at = 0.0

    @property
    def screen(self) -> str:
        """Which screen is shown."""
        return self._screen

    @property
    def pending(self) -> Form | None:
        """A form that was filled in: show the picture, then call :meth:`submit`, which may take a while."""
        return self._editor.form if self._editor is not None and self._editor.wants_submit else None

    def say(self, text: str) -> None:
        """Show a sentence for a while."""
        self._message, self._message_at = text, self._clock()

    def key(self, key: str, now: Now) -> None:
        """Take a key, by urwid's names."""
        if self._editor is not None:
            self._in_form(key)
        elif self._screen != MAIN:
            self._in_text(key, now)
        else:
            self._in_main(key, now)

    def submit(self) -> None:
        """Do what the filled form is for."""
        editor = self._editor
        if editor is None:
            return
        reply = editor.form.accept(editor.values)
        if reply.again and editor.form.fields:
            editor.answered(reply)
        else:
            self._close_form()
            self.say(reply.text)

    def leave(self) -> None:
        """Nobody is here any more: what was begun is not done."""
        if self._editor is not None:
            self._close_form()
        self._screen = MAIN

    def picture(self, now: Now, size: tuple[int, int]) -> tuple[list[Line], tuple[int, int] | None]:
        """The lines and where the cursor is. Below 80 x 24 characters what is below is cut."""
        width, height = size
        if self._editor is not None:
            lines, cursor = self._editor.picture(width, height)
            if self._editor.wants_submit:
                lines[-2] = Line(" One moment ...", "strong")
            return lines, cursor
        if self._screen == MAIN:
            page = int((self._clock() - self._began) / PAGE_SECONDS) + self._turned
            log = [text for _at, text in now.log[-8:]]
            lines = picture.overview(now.snapshot, width, height, page, log, self._bar())
        else:
            heading, content = self._text(now, width)
            lines, self._offset = picture.scrolled(heading, content, self._offset, size)
        if self._message and self._clock() - self._message_at < MESSAGE_SECONDS:
            told = words.wrap(words.ascii_only(self._message), width, " ", " ")[-4:]
            lines[-1 - len(told) : -1] = picture.styled(told, "field")
        return lines, None

    def _close_form(self) -> None:
        if self._editor is not None:
            self._editor.form.close()
        self._editor = None

    def _in_form(self, key: str) -> None:
        editor = self._editor
        if editor is None or editor.wants_submit:
            return
        editor.key(key)
        if editor.canceled:
            self._close_form()
            self.say("Nothing was changed.")

    def _in_text(self, key: str, now: Now) -> None:
        steps = {"up": -1, "down": 1, "page up": -15, "page down": 15, " ": 15, "home": -(10**6), "end": 10**6}
        if key in steps:
            self._offset = max(0, self._offset + steps[key])
        elif key == "t" and self._screen == TESTS:
            self._open("t", now)
        elif key in {"esc", "q", "enter", "left", "backspace"}:
            self._screen = MAIN

    def _in_main(self, key: str, now: Now) -> None:
        asked = self._keys.wanted
        self._keys.push(key)
        if asked and key in _ALWAYS_OURS:
            return
        if key in {" ", "right", "page down", "down"}:
            self._turned += 1
        elif key in {"left", "page up", "up"}:
            self._turned = max(0, self._turned - 1)
        elif key in _SCREENS:
            self._screen = _SCREENS[key]
            self._offset = 10**6 if self._screen == LOG else 0
        else:
            self._open(key, now)

    def _open(self, key: str, now: Now) -> None:
        command = self._desk.by_key(key.lower())
        if command is None:
            return
        opened = command.open(now.snapshot)
        if isinstance(opened, Reply):
            self.say(opened.text)
            if command.word == "test":
                self._screen = TESTS
        else:
            self._editor = Editor(opened)

    def _bar(self) -> list[tuple[str, str]]:
        names = {one.key: _SHORT.get(one.key, one.title) for one in self._desk.commands}
        names |= {"h": "help", "l": "log", "i": "info"}
        return [(key, names[key]) for key in _BAR]

    def _text(self, now: Now, width: int) -> tuple[str, list[Line]]:
        if self._screen == LOG:
            return "Log of this boot", picture.log_lines(now.log, width)
        if self._screen == INFO:
            return "What was found", picture.found_lines(now.snapshot, width)
        if self._screen == TESTS:
            return "The way to the site", picture.way_lines(now.snapshot, width)
        return "Help", self._help(width)

    def _help(self, width: int) -> list[Line]:
        rows = [(one.key, one.what) for one in self._desk.commands]
        rows += [("l", "the log of this boot"), ("i", "everything that was found"),
                 ("Space", "the next page of what was found"), ("Ctrl-L", "draw the screen anew")]  # fmt: skip
        lines = [line for key, what in rows for line in words.wrap(what, width, f" {key:<8}", " " * 9)]
        more = (
            "Nothing on this machine is changed by the agent: its disks are only read. What you set here holds for"
            " this boot. Commands that end something ask before they do it."
        )
        return picture.styled([*lines, "", *words.wrap(more, width, " ", " ")])
