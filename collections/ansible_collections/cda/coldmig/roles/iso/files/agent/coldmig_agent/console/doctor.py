# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests the way to the site while there is a trouble with it, and whenever a person wants it; watches the links."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from coldmig_agent import checks, network
from coldmig_agent.checks import Result
from coldmig_agent.console.words import ENDED
from coldmig_agent.probing import LiveProbe, Probe
from coldmig_agent.status import Phase

if TYPE_CHECKING:
    from coldmig_agent.lifecycle import Agent

LOG = logging.getLogger(__name__)

#: A trouble has to last this long, so that a single lost answer starts nothing.
PATIENCE_SECONDS = 3.0
AGAIN_SECONDS = 10.0
_LOOK_SECONDS = 1.0


class Doctor:
    """A thread of its own, as a test may wait for answers that do not come. A context manager."""

    def __init__(self, agent: Agent, probe: Probe | None = None, *, by_itself: bool = True) -> None:
        self._agent = agent
        self._probe = probe or LiveProbe(agent.roots.sys, agent.roots.proc)
        self._by_itself = by_itself
        self._wanted = threading.Event()
        self._stop = threading.Event()
        self._told = ""
        self._thread = threading.Thread(target=self._run, name="doctor", daemon=True)

    def __enter__(self) -> Doctor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Not waited for: it may be in the middle of a question to a name server.
        self._stop.set()

    def test(self) -> None:
        """Test now."""
        self._wanted.set()

    def _troubled(self) -> bool:
        snapshot = self._agent.status.snapshot()
        return self._by_itself and bool(snapshot.problem) and snapshot.phase not in ENDED

    def _run(self) -> None:
        since: float | None = None
        last = -AGAIN_SECONDS
        while not self._stop.wait(_LOOK_SECONDS):
            now = time.monotonic()
            self._look_at_interfaces()
            since = (since or now) if self._troubled() else None
            due = since is not None and now - since >= PATIENCE_SECONDS and now - last >= AGAIN_SECONDS
            if due or self._wanted.is_set():
                self._wanted.clear()
                try:
                    self.examine()
                except Exception:
                    LOG.exception("testing the way to the site")
                last = time.monotonic()

    def _look_at_interfaces(self) -> None:
        """Links and addresses as they are now: a cable may be pulled, or an address corrected, at any time."""
        agent = self._agent
        if self._by_itself and agent.status.snapshot().phase not in {Phase.STARTING, Phase.NETWORK}:
            agent.status.network([network.describe_interface(state) for state in self._probe.states()])

    def examine(self) -> list[Result]:
        """Go through the steps; what is known is shown at once."""
        agent = self._agent
        results: list[Result] = []
        static = any(not interface.dhcp for interface in agent.config.network.interfaces)
        for result in checks.examine(agent.site.config, agent.config.credential, self._probe, static=static):
            results.append(result)
            agent.status.checks(results)
        self._tell(results)
        return results

    def _tell(self, results: list[Result]) -> None:
        """Lines for those who have no screen; only when there is something new."""
        wrong = checks.failed(results)
        text = f"{wrong.step} FAILED: {wrong.text}" if wrong else "every step works"
        if text == self._told:
            return
        self._told = text
        self._agent.status.event(f"test of the way to the site: {text}")
        for advice in wrong.tries if wrong else ():
            self._agent.status.event(f"what to try: {advice}")
