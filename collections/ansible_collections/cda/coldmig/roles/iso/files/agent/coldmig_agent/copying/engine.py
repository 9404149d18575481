# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the copy: as many passes as it takes until the site says that it has every chunk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from coldmig_agent.api import DataClient, SessionState
from coldmig_agent.copying.controller import Plan
from coldmig_agent.copying.errors import CopyError
from coldmig_agent.copying.onepass import CopyPass, Work
from coldmig_agent.copying.planner import Backoff, count_set
from coldmig_agent.copying.progress import DiskProgress
from coldmig_agent.copying.reader import Sampled
from coldmig_agent.copying.sender import CopyStopped, Refusals
from coldmig_agent.copying.unreadable import Unreadable
from coldmig_agent.copying.voice import Voice
from coldmig_agent.discovery.disks import Source
from coldmig_agent.site import Site
from coldmig_agent.text import human_bytes
from coldmig_wire.geometry import chunk_count

LOG = logging.getLogger(__name__)

__all__ = ["Copier", "CopyError"]


class Copier:
    """Copies the disks of one migration.

    ``say`` is told what is wrong at the moment, None when all is well again; ``note`` what is worth a line. ``on_pass``
    is called whenever there is something to copy, before it is copied.
    """

    def __init__(
        self,
        site: Site,
        token: str,
        sources: Sequence[Source],
        stop: threading.Event,
        say: Callable[[str | None], None],
        *,
        on_pass: Callable[[], None] = lambda: None,
        note: Callable[[str], None] = LOG.info,
        sys: Path = Path("/sys"),
    ) -> None:
        by_index = {source.disk.index: source for source in sources}
        unreadable = Unreadable()
        progress = {
            index: DiskProgress(
                index,
                source.disk.size_bytes,
                chunk_count(source.disk.size_bytes),
                unreadable=partial(unreadable.bytes_of, index),
            )
            for index, source in by_index.items()
        }
        self._work = Work(site, token, by_index, stop, Voice(say), sys, progress, unreadable)
        self.progress: Mapping[int, DiskProgress] = progress
        self.unreadable = unreadable
        self._note = note
        self._on_pass = on_pass
        self._complete = False

    def check_session(self, session: SessionState) -> None:
        """The site must have the same disks as this machine; takes over its settings. Raises CopyError."""
        ours = {index: source.disk.size_bytes for index, source in self._work.sources.items()}
        theirs = {disk.index: disk.size_bytes for disk in session.disks}
        if ours != theirs:
            raise CopyError("disks-differ", f"the site has disks {theirs}, this machine has {ours}")
        self._work.skip_free = session.skip_free
        self._work.codecs = session.codecs

    def path_of(self, disk: int) -> Path:
        """Where a disk is read from."""
        return self._work.sources[disk].path

    @property
    def plan(self) -> Plan | None:
        """What the copy works with now, and what limits it; None before the first pass."""
        return self._work.plan

    @property
    def sampled(self) -> Sampled | None:
        """How many chunks were read a second time, over all disks and passes."""
        found = list(self._work.samples.values())
        if not found:
            return None
        return Sampled(sum(item.checked for item in found), sum(item.mismatched for item in found))

    def run(self, connections: int) -> None:
        """Copy until the site has every chunk. Raises CopyStopped, CopyError and FenceError."""
        backoff = Backoff()
        before: int | None = None
        refusals = Refusals()
        with closing(self._work.client()) as client:
            while True:
                left = sum(self._missing(client).values())
                if left == 0:
                    self._work.voice.about("link", None)
                    self._complete = True
                    self._tell_unreadable()
                    return
                self._tell(left, before, refusals)
                if before is not None and left >= before:
                    self._work.voice.about("link", "the site keeps asking for the same chunks; trying again")
                    self._wait(backoff.next())
                first, before = before is None and not self._complete, left
                self._on_pass()
                refusals = CopyPass(self._work, connections, client, first=first).run()

    def _tell(self, left: int, before: int | None, refusals: Refusals) -> None:
        """Say why there is another pass."""
        damaged = {reason: count for reason, count in refusals.counts.items() if reason != "unknown-ref"}
        if damaged:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(damaged.items()))
            self._note(f"the site refused {_chunks(sum(damaged.values()))} ({reasons}): damaged on the way, sent again")
        elif before is None and self._complete:
            self._note(f"{_chunks(left)} turned out damaged at the site and will be sent again")

    def _tell_unreadable(self) -> None:
        for disk, text in self.damage().items():
            self._note(f"WARNING: disk {disk}: {text}; somebody has to accept that at the site")

    def damage(self) -> dict[int, str]:
        """What could not be read, in words, by disk."""
        found = {}
        for disk in self.progress:
            ranges = self.unreadable.ranges_of(disk)
            if ranges:
                places = f"{len(ranges)} place{'s' * (len(ranges) != 1)}, the first at byte {ranges[0][0]}"
                found[disk] = f"{human_bytes(sum(size for _start, size in ranges))} cannot be read ({places})"
        return found

    def _wait(self, seconds: float) -> None:
        if self._work.stop.wait(seconds):
            raise CopyStopped("stopped")

    def _missing(self, client: DataClient) -> dict[int, int]:
        """How many chunks of each disk the site lacks."""
        missing = {}
        for index, progress in self.progress.items():
            have = self._work.ask(partial(client.have, index, progress.total_chunks))
            self._work.keep_bitmap(index, have)
            at_site = count_set(have, progress.total_chunks)
            progress.at_site(at_site)
            missing[index] = progress.total_chunks - at_site
        return missing


def _chunks(count: int) -> str:
    return f"{count} chunk{'s' * (count != 1)}"
