# SPDX-License-Identifier: GPL-3.0-or-later
"""What all copies of the site may take together. Changes hold at once, also for copies that run."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from coldmig_gateway.clock import now
from coldmig_gateway.store import audit
from coldmig_gateway.store.models import SiteLimits, Template

_ROW = 1


def get(session: Session, *, lock: bool = False) -> SiteLimits:
    """The limits as they are; a new site has none. With ``lock`` they stay so until this transaction ends."""
    return session.get(SiteLimits, _ROW, with_for_update=lock) or SiteLimits(
        id=_ROW, bandwidth_limit=None, max_concurrent_copies=None, changed_at=None, changed_by=None
    )


def change(session: Session, actor: str, values: dict[str, Any]) -> SiteLimits:
    """Set the limits that are named; None takes one away. What is set already is no change."""
    row = get(session, lock=True)
    session.add(row)
    changes = {name: value for name, value in values.items() if getattr(row, name) != value}
    if changes:
        for name, value in changes.items():
            setattr(row, name, value)
        row.changed_at, row.changed_by = now(), actor
        audit.write(session, actor, ("limits", str(_ROW)), "change", detail=changes)
    return row


def bandwidth_of_templates(session: Session) -> dict[str, int]:
    """Template id → bytes per second, where there is a limit; deleted ones too, for their migrations go on."""
    query = select(Template.id, Template.bandwidth_limit).where(Template.bandwidth_limit.is_not(None))
    return {identifier: limit for identifier, limit in session.execute(query) if limit is not None}
