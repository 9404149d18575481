# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole agent in a thread of the test's own process, where a test can look into it and give it orders."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coldmig_agent.config import parse_config
from coldmig_agent.lifecycle import Agent, Stopped
from coldmig_agent.status import Status
from support.processes import wait_until

PATIENCE = 60.0


class Inside:
    """An agent that works; what its consoles would say is in ``lines``."""

    def __init__(self, settings: dict[str, Any], *images: Path) -> None:
        self.lines: list[str] = []
        self.stop = threading.Event()
        status = Status(self.lines.append)
        self.agent = Agent(parse_config(json.dumps(settings).encode()), status, self.stop, images=images)
        self.orders = self.agent.orders
        self.result: bool | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self.agent.run()
        except Stopped:
            self.result = None

    @property
    def text(self) -> str:
        """All that it said."""
        return "\n".join(self.lines)

    def wait_for(self, words: str) -> None:
        """Until it has said this."""
        self.wait_until(lambda: words in self.text)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Until this is so."""
        wait_until(condition, lambda: self.text, PATIENCE)

    def join(self) -> bool | None:
        """What came of it; None when it was stopped."""
        self._thread.join(90)
        assert not self._thread.is_alive(), self.text
        return self.result

    def end(self) -> None:
        """Stop it."""
        self.stop.set()
        self.join()
