# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the site in order: cancels what was superseded, removes staged copies that nobody needs any more.

A staged copy goes once its migration has ended and

* no migration that has still to be copied may reuse it, and
* it was superseded, or it has been kept for the time that was set, by the site or when this migration was finished.

First the database notes the removal, then the files go. Interrupted anywhere, the next round goes on with it; removing
what the front still holds open only makes the room free later.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from coldmig_gateway.clock import now
from coldmig_gateway.store import audit, states, superseding
from coldmig_gateway.store.database import Database
from coldmig_gateway.store.models import Disk, Migration
from coldmig_gateway.store.states import State

_log = logging.getLogger(__name__)

_TO_BE_COPIED = (State.WAITING, State.CONFIRMED, State.COPYING)
_ACTOR = "gateway"


@dataclass(frozen=True, slots=True)
class Janitor:
    """One round of ``run`` every half a minute is enough; it may be done at any time, and again."""

    database: Database
    staging: Path
    keep_ended: timedelta

    def run(self, heard_since: datetime) -> None:
        """One round. ``heard_since``: whose agent was heard of since then is there."""
        with self.database.write() as session:
            for migration_id in superseding.run(session, heard_since):
                _log.info("migration %s: superseded by a later boot of its machine", migration_id)
        staged = set(self._staged())
        if staged:
            with self.database.write() as session:
                self._note_removals(session, staged)
            self._remove(staged)

    def _staged(self) -> Iterator[str]:
        """The migrations that have a directory in staging."""
        for entry in self.staging.iterdir():
            try:
                name = str(UUID(entry.name))
            except ValueError:
                continue
            if name == entry.name:
                yield name

    def _note_removals(self, session: Session, staged: set[str]) -> None:
        long_ended = now() - self.keep_ended
        query = select(Migration).where(
            Migration.id.in_(staged),
            Migration.state.in_(states.ENDED),
            Migration.staging_removed_at.is_(None),
            or_(
                Migration.superseded_by.is_not(None),
                and_(Migration.keep_staging_until.is_(None), Migration.ended_at < long_ended),
                Migration.keep_staging_until < now(),
            ),
        )
        due = session.scalars(query).all()
        pending, wanted = self._pending(session) if due else (frozenset(), frozenset())
        for migration in due:
            if migration.id in wanted or migration.superseded_by in pending:
                continue
            migration.staging_removed_at = now()
            why = "superseded" if migration.superseded_by else "kept long enough"
            audit.write(session, _ACTOR, ("migration", migration.id), "staging-removed", detail={"reason": why})

    def _pending(self, session: Session) -> tuple[frozenset[str], frozenset[str]]:
        """Migrations that have still to be copied, and those that they may reuse. Not those silent for long."""
        query = (
            select(Disk.migration_id, Disk.earlier)
            .join(Migration, Migration.id == Disk.migration_id)
            .where(
                Migration.state.in_(_TO_BE_COPIED),
                func.coalesce(Migration.last_seen_at, Migration.created_at) >= now() - self.keep_ended,
            )
        )
        rows = session.execute(query).all()
        wanted = frozenset(attempt for _id, places in rows for attempt, _index in places)
        return frozenset(identifier for identifier, _places in rows), wanted

    def _remove(self, staged: set[str]) -> None:
        with self.database.read() as session:
            query = select(Migration.id, Migration.staging_removed_at).where(Migration.id.in_(staged))
            known = {row.id: row.staging_removed_at for row in session.execute(query)}
        for name in sorted(staged):
            directory = self.staging / name
            if known.get(name) is not None or (name not in known and self._is_old(directory)):
                _log.info("migration %s: its staged copy is removed", name)
                shutil.rmtree(directory, onerror=_say)

    def _is_old(self, directory: Path) -> bool:
        """Of a migration that does not exist (any more); it is given the same time as one that has ended."""
        try:
            return directory.stat().st_mtime < time.time() - self.keep_ended.total_seconds()
        except FileNotFoundError:
            return False


def _say(_function: object, path: str, error: tuple[type[BaseException], BaseException, object]) -> None:
    if not isinstance(error[1], FileNotFoundError):
        _log.error("%s could not be removed: %s", path, error[1])
