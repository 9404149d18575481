# SPDX-License-Identifier: GPL-3.0-or-later
"""Sentences and lines about the agent's state, for a full screen and for single lines alike. Plain ASCII."""

from __future__ import annotations

import textwrap

from coldmig_agent.checks import Result, Verdict, failed
from coldmig_agent.copying.progress import DiskView
from coldmig_agent.machine import Notice
from coldmig_agent.status import Phase, Snapshot
from coldmig_agent.text import human_bytes, human_duration

_BAR = 20
#: Words before a notice, by its severity.
SEVERITIES = {"block": "BLOCKS", "warning": "WARNING", "info": "Note"}
COPY_PHASES = frozenset({Phase.COPYING, Phase.VERIFYING})
ENDED = frozenset({Phase.DONE, Phase.FAILED, Phase.CANCELED, Phase.ASSESSED})


def ascii_only(text: str) -> str:
    """Printable ASCII: whatever else a name, a disk or the site holds never drives a terminal."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)


def disk_line(view: DiskView, width: int | None = None) -> str:
    """``disk 0 [####......]  40.2 %  1.2 GiB of 3.0 GiB  35.1 MiB/s  52 s left``; the bar fits the rest into width."""
    rest = _figures(view)
    head = f"disk {view.index} ["
    room = _BAR if width is None else max(4, min(_BAR, width - len(head) - len(rest) - 1))
    filled = int(view.fraction * room)
    return f"{head}{'#' * filled}{'.' * (room - filled)}]{rest}"


def _figures(view: DiskView) -> str:
    done = min(view.size_bytes, view.done_chunks << 20)
    parts = [f" {view.fraction * 100:5.1f} %", f"{human_bytes(done)} of {human_bytes(view.size_bytes)}"]
    if view.done_chunks < view.total_chunks:
        parts.append(f"{human_bytes(view.bytes_per_second)}/s")
        parts.append("time left unknown" if view.seconds_left is None else f"{human_duration(view.seconds_left)} left")
    if view.unreadable_bytes:
        parts.append(f"{human_bytes(view.unreadable_bytes)} UNREADABLE")
    return "  ".join(parts)


def savings_line(view: DiskView) -> str:
    """``disk 0: 1.1 GiB free, 2.0 GiB at the site from before``; empty where nothing was saved."""
    saved = [
        f"{human_bytes(size)} {what}"
        for size, what in ((view.skipped_bytes, "free"), (view.reused_chunks << 20, "at the site from before"))
        if size
    ]
    return f"disk {view.index}: {', '.join(saved)}" if saved else ""


def total_line(disks: tuple[DiskView, ...]) -> str:
    """All disks together; empty for a single one."""
    if len(disks) < 2:
        return ""
    size = sum(view.size_bytes for view in disks)
    done = sum(min(view.size_bytes, view.done_chunks << 20) for view in disks)
    rate = sum(view.bytes_per_second for view in disks if view.done_chunks < view.total_chunks)
    left = [view.seconds_left for view in disks if view.done_chunks < view.total_chunks]
    text = f"all disks: {human_bytes(done)} of {human_bytes(size)}"
    if not left:
        return text
    known = [seconds for seconds in left if seconds is not None]
    ending = f"{human_duration(max(known))} left" if len(known) == len(left) else "time left unknown"
    return f"{text}  {human_bytes(rate)}/s  {ending}"


def advice(snapshot: Snapshot) -> str:
    """What the person in front of the console should do now; empty when there is nothing to do but wait."""
    if snapshot.problem:
        return "The agent keeps trying by itself; nothing on this machine is changed."
    return {
        Phase.WAITING: "Somebody has to confirm the migration at the site; this screen follows by itself.",
        Phase.QUEUED: "The site copies as many machines as it may at once. Leave this machine running; its turn comes.",
        Phase.COPYING: "Leave this machine running. Its disks are only read.",
        Phase.VERIFYING: "Leave this machine running until the site has verified the copy.",
        Phase.DONE: "You can power off this machine now.",
        Phase.FAILED: "Start again (key a, word again), or power this machine off. "
        "What was copied before is not copied again.",
        Phase.CANCELED: "Start again (key a, word again), or power this machine off.",
        Phase.ASSESSED: "Take the ISO out, then press r to reboot this machine or p to power it off.",
    }.get(snapshot.phase, "")


def wrap(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    """Lines that keep codes and names with hyphens whole, so that they can be typed as they stand there."""
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)


def field(label: str, value: str, width: int) -> list[str]:
    """`` Label     value``, folded below the value."""
    return wrap(value, width, f" {label:<10}", " " * 11) if value else []


def notice_lines(notice: Notice, width: int) -> list[str]:
    """A notice with its code, and what to do below it."""
    lines = field(SEVERITIES.get(notice.severity, "WARNING"), f"{notice.message} [{notice.code}]", width)
    if notice.action:
        lines += wrap(notice.action, width, " " * 11 + "-> ", " " * 14)
    return lines


def check_summary(results: tuple[Result, ...]) -> str:
    """``cable ok, address ok, route FAILED``; steps that are not needed are left out."""
    return ", ".join(f"{one.step} {one.verdict.value}" for one in results if one.verdict is not Verdict.SKIPPED)


def check_lines(results: tuple[Result, ...], width: int) -> list[str]:
    """The tests in a line, and of the one that failed what was seen and what to try."""
    if not results:
        return []
    lines = field("Tests", check_summary(results), width)
    wrong = failed(results)
    for one in results:
        if one is wrong or (wrong is None and one.verdict is Verdict.NOTE):
            lines += field(one.step, one.text, width)
            for text in one.tries:
                lines += wrap(text, width, " " * 11 + "-> ", " " * 14)
    return lines


def all_check_lines(results: tuple[Result, ...], steps: tuple[str, ...], width: int) -> list[str]:
    """Every step with what was seen; those behind the first that failed are not tested yet."""
    known = {one.step: one for one in results}
    lines = []
    for number, step in enumerate(steps, 1):
        one = known.get(step)
        head = f" {number}. {step:<11}{one.verdict.value if one else '':<7}"
        lines += wrap(one.text if one else "not tested", width, head + " ", " " * 24)
        for text in one.tries if one else ():
            lines += wrap(text, width, " " * 24 + "-> ", " " * 27)
    return lines


def findings(snapshot: Snapshot, width: int) -> list[list[str]]:
    """Everything that was found, in pieces that belong together."""
    found = [field("Network", text, width) for text in snapshot.network]
    found += [field("Found", text, width) for text in snapshot.machine]
    found += [field("System", text, width) for text in snapshot.systems]
    if snapshot.phase is Phase.ASSESSED:
        found += [field("Drivers", text, width) for text in snapshot.readiness]
    return [*found, *(notice_lines(notice, width) for notice in snapshot.notices)]
