# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong at the moment, put together from what is wrong with the link and what is wrong with disks."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Voice:
    """Tells ``say`` the whole of what is wrong, or None when nothing is."""

    def __init__(self, say: Callable[[str | None], None]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._problems: dict[str, str] = {}

    def about(self, what: str, text: str | None) -> None:
        """``what`` has this problem now, or with None has it no longer."""
        with self._lock:
            if text:
                self._problems[what] = text
            else:
                self._problems.pop(what, None)
            self._say("; ".join(self._problems[key] for key in sorted(self._problems)) or None)
