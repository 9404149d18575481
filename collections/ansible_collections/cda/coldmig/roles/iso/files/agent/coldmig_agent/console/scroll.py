# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written to a console that goes line by line: events as they come, the copy's progress now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from coldmig_agent.console import words
from coldmig_agent.status import Phase, Snapshot, Status

PROGRESS_SECONDS = 10.0


def progress_lines(snapshot: Snapshot) -> list[str]:
    """The disks with their bars, what was saved, and what limits the copy."""
    lines = [words.disk_line(view) for view in snapshot.disks]
    lines += [line for view in snapshot.disks if (line := words.savings_line(view))]
    if snapshot.copy and snapshot.phase is Phase.COPYING:
        lines.append(snapshot.copy)
    return lines


class Scroll:
    """Remembers what it has given."""

    def __init__(self, seconds: float, progress: Callable[[Snapshot], Sequence[str]] = progress_lines) -> None:
        self._seconds = seconds
        self._progress = progress
        self._seen = 0
        self._progress_at = time.monotonic()

    def new(self, status: Status) -> list[str]:
        """The lines since the last time."""
        events = status.events_after(self._seen)
        lines = [text for _number, text in events]
        if events:
            self._seen = events[-1][0]
        now = time.monotonic()
        if now - self._progress_at >= self._seconds:
            self._progress_at = now
            snapshot = status.snapshot()
            if snapshot.phase in words.COPY_PHASES:
                lines += self._progress(snapshot)
        return [words.ascii_only(line) for line in lines]
