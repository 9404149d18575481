# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator's view: a status screen on a virtual console, lines on a serial one. Plain ASCII, 80 columns."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import struct
import termios
import textwrap
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from coldmig_agent import __version__
from coldmig_agent.copying.progress import DiskView
from coldmig_agent.machine import Notice
from coldmig_agent.status import Phase, Snapshot, Status
from coldmig_agent.text import human_bytes, human_duration

LOG = logging.getLogger(__name__)

REFRESH_SECONDS = 1.0
PROGRESS_SECONDS = 10.0
#: Kernel messages may have been written over the screen: it is drawn anew at least this often.
REDRAW_SECONDS = 10.0
_BAR = 20
#: Disks for which the screen has room for a second line.
_FEW_DISKS = 3
#: What does not fit on one screen is shown in turns of this length.
PAGE_SECONDS = 8.0
#: Words before a notice, by its severity.
_SEVERITIES = {"block": "BLOCKS", "warning": "WARNING", "info": "Note"}
_MAX_PENDING = 32 << 10
_VIRTUAL_CONSOLE = re.compile(r"^/dev/tty[0-9]+$")
_COPY_PHASES = frozenset({Phase.COPYING, Phase.VERIFYING})


def disk_line(view: DiskView) -> str:
    """``disk 0 [####......]  40.2 %  1.2 GiB of 3.0 GiB  35.1 MiB/s  52 s left``."""
    filled = int(view.fraction * _BAR)
    done = min(view.size_bytes, view.done_chunks << 20)
    parts = [
        f"disk {view.index} [{'#' * filled}{'.' * (_BAR - filled)}] {view.fraction * 100:5.1f} %",
        f"{human_bytes(done)} of {human_bytes(view.size_bytes)}",
    ]
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
        Phase.FAILED: "Boot this ISO again to start a new migration; what was copied before counts at the site only.",
        Phase.CANCELED: "Boot this ISO again to start a new migration, or power this machine off.",
        Phase.ASSESSED: "Take the ISO out, then press r to reboot this machine or p to power it off.",
    }.get(snapshot.phase, "")


def _wrap(text: str, width: int, first: str, others: str) -> list[str]:
    """Lines that keep codes and names with hyphens whole, so that they can be typed as they stand there."""
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)


def _field(label: str, value: str, width: int) -> list[str]:
    return _wrap(value, width, f" {label:<10}", " " * 11) if value else []


def notice_lines(notice: Notice, width: int) -> list[str]:
    """A notice with its code, and what to do below it."""
    lines = _field(_SEVERITIES.get(notice.severity, "WARNING"), f"{notice.message} [{notice.code}]", width)
    if notice.action:
        lines += _wrap(notice.action, width, " " * 11 + "-> ", " " * 14)
    return lines


def _findings(snapshot: Snapshot, width: int) -> list[list[str]]:
    """Everything that was found, in pieces that belong together."""
    found = [_field("Network", text, width) for text in snapshot.network]
    found += [_field("Found", text, width) for text in snapshot.machine]
    found += [_field("System", text, width) for text in snapshot.systems]
    if snapshot.phase is Phase.ASSESSED:
        found += [_field("Drivers", text, width) for text in snapshot.readiness]
    return [*found, *(notice_lines(notice, width) for notice in snapshot.notices)]


def _pages(pieces: Sequence[Sequence[str]], room: int) -> list[list[str]]:
    """The pieces on pages of ``room`` lines, of which one says which page it is if there are several."""
    if sum(map(len, pieces)) <= room:
        return [[line for piece in pieces for line in piece]]
    if room < 2:
        return [[]]
    pages: list[list[str]] = [[]]
    for piece in pieces:
        for start in range(0, len(piece), room - 1):
            part = list(piece[start : start + room - 1])
            if len(pages[-1]) + len(part) > room - 1:
                pages.append([])
            pages[-1] += part
    return pages


def _page(pieces: Sequence[Sequence[str]], room: int, number: int) -> list[str]:
    pages = _pages(pieces, room)
    if len(pages) == 1:
        return pages[0][:room]
    shown = number % len(pages)
    return [*pages[shown], f" ... page {shown + 1} of {len(pages)}; the next one follows"]


def render(snapshot: Snapshot, width: int = 80, height: int = 25, page: int = 0) -> list[str]:
    """The status screen: at most ``height`` lines of at most ``width`` characters; what matters most is never cut.

    What was found is shown page by page where it does not fit; ``page`` counts without end.
    """
    title = " Cold migration"
    version = f"agent {__version__} "
    top = [title + version.rjust(width - len(title)), "-" * width]
    top += _field("Site", snapshot.site, width)
    top += _field("Template", snapshot.template, width)
    top += _field("Migration", " ".join(part for part in (snapshot.name, snapshot.migration) if part), width)
    bottom = ["", *textwrap.wrap(snapshot.headline.upper(), width, initial_indent=" ", subsequent_indent=" ")]
    if snapshot.detail:
        bottom += textwrap.wrap(snapshot.detail, width, initial_indent=" ", subsequent_indent=" ")
    if snapshot.phase in _COPY_PHASES:
        shown = snapshot.disks[:8]
        bottom += [f" {disk_line(view)}" for view in shown]
        if len(shown) <= _FEW_DISKS:
            bottom += [f" {line}" for view in shown if (line := savings_line(view))]
        if len(snapshot.disks) > len(shown):
            done = sum(view.done_chunks == view.total_chunks for view in snapshot.disks)
            bottom.append(f" ... {len(snapshot.disks)} disks in all, {done} complete")
        if snapshot.copy and snapshot.phase is Phase.COPYING:
            bottom += textwrap.wrap(snapshot.copy, width, initial_indent=" ", subsequent_indent=" ")
    if snapshot.problem:
        bottom += ["", *_field("PROBLEM", snapshot.problem, width)]
    help_text = advice(snapshot)
    if help_text:
        bottom += textwrap.wrap(help_text, width, initial_indent=" ", subsequent_indent=" ")
    middle = _page(_findings(snapshot, width), max(0, height - len(top) - len(bottom)), page)
    return [line[:width] for line in [*top, *middle, *bottom]][:height]


class Console(Protocol):
    """Something that shows the status."""

    def update(self, status: Status) -> None:
        """Show what is new."""

    def close(self) -> None:
        """Leave the device."""


class _Device:
    """A terminal that is written without ever waiting for it: a serial line may have nobody at its other end."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_APPEND)
        self._pending = b""

    def write(self, text: str) -> None:
        data = self._pending + text.encode("ascii", "replace")
        if len(data) > _MAX_PENDING:
            data = b"\n[...]\n" + data[-_MAX_PENDING // 2 :]
        try:
            self._pending = data[os.write(self._fd, data) :]
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EIO, errno.EPIPE}:
                raise
            self._pending = data

    def size(self) -> tuple[int, int]:
        """Columns and rows; 80 x 25 where the device does not say."""
        try:
            rows, columns = struct.unpack("HH4x", fcntl.ioctl(self._fd, termios.TIOCGWINSZ, bytes(8)))
        except OSError:
            rows = columns = 0
        return (columns if 40 <= columns <= 240 else 80, rows if 15 <= rows <= 100 else 25)

    def close(self) -> None:
        os.close(self._fd)


class ScreenConsole:
    """Draws the whole screen again when something changed."""

    def __init__(self, path: Path) -> None:
        self._device = _Device(path)
        self._shown: list[str] = []
        self._drawn_at = 0.0
        self._began = time.monotonic()

    def update(self, status: Status) -> None:
        """Draw, if there is something new or the last time is long ago."""
        width, height = self._device.size()
        now = time.monotonic()
        lines = render(status.snapshot(), width, height - 1, int((now - self._began) / PAGE_SECONDS))
        if lines == self._shown and now - self._drawn_at < REDRAW_SECONDS:
            return
        self._shown, self._drawn_at = lines, now
        # Home, every line with the rest of it erased, then the rest of the screen: no flicker, no cursor.
        self._device.write("\x1b[?25l\x1b[H" + "".join(f"{line}\x1b[K\r\n" for line in lines) + "\x1b[J")

    def close(self) -> None:
        """Leave the last picture there."""
        self._device.close()


class LineConsole:
    """Writes events as they come and the copy's progress every few seconds."""

    def __init__(self, path: Path) -> None:
        self._device = _Device(path)
        self._seen = 0
        self._progress_at = time.monotonic()

    def update(self, status: Status) -> None:
        """Write what has happened since the last time."""
        events = status.events_after(self._seen)
        lines = [text for _number, text in events]
        if events:
            self._seen = events[-1][0]
        now = time.monotonic()
        if now - self._progress_at >= PROGRESS_SECONDS:
            self._progress_at = now
            snapshot = status.snapshot()
            if snapshot.phase in _COPY_PHASES:
                lines += [disk_line(view) for view in snapshot.disks]
                lines += [line for view in snapshot.disks if (line := savings_line(view))]
                if snapshot.copy and snapshot.phase is Phase.COPYING:
                    lines.append(snapshot.copy)
        self._device.write("".join(f"coldmig: {line}\r\n" for line in lines))

    def close(self) -> None:
        """Leave the device."""
        self._device.close()


def open_consoles(paths: Sequence[Path]) -> list[Console]:
    """A console for every path that can be opened; those that cannot are logged and left out."""
    consoles: list[Console] = []
    for path in paths:
        try:
            consoles.append(ScreenConsole(path) if _VIRTUAL_CONSOLE.match(str(path)) else LineConsole(path))
        except OSError as error:
            LOG.info("console %s: %s", path, error.strerror)
    return consoles


class ConsoleThread:
    """Keeps the consoles up to date while the agent works. A console that fails is dropped, the others go on."""

    def __init__(self, consoles: Sequence[Console], status: Status) -> None:
        self._consoles = list(consoles)
        self._status = status
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="consoles", daemon=True)

    def __enter__(self) -> ConsoleThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._update()
        for console in self._consoles:
            console.close()

    def _run(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            self._update()

    def _update(self) -> None:
        for console in list(self._consoles):
            try:
                console.update(self._status)
            except OSError as error:
                LOG.warning("a console failed: %s", error)
                self._consoles.remove(console)
