# SPDX-License-Identifier: GPL-3.0-or-later
"""Changing the state of a migration: checked, locked against others, and audited in the same transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from coldmig_gateway.clock import now
from coldmig_gateway.store import audit, states
from coldmig_gateway.store.models import Migration
from coldmig_gateway.store.states import Action, State


def apply(
    session: Session,
    migration: Migration,
    action: Action,
    actor: str,
    *,
    because: tuple[str, str | None] | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Do one transition. The migration must have been read with a lock in this transaction.

    ``because`` is the reason and more text, which the migration shows from then on; ``detail`` is for the audit trail.

    Raises:
        WrongStateError: the migration's state does not allow it.
    """
    before = State(migration.state)
    target = states.after(action, before)
    if action is Action.BEGIN_COPYING and before is target:
        return
    facts = dict(detail or {})
    if because is not None:
        migration.reason, migration.detail = because
        facts |= {"reason": because[0], "message": because[1]}
    migration.state = target
    migration.updated_at = now()
    if action is Action.CONFIRM:
        migration.confirmed_at = migration.updated_at
    migration.ended_at = migration.updated_at if target in states.ENDED else None
    if action is Action.REOPEN:
        migration.keep_staging_until = None
    audit.write(session, actor, ("migration", migration.id), action, states=(before, target), detail=facts)
