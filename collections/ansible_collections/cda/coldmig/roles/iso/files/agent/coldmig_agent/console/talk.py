# SPDX-License-Identifier: GPL-3.0-or-later
"""The plain console: lines in, lines out, no control sequences; for screen readers and terminals that can nothing."""

from __future__ import annotations

from collections.abc import Sequence

from coldmig_agent.checks import STEPS
from coldmig_agent.console import words
from coldmig_agent.console.desk import Desk
from coldmig_agent.console.forms import Field, Form, Reply
from coldmig_agent.status import Phase, Snapshot

_WIDTH = 10_000  # a line is a sentence; the terminal or the reader folds it
_NOTHING = "none"


def status_lines(snapshot: Snapshot) -> list[str]:
    """Everything that a person has to know now, a sentence a line."""
    lines = [f"{snapshot.headline}{': ' + snapshot.detail if snapshot.detail else ''}."]
    if snapshot.phase in words.COPY_PHASES:
        lines += progress_lines(snapshot)
    if snapshot.problem:
        lines.append(f"Problem: {snapshot.problem}.")
        lines += [line.strip() for line in words.check_lines(snapshot.checks, _WIDTH)]
    if text := words.advice(snapshot):
        lines.append(text)
    return lines


def progress_lines(snapshot: Snapshot) -> list[str]:
    """The copy in words, without a bar."""
    lines = []
    for view in snapshot.disks:
        drawn, percent, rest = words.disk_line(view).partition("]")
        lines.append(f"{drawn.split(' [')[0]}:{percent and rest}".replace("  ", ", ").replace(":, ", ": "))
    lines += [line for view in snapshot.disks if (line := words.savings_line(view))]
    if snapshot.copy and snapshot.phase is Phase.COPYING:
        lines.append(snapshot.copy)
    return lines


class Talk:
    """A person who types words. ``answer`` takes a line and gives those to be written."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._form: Form | None = None
        self._values: dict[str, str] = {}
        self._at = 0

    @property
    def secret(self) -> bool:
        """Whether what is typed now must not be shown."""
        one = self._field()
        return one is not None and one.secret

    @property
    def asking(self) -> bool:
        """Whether a question is open."""
        return self._form is not None

    def greeting(self) -> list[str]:
        """How to begin."""
        return ["Cold migration, plain console. Type help and press Enter for what can be done here."]

    def answer(self, line: str, snapshot: Snapshot, log: Sequence[str]) -> list[str]:
        """What to write to a line that was typed."""
        text = words.ascii_only(line.strip()) if not self.secret else line.rstrip("\r\n")
        if self._form is not None:
            return self._in_form(text)
        word = text.lower()
        command = self._desk.by_word(word)
        if word in {"help", "h", "?"}:
            return self._help()
        if command is None:
            return self._look(word, snapshot, log) or [f"{text[:40]!r} is no command. Type help for those that are."]
        opened = command.open(snapshot)
        if isinstance(opened, Reply):
            return [opened.text]
        self._form, self._at, self._values = opened, 0, {one.key: one.value for one in opened.fields}
        return [*opened.text, *self._question()]

    @staticmethod
    def _look(word: str, snapshot: Snapshot, log: Sequence[str]) -> list[str]:
        """What is only to be looked at; nothing for a word that is none of these."""
        if word in {"", "status"}:
            return status_lines(snapshot)
        if word == "log":
            return list(log[-20:])
        if word == "info":
            return [line.strip() for piece in words.findings(snapshot, _WIDTH) for line in piece] or ["Nothing yet."]
        if word == "tests":
            return [line.strip() for line in words.all_check_lines(snapshot.checks, STEPS, _WIDTH)]
        return []

    def _help(self) -> list[str]:
        lines = ["status: how it goes", "log: what happened last", "info: what was found", "tests: how the tests went"]
        return [*lines, *(f"{one.word}: {one.what}" for one in self._desk.commands)]

    def _field(self) -> Field | None:
        if self._form is None or self._at >= len(self._form.fields):
            return None
        return self._form.fields[self._at]

    def _question(self) -> list[str]:
        one = self._field()
        if one is None:
            return ["Type yes to do it, anything else to leave it."]
        if one.secret:
            return [f"{one.label}{f' ({one.hint})' if one.hint else ''}; it is not shown while you type:"]
        now = self._values[one.key]
        if one.choices:
            return [f"{one.label}: {' or '.join(filter(None, one.choices))}? Now {now or _NOTHING}. Enter keeps it."]
        hint = f" ({one.hint})" if one.hint else ""
        return [f"{one.label}{hint}? Now {now or _NOTHING}. Enter keeps it, none empties it, stop leaves all as it is."]

    def _in_form(self, text: str) -> list[str]:
        form, one = self._form, self._field()
        if form is None:
            return []
        if one is None:
            if text.lower() != "yes":
                return self._end("Nothing was done.")
            return self._submit()
        if not one.secret and text.lower() in {"stop", "cancel"}:
            return self._end("Nothing was changed.")
        if text:
            self._values[one.key] = "" if text.lower() == _NOTHING and not one.secret else text
        self._at += 1
        return self._question() if self._field() is not None else self._submit()

    def _submit(self) -> list[str]:
        if self._form is None:
            return []
        reply = self._form.accept(dict(self._values))
        if reply.again and self._form.fields and not any(one.secret for one in self._form.fields[:1]):
            self._at = 0
            return [reply.text, "Once more, or type stop:", *self._question()]
        return self._end(reply.text)

    def _end(self, text: str) -> list[str]:
        if self._form is not None:
            self._form.close()
        self._form = None
        return [text] if text else []
