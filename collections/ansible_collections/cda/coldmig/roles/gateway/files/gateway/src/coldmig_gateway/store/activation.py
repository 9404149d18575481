# SPDX-License-Identifier: GPL-3.0-or-later
"""The switch of the whole site: nothing registers unless it is on, and on for the template's organization."""

from __future__ import annotations

from sqlalchemy.orm import Session

from coldmig_gateway.clock import now
from coldmig_gateway.store import audit
from coldmig_gateway.store.errors import NotActivatedError
from coldmig_gateway.store.models import Activation

_ROW = 1


def get(session: Session, *, lock: bool = False) -> Activation:
    """The switch as it is; a new site begins switched off. With ``lock`` it stays so until this transaction ends."""
    return session.get(Activation, _ROW, with_for_update=lock) or Activation(
        id=_ROW, active=False, organizations=[], changed_at=None, changed_by=None
    )


def put(session: Session, actor: str, *, active: bool, organizations: list[str] | None) -> Activation:
    """Set the switch; None leaves the organizations as they are. What is set already is no change."""
    row = get(session, lock=True)
    session.add(row)
    wanted = row.organizations if organizations is None else sorted(set(organizations))
    if (row.active, row.organizations) != (active, wanted):
        row.active, row.organizations = active, wanted
        row.changed_at, row.changed_by = now(), actor
        detail = {"active": active, "organizations": wanted}
        audit.write(session, actor, ("activation", str(_ROW)), "activation", detail=detail)
    return row


def require(session: Session, organization: str) -> None:
    """Raise NotActivatedError unless machines of this organization may register.

    Takes the lock, which also makes registrations wait for each other: two must not both get the last free space.
    """
    row = get(session, lock=True)
    if not row.active:
        raise NotActivatedError("Cold migration is not activated on this site; ask the provider.")
    if organization not in row.organizations:
        raise NotActivatedError("Cold migration is not activated for this organization; ask the provider.")
