# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding, changing and removing migrations. ``scope`` is an organization, or None for the provider, who sees all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session, joinedload

from coldmig_gateway.clock import now
from coldmig_gateway.store import audit, held, states
from coldmig_gateway.store.errors import NotFoundError, NotStagedError
from coldmig_gateway.store.models import Migration, Template
from coldmig_gateway.store.paging import Page, PageRequest, fetch
from coldmig_gateway.store.states import State


@dataclass(frozen=True, slots=True)
class Filters:
    """Which migrations to list; what is None or empty does not filter."""

    states: Sequence[State] = ()
    template: str | None = None  # id or name
    organization: str | None = None
    text: str | None = None  # part of the name or of the source address, case does not matter


def get(session: Session, scope: str | None, migration_id: str, *, lock: bool = False) -> Migration:
    """One migration; NotFoundError when there is none or it is another organization's.

    With ``lock`` nobody else changes it before this transaction ends.
    """
    query = select(Migration).where(Migration.id == migration_id).options(joinedload(Migration.template))
    if scope is not None:
        query = query.where(Migration.organization == scope)
    migration = session.scalar(query.with_for_update(of=Migration) if lock else query)
    if migration is None:
        raise NotFoundError("migration", migration_id)
    return migration


def listing(session: Session, scope: str | None, page: PageRequest, filters: Filters) -> Page[Migration]:
    """Migrations, newest first."""
    query = select(Migration).join(Migration.template).options(joinedload(Migration.template))
    if scope is not None:
        query = query.where(Migration.organization == scope)
    if filters.organization is not None:
        query = query.where(Migration.organization == filters.organization)
    if filters.states:
        query = query.where(Migration.state.in_(filters.states))
    if filters.template is not None:
        query = query.where(or_(Template.id == filters.template, Template.name == filters.template))
    if filters.text is not None:
        in_name = Migration.name.icontains(filters.text, autoescape=True)
        query = query.where(or_(in_name, Migration.source_ip.icontains(filters.text, autoescape=True)))
    return fetch(session, query, Migration, page)


def change(session: Session, migration: Migration, actor: str, values: dict[str, Any]) -> None:
    """Set name, power_on, destination, system, hardware or what is accepted, as long as the import has not begun.

    Raises:
        WrongStateError: the import has begun or the migration has ended.
    """
    states.require("change", State(migration.state), states.BEFORE_IMPORT)
    _set(session, migration, actor, "change", values)
    held.refresh(migration)


def note_references(session: Session, migration: Migration, actor: str, values: dict[str, str | None]) -> None:
    """Remember what was made at the destination (vcenter_vm, vcd_vapp, vcd_vm), so that a later run finds it."""
    _set(session, migration, actor, "destination-refs", values)


def note_progress(session: Session, migration_id: str, state: State, report: dict[str, Any]) -> None:
    """Keep the agent's latest report. It comes every few seconds, so it is not audited, and the row is not read.

    Raises:
        WrongStateError: the migration has ended.
    """
    states.require("progress", state, states.ACTIVE)
    progress = {"at": now().isoformat().replace("+00:00", "Z"), **report}
    session.execute(update(Migration).where(Migration.id == migration_id).values(progress=progress))


def note_check(session: Session, migration: Migration, actor: str, name: str, found: dict[str, Any]) -> None:
    """Keep what a check at the destination found last."""
    entry = {"at": now().isoformat().replace("+00:00", "Z"), "by": actor, **found}
    migration.checks = {**migration.checks, name: entry}
    facts = {"check": name, "passed": found["passed"], "findings": len(found["findings"])}
    audit.write(session, actor, ("migration", migration.id), "check", detail=facts)


def require_staged(migration: Migration) -> None:
    """Raise NotStagedError when the staged copy was removed."""
    if migration.staging_removed_at is not None:
        raise NotStagedError(
            f"The staged copy of migration {migration.id} was removed, so no VM can be made of it any more. "
            "Boot the source from its ISO again."
        )


def require_ended(migration: Migration) -> None:
    """Raise WrongStateError unless the migration has ended."""
    states.require("delete", State(migration.state), states.ENDED)


def delete(session: Session, migration: Migration, actor: str) -> None:
    """Forget an ended migration. Its audit trail stays in the database."""
    require_ended(migration)
    audit.write(session, actor, ("migration", migration.id), "delete", states=(migration.state, None))
    session.delete(migration)


def _set(session: Session, migration: Migration, actor: str, event: str, values: dict[str, Any]) -> None:
    changes = {name: value for name, value in values.items() if getattr(migration, name) != value}
    if changes:
        for name, value in changes.items():
            setattr(migration, name, value)
        migration.updated_at = now()
        audit.write(session, actor, ("migration", migration.id), event, detail=changes)
