# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit trail. An entry is written in the transaction of the change it tells of: neither exists alone."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from coldmig_gateway.clock import now
from coldmig_gateway.store.models import AuditEntry


def write(
    session: Session,
    actor: str,
    subject: tuple[str, str],
    event: str,
    *,
    states: tuple[str | None, str | None] = (None, None),
    detail: dict[str, Any] | None = None,
) -> None:
    """Add one entry.

    Args:
        session: the transaction that makes the change.
        actor: who did it, as text.
        subject: kind and id of the thing, for example ``("migration", "…")``.
        event: what happened, for example ``confirm``.
        states: the state before and after, where the thing has states.
        detail: more facts; never a secret.
    """
    session.add(
        AuditEntry(
            at=now(),
            actor=actor,
            subject_kind=subject[0],
            subject_id=subject[1],
            event=event,
            from_state=states[0],
            to_state=states[1],
            detail=detail or {},
        )
    )


def entries(session: Session, subject: tuple[str, str], *, skip: int, limit: int) -> list[AuditEntry]:
    """What happened to one thing, oldest first, without the first ``skip`` entries."""
    return list(
        session.scalars(
            select(AuditEntry)
            .where(AuditEntry.subject_kind == subject[0], AuditEntry.subject_id == subject[1])
            .order_by(AuditEntry.id)
            .offset(skip)
            .limit(limit)
        )
    )
