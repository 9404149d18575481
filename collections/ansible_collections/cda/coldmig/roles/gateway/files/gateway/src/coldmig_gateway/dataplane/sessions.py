# SPDX-License-Identifier: GPL-3.0-or-later
"""Who sent frames a moment ago, and where that migration stood: many requests a second need not ask the database each.

What the site decides meanwhile (a session that ends, a migration that is canceled) is seen a second late. That harms
nobody: the frames of a second more are verified like all others, and thrown away with the rest.
"""

from __future__ import annotations

import time

from coldmig_gateway.dataplane.site import CopyPlan

_KEEP_SECONDS = 1.0
_MOST = 4096


class RecentSessions:
    """Remembers sessions of migrations that are copying. Belongs to one event loop."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, str, CopyPlan]] = {}

    def find(self, token: str) -> tuple[str, CopyPlan] | None:
        """The migration of a session's token and its plan, if that was looked up within the last second."""
        found = self._found.get(token)
        if found is None or time.monotonic() - found[0] > _KEEP_SECONDS:
            return None
        return found[1:]

    def keep(self, token: str, migration_id: str, plan: CopyPlan) -> None:
        """Notes what was looked up just now."""
        if plan.state == "copying":
            if len(self._found) >= _MOST:
                self._found.clear()
            self._found[token] = (time.monotonic(), migration_id, plan)

    def forget(self, migration_id: str) -> None:
        """The migration is not copying any more."""
        for token, (_when, whose, _plan) in tuple(self._found.items()):
            if whose == migration_id:
                del self._found[token]
