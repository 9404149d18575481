# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine that was booted again goes on as a new migration; the one of its former boot is canceled.

Only once its agent is silent: two machines may look alike, and then both are left alone.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, aliased

from coldmig_gateway.store import earlier, transitions
from coldmig_gateway.store.models import Migration
from coldmig_gateway.store.states import Action, State

SUPERSEDED = "superseded"
_UNFINISHED = (State.WAITING, State.CONFIRMED, State.COPYING)
_ACTOR = "gateway"


def run(session: Session, heard_since: datetime, *, machine_uuid: str | None = None) -> list[str]:
    """Cancel what later boots of the same machines have taken the place of; gives the ids.

    ``heard_since``: whose agent was heard of since then is left alone. ``machine_uuid``: look at this machine only.
    """
    later = aliased(Migration)
    booted_again = exists().where(
        later.machine_uuid == Migration.machine_uuid,
        later.template_id == Migration.template_id,
        later.created_at > Migration.created_at,
        later.state != State.ASSESSED,  # that boot was for a look only
    )
    query = select(Migration).where(
        Migration.state.in_(_UNFINISHED),
        booted_again,
        func.coalesce(Migration.last_seen_at, Migration.created_at) < heard_since,
    )
    if machine_uuid is not None:
        query = query.where(Migration.machine_uuid == machine_uuid)
    done = []
    for migration in session.scalars(query.with_for_update(of=Migration)).all():
        boot = _later_boot(session, migration)
        if boot is not None:
            migration.superseded_by = boot.id
            text = f"The machine was booted again and goes on as migration {boot.id} ({boot.name})."
            transitions.apply(session, migration, Action.CANCEL, _ACTOR, because=(SUPERSEDED, text))
            done.append(migration.id)
    return done


def _later_boot(session: Session, migration: Migration) -> Migration | None:
    query = (
        select(Migration)
        .where(
            Migration.machine_uuid == migration.machine_uuid,
            Migration.template_id == migration.template_id,
            Migration.organization == migration.organization,
            Migration.created_at > migration.created_at,
            Migration.state != State.ASSESSED,
        )
        .order_by(Migration.created_at.desc())
    )
    return next((later for later in session.scalars(query) if earlier.shares_a_disk(migration, later)), None)
