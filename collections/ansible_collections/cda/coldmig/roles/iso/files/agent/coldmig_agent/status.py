# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent is doing, for the consoles and for the site's report. Written by many threads, read as a whole."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from coldmig_agent.checks import Result
from coldmig_agent.copying.progress import DiskView
from coldmig_agent.machine import Notice
from coldmig_agent.text import clean

_MAX_EVENTS = 500


class Phase(Enum):
    """The steps of a migration as its operator sees them."""

    STARTING = "starting"
    NETWORK = "network"
    DISCOVERING = "discovering"
    ENROLLING = "enrolling"
    WAITING = "waiting"
    QUEUED = "queued"
    COPYING = "copying"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"
    ASSESSED = "assessed"


HEADLINES = {
    Phase.STARTING: "Starting",
    Phase.NETWORK: "Waiting for the network",
    Phase.DISCOVERING: "Looking at this machine (read-only)",
    Phase.ENROLLING: "Registering at the site",
    Phase.WAITING: "Waiting for confirmation: confirm this migration at the site",
    Phase.QUEUED: "Waiting for a free place",
    Phase.COPYING: "Copying",
    Phase.VERIFYING: "Everything was sent; the site is verifying every chunk",
    Phase.DONE: "Done: the site has verified every chunk. You can power off this machine now",
    Phase.FAILED: "The migration has failed",
    Phase.CANCELED: "The migration was canceled",
    Phase.ASSESSED: "This machine was looked at and reported to the site; nothing is copied",
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one moment. ``problem`` is what keeps the agent from going on now, with what to do about it.

    ``copy`` says in a line what limits the copy and how it goes about it. ``systems``: a line for each system found;
    ``readiness``: what the first of them can use, device by device. ``banner``: the owner's own words.
    """

    phase: Phase = Phase.STARTING
    detail: str = ""
    problem: str = ""
    site: str = ""
    template: str = ""
    migration: str = ""
    name: str = ""
    network: tuple[str, ...] = ()
    machine: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    readiness: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()
    disks: tuple[DiskView, ...] = ()
    copy: str = ""
    #: The tests of the way to the site, as far as they have come.
    checks: tuple[Result, ...] = ()
    #: What runs here: the agent's release, and the medium it came from.
    version: str = ""
    image: str = ""
    banner: str = ""

    @property
    def headline(self) -> str:
        """One sentence about the phase."""
        return HEADLINES[self.phase]


@dataclass(slots=True)
class _Events:
    lines: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=_MAX_EVENTS))
    times: deque[str] = field(default_factory=lambda: deque(maxlen=_MAX_EVENTS))
    last: int = 0


class Status:
    """The one place where the state for people is kept."""

    def __init__(self, observer: Callable[[str], None] = lambda _line: None) -> None:
        self._lock = threading.Lock()
        self._snapshot = Snapshot()
        self._events = _Events()
        self._observer = observer
        self._disks: Callable[[], Sequence[DiskView]] = tuple
        self._copy: Callable[[], str] = str

    def snapshot(self) -> Snapshot:
        """The state now, with the copy's figures of now."""
        with self._lock:
            snapshot, disks, copy = self._snapshot, self._disks, self._copy
        return replace(snapshot, disks=tuple(disks()), copy=clean(copy(), 200))

    def watch_disks(self, disks: Callable[[], Sequence[DiskView]], copy: Callable[[], str] = str) -> None:
        """Take the copy's figures from ``disks`` from now on, and the line on how it goes from ``copy``."""
        with self._lock:
            self._disks, self._copy = disks, copy

    def event(self, text: str) -> None:
        """A line for consoles that scroll and for the log."""
        line = clean(text, 400)
        with self._lock:
            self._events.last += 1
            self._events.lines.append((self._events.last, line))
            self._events.times.append(time.strftime("%H:%M:%S"))
        self._observer(line)

    def events_after(self, number: int) -> list[tuple[int, str]]:
        """Numbered events that came after event ``number``."""
        with self._lock:
            return [event for event in self._events.lines if event[0] > number]

    def log(self) -> list[tuple[str, str]]:
        """The last events with the time of day of each, the oldest first."""
        with self._lock:
            return list(zip(self._events.times, (text for _number, text in self._events.lines), strict=True))

    def phase(self, phase: Phase, detail: str = "") -> None:
        """Enter a phase (or change its detail); what was wrong before is over."""
        detail = clean(detail, 400)
        with self._lock:
            new = (phase, detail) != (self._snapshot.phase, self._snapshot.detail)
            self._snapshot = replace(self._snapshot, phase=phase, detail=detail, problem="")
        if new:
            self.event(f"{HEADLINES[phase]}{': ' + detail if detail else ''}")

    def problem(self, text: str | None) -> None:
        """Say what is wrong, or with None that it is over. The same problem is logged once."""
        text = clean(text or "", 400)
        with self._lock:
            before = self._snapshot.problem
            self._snapshot = replace(self._snapshot, problem=text)
        if text and text != before:
            self.event(f"PROBLEM: {text}")
        elif before and not text:
            self.event("the problem is over; going on")

    def configured(self, site: str, template: str) -> None:
        """Which site and template this ISO is for."""
        with self._lock:
            self._snapshot = replace(self._snapshot, site=clean(site), template=clean(template))
        self.event(f"site {site}, template {template}")

    def booted(self, version: str, image: str, banner: str) -> None:
        """What was booted."""
        with self._lock:
            self._snapshot = replace(
                self._snapshot, version=clean(version), image=clean(image), banner=clean(banner, 400)
            )

    def checks(self, results: Sequence[Result]) -> None:
        """How the tests of the way to the site go."""
        with self._lock:
            self._snapshot = replace(self._snapshot, checks=tuple(results))

    def network(self, lines: Sequence[str]) -> None:
        """The interfaces, one line each."""
        found = tuple(clean(line) for line in lines)
        with self._lock:
            new = found != self._snapshot.network
            self._snapshot = replace(self._snapshot, network=found)
        if new:
            for line in found:
                self.event(f"network: {line}")

    def step(self, words: str) -> None:
        """What a long phase is doing now, a few words."""
        with self._lock:
            phase = self._snapshot.phase
        self.phase(phase, words)

    def machine(
        self,
        lines: Sequence[str],
        notices: Sequence[Notice],
        systems: Sequence[str] = (),
        readiness: Sequence[str] = (),
    ) -> None:
        """What was found."""
        found, named, table = (tuple(map(clean, texts)) for texts in (lines, systems, readiness))
        warned = tuple(
            replace(notice, message=clean(notice.message, 400), action=clean(notice.action, 400)) for notice in notices
        )
        with self._lock:
            self._snapshot = replace(self._snapshot, machine=found, systems=named, readiness=table, notices=warned)
        for line in found:
            self.event(f"found: {line}")
        for line in named:
            self.event(f"system: {line}")
        for notice in warned:
            self.event(f"{notice.severity.upper()} {notice.code}: {notice.message}")
            if notice.action:
                self.event(f"  what to do: {notice.action}")

    def migration(self, identity: str, name: str) -> None:
        """The migration that this boot has become."""
        with self._lock:
            self._snapshot = replace(self._snapshot, migration=clean(identity), name=clean(name))
        self.event(f"registered as migration {identity} ({name})")
