# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations for people: see, confirm, change, cancel, remove. For a tenant, those of others do not exist."""

from __future__ import annotations

import shutil
from typing import Annotated

from fastapi import APIRouter, Query

from coldmig_gateway import assessment
from coldmig_gateway.api import views
from coldmig_gateway.api.context import SiteContext, TenantCaller
from coldmig_gateway.api.problems import invalid, responses
from coldmig_gateway.api.schemas.common import Paged, PageOf
from coldmig_gateway.api.schemas.migrations import (
    AgentLogs,
    AuditEntry,
    CancelInput,
    ChangeInput,
    ConfirmInput,
    Migration,
)
from coldmig_gateway.store import agent_logs, audit, confirmation, migrations, states, transitions
from coldmig_gateway.store.migrations import Filters
from coldmig_gateway.store.states import Action, State

router = APIRouter(prefix="/migrations", tags=["migrations"])

Filter = Annotated[str | None, Query(max_length=100)]
States = Annotated[list[State] | None, Query(max_length=len(State), description="May be given several times")]


@router.get("", responses=responses())
def list_migrations(  # noqa: PLR0917 - FastAPI calls it by name
    context: SiteContext,
    caller: TenantCaller,
    paged: Paged,
    state: States = None,
    template: Annotated[str | None, Query(max_length=100, description="Id or name of a template")] = None,
    organization: Filter = None,
    q: Annotated[str | None, Query(max_length=100, description="Part of the name or the source address")] = None,
) -> PageOf[Migration]:
    """Migrations, newest first."""
    filters = Filters(states=state or (), template=template, organization=organization, text=q)
    with context.database.read() as session:
        page = migrations.listing(session, caller.organization, paged, filters)
        return PageOf(items=[views.migration(row) for row in page.items], next=page.next)


@router.get("/{migration_id}", responses=responses(404))
def get_migration(context: SiteContext, caller: TenantCaller, migration_id: str) -> Migration:
    """One migration."""
    with context.database.read() as session:
        return views.migration(migrations.get(session, caller.organization, migration_id))


@router.patch("/{migration_id}", responses=responses(404, 409))
def change_migration(context: SiteContext, caller: TenantCaller, migration_id: str, body: ChangeInput) -> Migration:
    """Change settings, or accept warnings and unreadable sectors, until the import begins."""
    values = {name: value for name, value in body.model_dump(mode="json").items() if value is not None}
    if body.hardware is not None:
        values["hardware"] = body.hardware.model_dump(mode="json", exclude_none=True)
    with context.database.write() as session:
        row = migrations.get(session, caller.organization, migration_id, lock=True)
        if body.system is not None and assessment.find(row.machine, body.system) is None:
            there = ", ".join(assessment.name_of(guest) for guest in assessment.guests(row.machine))
            raise invalid("system", body.system, f"must be the key of a system of this machine, which has: {there}")
        migrations.change(session, row, caller.actor, values)
        return views.migration(row)


@router.delete("/{migration_id}", status_code=204, responses=responses(404, 409))
def delete_migration(context: SiteContext, caller: TenantCaller, migration_id: str) -> None:
    """Remove an ended migration and its staged copy."""
    with context.database.read() as session:
        row = migrations.get(session, caller.organization, migration_id)
        migrations.require_ended(row)
        directory = context.settings.staging / row.id
    # Files first and outside of a transaction, for this may take long: should it be interrupted, the migration is still
    # there and can be removed again. An ended migration stays ended, so nothing can come in between.
    if directory.exists():
        shutil.rmtree(directory)
    with context.database.write() as session:
        row = migrations.get(session, caller.organization, migration_id, lock=True)
        migrations.delete(session, row, caller.actor)


@router.post("/{migration_id}/confirm", responses=responses(404, 409, 507))
def confirm_migration(
    context: SiteContext, caller: TenantCaller, migration_id: str, body: ConfirmInput | None = None
) -> Migration:
    """Let a waiting migration begin to copy, when nothing holds it back and there is room for it in staging."""
    with context.database.write() as session:
        row = migrations.get(session, caller.organization, migration_id, lock=True)
        if body is not None and body.accept_warnings:
            states.after(Action.CONFIRM, State(row.state))
            accepted = sorted({*row.accept_warnings, *body.accept_warnings})
            migrations.change(session, row, caller.actor, {"accept_warnings": accepted})
        confirmation.confirm(session, row, caller.actor, context.staging)
        return views.migration(row)


@router.post("/{migration_id}/cancel", responses=responses(404, 409))
def cancel_migration(context: SiteContext, caller: TenantCaller, migration_id: str, body: CancelInput) -> Migration:
    """Stop a migration for good. What was copied stays in staging for a while, for another boot of the machine."""
    with context.database.write() as session:
        row = migrations.get(session, caller.organization, migration_id, lock=True)
        because = (body.reason or "canceled", None)
        transitions.apply(session, row, Action.CANCEL, caller.actor, because=because)
        return views.migration(row)


@router.get("/{migration_id}/audit", responses=responses(404))
def list_audit(context: SiteContext, caller: TenantCaller, migration_id: str, paged: Paged) -> PageOf[AuditEntry]:
    """Who did what and when, oldest first."""
    seen = _seen(paged.after)
    with context.database.read() as session:
        row = migrations.get(session, caller.organization, migration_id)
        found = audit.entries(session, ("migration", row.id), skip=seen, limit=paged.limit + 1)
        items = [views.audit_entry(entry) for entry in found[: paged.limit]]
        return PageOf(items=items, next=str(seen + paged.limit) if len(found) > paged.limit else None)


@router.get("/{migration_id}/logs", responses=responses(404))
def get_logs(context: SiteContext, caller: TenantCaller, migration_id: str) -> AgentLogs:
    """What the agent has logged, where the template asked for it (`collect_logs`) and the migration has ended."""
    with context.database.read() as session:
        row = migrations.get(session, caller.organization, migration_id)
        kept = agent_logs.get(session, row)
        return AgentLogs(at=kept.at, text=agent_logs.text_of(kept))


def _seen(cursor: str | None) -> int:
    # The trail only ever grows at its end, so a position in it is a good cursor.
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 10):
        raise invalid("after", cursor, "must be the value of 'next' of the page before")
    return int(cursor)
