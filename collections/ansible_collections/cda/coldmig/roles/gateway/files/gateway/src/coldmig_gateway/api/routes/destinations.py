# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a migration, driven by the provider's playbook: import, finish, fail, undo, notes on what was made."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter

from coldmig_gateway.api import views
from coldmig_gateway.api.context import ProviderCaller, SiteContext, TenantCaller
from coldmig_gateway.api.problems import responses
from coldmig_gateway.api.schemas.common import FailureInput
from coldmig_gateway.api.schemas.destinations import (
    CheckInput,
    CheckName,
    ClaimInput,
    FinishInput,
    ImportInput,
    ReferencesInput,
    ReleaseInput,
    UndoneInput,
)
from coldmig_gateway.api.schemas.migrations import Migration
from coldmig_gateway.clock import now
from coldmig_gateway.store import audit, claims, migrations, states, transitions, unreadable
from coldmig_gateway.store.states import Action, State

router = APIRouter(prefix="/migrations/{migration_id}", tags=["import"])


@router.post("/claim", responses=responses(404, 409))
def claim(context: SiteContext, caller: ProviderCaller, migration_id: str, body: ClaimInput) -> Migration:
    """Work on this migration alone for some seconds, or for some more. While another runner does: 409 `claimed`."""
    with context.database.write() as session:
        row = migrations.get(session, None, migration_id, lock=True)
        if claims.take(row, body.run, body.holder, body.seconds):
            audit.write(session, caller.actor, ("migration", row.id), "claim", detail={"run": body.run})
        return views.migration(row)


@router.post("/release", responses=responses(404, 409))
def release(context: SiteContext, caller: ProviderCaller, migration_id: str, body: ReleaseInput) -> Migration:
    """Let the migration go for other runners. What is nobody's is fine."""
    with context.database.write() as session:
        row = migrations.get(session, None, migration_id, lock=True)
        claims.require_free(row, body.holder)
        claims.release(row)
        return views.migration(row)


@router.post("/import", responses=responses(404, 409))
def begin_import(context: SiteContext, caller: ProviderCaller, migration_id: str, body: ImportInput) -> Migration:
    """Begin to make the VM, or take an interrupted import up again. Unreadable sectors must have been accepted.

    While another runner works on the migration, the answer is 409 `claimed`.
    """
    with context.database.write() as session:
        row = migrations.get(session, None, migration_id, lock=True)
        states.after(Action.IMPORT, State(row.state))
        unreadable.require_accepted(row)
        claims.require_free(row, body.holder)
        if body.holder is not None:
            claims.take(row, body.run, body.holder, body.seconds)
        transitions.apply(session, row, Action.IMPORT, caller.actor, detail={"run": body.run})
        return views.migration(row)


@router.post("/finish", responses=responses(404, 409))
def finish(context: SiteContext, caller: ProviderCaller, migration_id: str, body: FinishInput) -> Migration:
    """The VM is there: the migration is finished."""
    with context.database.write() as session:
        row = migrations.get(session, None, migration_id, lock=True)
        states.after(Action.FINISH, State(row.state))
        claims.require_free(row, body.holder)
        detail = body.model_dump(mode="json", exclude={"holder"})
        transitions.apply(session, row, Action.FINISH, caller.actor, detail=detail)
        claims.release(row)
        if body.keep_staging_hours is not None:
            row.keep_staging_until = now() + timedelta(hours=body.keep_staging_hours)
        row.vcenter_vm = body.vcenter.vm
        if body.vcd is not None:
            row.vcd_vapp, row.vcd_vm = body.vcd.vapp_href, body.vcd.vm_href
        return views.migration(row)


@router.post("/fail", responses=responses(404, 409))
def fail(context: SiteContext, caller: ProviderCaller, migration_id: str, body: FailureInput) -> Migration:
    """Give the migration up, with a reason that a person can act on."""
    with context.database.write() as session:
        row = migrations.get(session, None, migration_id, lock=True)
        transitions.apply(session, row, Action.FAIL, caller.actor, because=(body.reason, body.detail))
        return views.migration(row)


@router.post("/undone", responses=responses(404, 409))
def undone(context: SiteContext, caller: ProviderCaller, migration_id: str, body: UndoneInput) -> Migration:
    """What was made at the destination is removed again.

    The migration is canceled, or copied again where `to` says so, which is possible as long as its copy is staged.
    One that failed or was canceled stays what it is.
    """
    with context.database.write() as session:
        row = migrations.get(session, None, migration_id, lock=True)
        claims.require_free(row, body.holder)
        nothing: dict[str, str | None] = {"vcenter_vm": None, "vcd_vapp": None, "vcd_vm": None}
        if body.to == "copied":
            migrations.require_staged(row)
            transitions.apply(session, row, Action.REOPEN, caller.actor, detail={"run": body.run})
        elif row.state not in (State.FAILED, State.CANCELED):
            transitions.apply(session, row, Action.UNDO, caller.actor, because=("undone", None))
        migrations.note_references(session, row, caller.actor, nothing)
        claims.release(row)
        return views.migration(row)


@router.patch("/destination-refs", responses=responses(404))
def note_references(
    context: SiteContext, caller: ProviderCaller, migration_id: str, body: ReferencesInput
) -> Migration:
    """Note what was made at the destination, so that a run that takes over finds it."""
    with context.database.write() as session:
        row = migrations.get(session, None, migration_id, lock=True)
        values = body.model_dump(mode="json", exclude_unset=True)
        migrations.note_references(session, row, caller.actor, values)
        return views.migration(row)


@router.put("/checks/{name}", responses=responses(404))
def note_check(
    context: SiteContext, caller: TenantCaller, migration_id: str, name: CheckName, body: CheckInput
) -> Migration:
    """Note what a check found; the gateway itself has no account at the destination. It replaces the one before."""
    with context.database.write() as session:
        row = migrations.get(session, caller.organization, migration_id, lock=True)
        found = body.model_dump(mode="json")
        migrations.note_check(session, row, caller.actor, name, found)
        return views.migration(row)
