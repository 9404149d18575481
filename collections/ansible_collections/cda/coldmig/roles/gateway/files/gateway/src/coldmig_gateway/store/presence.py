# SPDX-License-Identifier: GPL-3.0-or-later
"""Which agents are there: those that were heard of lately.

An agent asks every few seconds, so the moment is kept in memory and written to the database now and then, all agents
in one transaction. Nobody counts as silent before the service has run long enough to have heard everybody.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from sqlalchemy import bindparam, update

from coldmig_gateway.clock import now
from coldmig_gateway.store.database import Database
from coldmig_gateway.store.models import Migration

SILENT_AFTER = timedelta(seconds=120)  # by default
_MIGRATIONS = Migration.metadata.tables[Migration.__tablename__]
_NOTE = update(_MIGRATIONS).where(_MIGRATIONS.c.id == bindparam("migration")).values(last_seen_at=bindparam("seen"))
_EVER = datetime.min.replace(tzinfo=UTC)


def heard_since(started: datetime, silent_after: timedelta) -> datetime:
    """The moment since which an agent must have been heard of to count as being there."""
    moment = now() - silent_after
    return moment if started <= moment else _EVER


class Presence:
    """The agents that one process of the API hears. Thread-safe."""

    def __init__(self) -> None:
        self.started = now()
        self._lock = threading.Lock()
        self._seen: dict[str, datetime] = {}
        self._written = self.started

    def note(self, migration_id: str) -> None:
        """The agent of this migration has just been heard."""
        with self._lock:
            self._seen[migration_id] = now()

    def count(self) -> int:
        """How many agents were heard of lately."""
        return len(self._seen)

    def flush(self, database: Database, silent_after: timedelta) -> None:
        """Write down who was heard since the last time, and forget who has been silent for long."""
        with self._lock:
            moment = now()
            fresh = {name: seen for name, seen in self._seen.items() if seen >= self._written}
            self._seen = {name: seen for name, seen in self._seen.items() if seen > moment - silent_after}
        if fresh:
            with database.write() as session:
                values = [{"migration": name, "seen": seen} for name, seen in fresh.items()]
                session.connection().execute(_NOTE, values)
        self._written = moment
