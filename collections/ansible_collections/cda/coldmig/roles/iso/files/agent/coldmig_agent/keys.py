# SPDX-License-Identifier: GPL-3.0-or-later
"""Key presses for the agent itself, when it asks for one: fed by the consoles, whoever's key comes first counts."""

from __future__ import annotations

import queue
import time

#: A reader that has not come by for so long does not wait any more.
_PATIENCE = 3.0


class Keys:
    """Single keys, each as one character in lower case; keys that send more than one character are ``"\\x1b"``."""

    def __init__(self) -> None:
        self._keys: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._asked = -_PATIENCE

    @property
    def wanted(self) -> bool:
        """Whether somebody reads."""
        return time.monotonic() - self._asked < _PATIENCE

    def push(self, key: str) -> None:
        """A key was pressed. What nobody waits for is no answer to a later question."""
        if self.wanted:
            self._keys.put(key.lower() if len(key) == 1 else "\x1b")

    def read(self, seconds: float) -> str:
        """The next key; empty when none came in this time."""
        if not self.wanted:
            while not self._keys.empty():
                self._keys.get()
        self._asked = time.monotonic()
        try:
            return self._keys.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return ""
        finally:
            self._asked = time.monotonic()
