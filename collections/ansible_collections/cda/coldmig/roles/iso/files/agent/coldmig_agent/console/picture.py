# SPDX-License-Identifier: GPL-3.0-or-later
"""The full screen as lines of text with a style each: at least 80 x 24 characters, more where there is room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from coldmig_agent import __version__
from coldmig_agent.checks import STEPS
from coldmig_agent.console import words
from coldmig_agent.status import Phase, Snapshot

#: Disks for which the screen has room for a second line.
_FEW_DISKS = 3
_MAX_DISKS = 8
_LOG_LINES = 4


class Line(NamedTuple):
    """A line and how it is to look: one of the styles of :mod:`coldmig_agent.console.fullscreen`."""

    text: str
    style: str = ""


def styled(lines: Sequence[str], style: str = "") -> list[Line]:
    """All lines in one style."""
    return [Line(text, style) for text in lines]


def fitted(lines: Sequence[Line], width: int, height: int) -> list[Line]:
    """Exactly ``height`` lines, none longer than ``width``, and nothing but ASCII."""
    cut = [Line(words.ascii_only(line.text)[:width], line.style) for line in lines[:height]]
    return cut + [Line("")] * (height - len(cut))


def pages(pieces: Sequence[Sequence[Line]], room: int) -> list[list[Line]]:
    """The pieces on pages of ``room`` lines, of which one is kept for saying which page it is if there are several."""
    if sum(map(len, pieces)) <= room:
        return [[line for piece in pieces for line in piece]]
    if room < 2:
        return [[]]
    found: list[list[Line]] = [[]]
    for piece in pieces:
        for start in range(0, len(piece), room - 1):
            part = list(piece[start : start + room - 1])
            if len(found[-1]) + len(part) > room - 1:
                found.append([])
            found[-1] += part
    return found


def _page(pieces: Sequence[Sequence[Line]], room: int, number: int) -> list[Line]:
    found = pages(pieces, room)
    if len(found) == 1:
        return found[0][: max(0, room)]
    shown = number % len(found)
    return [*found[shown], Line(f" ... page {shown + 1} of {len(found)}; the next one follows", "dim")]


def title(snapshot: Snapshot, width: int) -> Line:
    """Name, machine and what runs here."""
    version = f"agent {snapshot.version or __version__} "
    left = " Cold migration"
    return Line(left + version.rjust(width - len(left)), "bar")


def keys_bar(keys: Sequence[tuple[str, str]], width: int) -> Line:
    """``n network  d disks  …``: as many as there is room for."""
    text = ""
    for key, what in keys:
        item = f" {key} {what} "
        if len(text) + len(item) > width:
            break
        text += item
    return Line(text.ljust(width), "bar")


def _state(snapshot: Snapshot, width: int) -> list[Line]:
    """What goes on: never cut."""
    style = {Phase.DONE: "good", Phase.ASSESSED: "good", Phase.FAILED: "bad", Phase.CANCELED: "bad"}.get(
        snapshot.phase, "strong"
    )
    lines = styled(words.wrap(snapshot.headline.upper(), width, " ", " "), style)
    if snapshot.detail:
        lines += styled(words.wrap(snapshot.detail, width, " ", " "))
    if snapshot.phase in words.COPY_PHASES:
        shown = snapshot.disks[:_MAX_DISKS]
        for view in shown:
            lines += styled(words.wrap(words.disk_line(view, width - 1), width, " ", " " * 8), "strong")
        if len(shown) <= _FEW_DISKS:
            lines += [Line(f" {line}") for view in shown if (line := words.savings_line(view))]
        if len(snapshot.disks) > len(shown):
            done = sum(view.done_chunks == view.total_chunks for view in snapshot.disks)
            lines.append(Line(f" ... {len(snapshot.disks)} disks in all, {done} complete"))
        if total := words.total_line(snapshot.disks):
            lines.append(Line(f" {total}"))
        if snapshot.copy and snapshot.phase is Phase.COPYING:
            lines += styled(words.wrap(snapshot.copy, width, " ", " "))
    if snapshot.problem:
        lines += styled(words.field("PROBLEM", snapshot.problem, width), "bad")
        lines += styled(words.check_lines(snapshot.checks, width), "warn")
    if text := words.advice(snapshot):
        lines += styled(words.wrap(text, width, " ", " "))
    return lines


def _pieces(snapshot: Snapshot, width: int) -> list[list[Line]]:
    pieces = []
    for piece in words.findings(snapshot, width):
        first = piece[0].split(" ", 2)[1] if piece else ""
        style = {"BLOCKS": "bad", "WARNING": "warn"}.get(first, "")
        pieces.append(styled(piece, style))
    return pieces


def _head(snapshot: Snapshot, width: int) -> list[Line]:
    lines = [title(snapshot, width)]
    if snapshot.banner:
        lines += styled(words.wrap(snapshot.banner, width, " ", " ")[:2], "warn")
    lines += styled(words.field("Site", snapshot.site, width)[:2])
    lines += styled(words.field("Template", snapshot.template, width)[:2])
    name = " ".join(part for part in (snapshot.name, snapshot.migration) if part)
    return lines + styled(words.field("Migration", name, width)[:2])


def overview(  # noqa: PLR0917 - a picture has many sides
    snapshot: Snapshot,
    width: int = 80,
    height: int = 24,
    page: int = 0,
    log: Sequence[str] = (),
    keys: Sequence[tuple[str, str]] = (),
) -> list[Line]:
    """The first screen: ``height`` lines; what matters most is never cut.

    What was found is shown page by page where it does not fit; ``page`` counts without end.
    """
    top = _head(snapshot, width)
    state = [Line("-" * width, "dim"), *_state(snapshot, width)]
    bottom = [keys_bar(keys, width)] if keys else []
    room = height - len(top) - len(state) - len(bottom)
    if room < 0:  # so many disks and problems: then the head has to go, line by line
        top, room = top[: max(1, len(top) + room)], 0
    shown = min(_LOG_LINES, len(log), max(0, room // 3 - 1))
    last = [Line("-" * width, "dim"), *(Line(f" {line}", "dim") for line in log[-shown:])] if shown else []
    middle = _page(_pieces(snapshot, width), room - len(last), page)
    empty = [Line("")] * (room - len(last) - len(middle))
    body = [*top, *middle, *state, *empty, *last]
    return fitted([*body[: height - len(bottom)], *bottom], width, height)


def scrolled(heading: str, lines: Sequence[Line], offset: int, size: tuple[int, int]) -> tuple[list[Line], int]:
    """A text that may be longer than the screen, from line ``offset`` on; gives the offset that is possible."""
    width, height = size
    room = max(1, height - 3)
    offset = max(0, min(offset, len(lines) - room))
    where = f"{offset + 1}-{min(len(lines), offset + room)} of {len(lines)} " if len(lines) > room else ""
    head = f" {heading}"
    top = Line(head + where.rjust(width - len(head)), "bar")
    body = [*lines[offset : offset + room]]
    body += [Line("")] * (room - len(body))
    keys = keys_bar((("Up/Down", "move"), ("Page Up/Down", "turn"), ("Esc", "back")), width)
    return fitted([top, Line(""), *body, keys], width, height), offset


def log_lines(events: Sequence[tuple[str, str]], width: int) -> list[Line]:
    """The log: (time, text) each, the oldest first."""
    lines: list[Line] = []
    for at, text in events:
        style = "bad" if text.startswith("PROBLEM") else ""
        lines += styled(words.wrap(text, width, f" {at} ", " " * (len(at) + 2)) or [f" {at}"], style)
    return lines


def found_lines(snapshot: Snapshot, width: int) -> list[Line]:
    """Everything that was found, in one long text."""
    head = [*words.field("Site", snapshot.site, width), *words.field("Template", snapshot.template, width)]
    head += words.field("Image", snapshot.image, width)
    if snapshot.phase is not Phase.ASSESSED:
        head += [line for text in snapshot.readiness for line in words.field("Drivers", text, width)]
    return styled(head) + [line for piece in _pieces(snapshot, width) for line in piece]


def way_lines(snapshot: Snapshot, width: int) -> list[Line]:
    """The tests of the way to the site."""
    intro = "Each step needs the ones before it. The tests run again while you look; press t to start them now."
    found = [*styled(words.wrap(intro, width, " ", " ")), Line("")]
    for line in words.all_check_lines(snapshot.checks, STEPS, width):
        found.append(Line(line, "bad" if " FAILED" in line[:24] else ""))
    return found
