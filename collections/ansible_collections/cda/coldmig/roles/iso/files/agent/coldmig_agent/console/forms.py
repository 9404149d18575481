# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to the person at the machine: a form with fields, or with none where only a yes is wanted.

The same form is filled in on a full screen (:class:`Editor`) and line by line (:mod:`coldmig_agent.console.talk`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from coldmig_agent.console import words
from coldmig_agent.console.picture import Line, fitted, keys_bar, styled

_MAX_VALUE = 200


@dataclass(frozen=True, slots=True)
class Field:
    """A value to be typed, or chosen from ``choices``. A ``secret`` is never shown."""

    key: str
    label: str
    value: str = ""
    hint: str = ""
    secret: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of it: a sentence; ``again`` leaves the form open, for another try."""

    text: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """``accept`` does what the form is for, with the values by key; it may take seconds.

    ``close`` is called however the form ends. Without fields the form asks for a yes.
    """

    title: str
    text: tuple[str, ...]
    accept: Callable[[Mapping[str, str]], Reply]
    fields: tuple[Field, ...] = ()
    button: str = "Apply"
    close: Callable[[], None] = field(default=lambda: None)


class Editor:
    """A form on a full screen, being filled in. Keys by urwid's names."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.message = ""
        self._values = {one.key: one.value for one in form.fields}
        self._at = 0
        self.wants_submit = False
        self.canceled = False

    @property
    def values(self) -> Mapping[str, str]:
        """What is filled in."""
        return self._values

    def key(self, key: str) -> None:
        """Take a key."""
        if key == "esc":
            self.canceled = True
        elif not self.form.fields:
            if key in {"y", "Y"}:
                self.wants_submit = True
            elif key in {"n", "N", "q"}:
                self.canceled = True
        else:
            self._in_fields(key)

    def answered(self, reply: Reply) -> None:
        """The form was not accepted: say why and go on."""
        self.wants_submit = False
        self.message = reply.text
        self._at = 0
        for one in self.form.fields:
            if one.secret and self.form.button != "Apply":
                self._values[one.key] = ""

    def _in_fields(self, key: str) -> None:
        count = len(self.form.fields)
        if key in {"up", "shift tab"}:
            self._at = (self._at - 1) % (count + 1)
        elif key in {"down", "tab"}:
            self._at = (self._at + 1) % (count + 1)
        elif key == "f10":
            self.wants_submit = True
        elif self._at == count:
            self.wants_submit = key in {"enter", " "}
        elif key == "enter":
            self._at += 1
            self.wants_submit = self._at == count == 1
        else:
            self._type(self.form.fields[self._at], key)

    def _type(self, one: Field, key: str) -> None:
        value = self._values[one.key]
        if one.choices:
            step = {" ": 1, "right": 1, "left": -1}.get(key)
            if step is not None:
                at = one.choices.index(value) if value in one.choices else -step
                self._values[one.key] = one.choices[(at + step) % len(one.choices)]
        elif key == "backspace":
            self._values[one.key] = value[:-1]
        elif key == "ctrl u":
            self._values[one.key] = ""
        elif len(key) == 1 and " " <= key <= "~" and len(value) < _MAX_VALUE:
            self._values[one.key] = value + key

    def picture(self, width: int, height: int) -> tuple[list[Line], tuple[int, int] | None]:
        """The lines, and where the cursor is (column, row)."""
        lines = [Line(f" {self.form.title}".ljust(width), "bar"), Line("")]
        for text in self.form.text:
            lines += styled(words.wrap(text, width, " ", " ") or [""])
        if self.form.text:
            lines.append(Line(""))
        cursor: tuple[int, int] | None = None
        label_width = max((len(one.label) for one in self.form.fields), default=0) + 3
        room = max(10, width - label_width - 4)
        for number, one in enumerate(self.form.fields):
            value = self._values[one.key]
            shown = "*" * len(value) if one.secret else words.ascii_only(value)
            here = number == self._at
            if one.choices:
                text = f"< {shown} >" if here else f"  {shown}"
            else:
                shown = shown[-(room - 1) :]
                text = shown.ljust(room if here else 0, "_")
            if here:
                cursor = (label_width + 1 + (2 if one.choices else len(shown)), len(lines))
            lines.append(Line(f" {one.label:<{label_width}}{text}", "field" if here else ""))
            if here and one.hint:
                lines += styled(words.wrap(one.hint, width, " " * (label_width + 1), " " * (label_width + 1)), "dim")
        if self.form.fields:
            at_button = self._at == len(self.form.fields)
            lines += [Line(""), Line(f" [ {self.form.button} ]", "field" if at_button else "")]
            if at_button:
                cursor = (3, len(lines) - 1)
        if self.message:
            lines += [Line(""), *styled(words.wrap(self.message, width, " ", " "), "bad")]
        keys = keys_bar(self._keys(), width)
        return fitted([*fitted(lines, width, height - 1), keys], width, height), cursor

    def _keys(self) -> tuple[tuple[str, str], ...]:
        if not self.form.fields:
            return (("y", "yes, do it"), ("n", "no"))
        return (("Up/Down", "field"), ("Left/Right", "choose"), ("Enter", "next"), ("F10", self.form.button.lower()),
                ("Esc", "cancel"))  # fmt: skip


def with_values(form: Form, values: Mapping[str, str]) -> Form:
    """The form, filled in."""
    return replace(form, fields=tuple(replace(one, value=values.get(one.key, one.value)) for one in form.fields))
