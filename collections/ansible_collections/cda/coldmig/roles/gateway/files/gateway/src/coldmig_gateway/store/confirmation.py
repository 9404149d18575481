# SPDX-License-Identifier: GPL-3.0-or-later
"""A migration may start: room for its copy is promised, its place in the order is fixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from coldmig_gateway import assessment, space
from coldmig_gateway.store import activation, earlier, held, states, transitions
from coldmig_gateway.store.errors import StagingFullError
from coldmig_gateway.store.models import Disk, Migration
from coldmig_gateway.store.states import Action, State

# States in which staging may still grow by what was promised.
_FILLING = (State.CONFIRMED, State.COPYING)


@dataclass(frozen=True, slots=True)
class Staging:
    """The staging area: where it is and what copies must leave free there (bytes; None: a part of it)."""

    directory: Path
    reserve: int | None = None

    def room(self) -> space.Space:
        """What the file system has for copies."""
        return space.measure(self.directory, self.reserve)


def confirm(session: Session, migration: Migration, actor: str, staging: Staging) -> None:
    """waiting → confirmed. The migration must have been read with a lock in this transaction.

    Raises:
        WrongStateError: it does not wait.
        BlockedError: a warning that nobody has accepted holds it back.
        StagingFullError: what it needs, beside what was promised to others, is not free.
    """
    states.after(Action.CONFIRM, State(migration.state))
    held.require_free(migration)
    activation.get(session, lock=True)  # confirmations wait for each other: two must not both get the last free space
    attempts = earlier.assign(session, migration, staging.directory)
    needed = sum(_needed(migration, disk, staging.directory) for disk in migration.disks)
    free = _free(session, staging, besides=[migration, *attempts])
    if needed > free:
        raise StagingFullError(needed=needed, free=free)
    migration.reserved_bytes = needed
    detail: dict[str, object] = {"reserved_bytes": needed}
    # Who accepted what may have been the template, so it is said here.
    if accepted := assessment.blocking_accepted(held.warnings(migration)):
        detail["accepted_warnings"] = accepted
    transitions.apply(session, migration, Action.CONFIRM, actor, detail=detail)


def used_bytes(migration: Migration, disk: Disk) -> int:
    """What has to be copied of a disk, as far as it is known."""
    if disk.used_bytes is None or migration.skip_free == "never":
        return disk.size_bytes
    return min(disk.used_bytes, disk.size_bytes)


def _needed(migration: Migration, disk: Disk, staging: Path) -> int:
    """Room for one disk beyond what earlier attempts hold of it."""
    used = used_bytes(migration, disk)
    held = max((space.held(staging, attempt, index) for attempt, index in disk.earlier), default=0)
    return space.needed_for(disk.size_bytes, max(0, used - held))


def _free(session: Session, staging: Staging, *, besides: Sequence[Migration]) -> int:
    left_out = [migration.id for migration in besides]
    query = select(Migration.id, Migration.reserved_bytes).where(
        Migration.state.in_(_FILLING), Migration.id.not_in(left_out)
    )
    reservations = [
        (reserved or 0, space.staged(staging.directory, identifier)) for identifier, reserved in session.execute(query)
    ]
    return space.unreserved(staging.room(), reservations)
