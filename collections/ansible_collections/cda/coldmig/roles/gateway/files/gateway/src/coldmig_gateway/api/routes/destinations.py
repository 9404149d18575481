# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a migration, driven by the provider's playbook: import, finish, fail, notes on what was made."""

from __future__ import annotations

from fastapi import APIRouter

from coldmig_gateway.api import views
from coldmig_gateway.api.context import ProviderCaller, SiteContext
from coldmig_gateway.api.problems import responses
from coldmig_gateway.api.schemas.common import FailureInput
from coldmig_gateway.api.schemas.migrations import FinishInput, ImportInput, Migration, ReferencesInput
from coldmig_gateway.store import migrations, states, transitions, unreadable
from coldmig_gateway.store.states import Action, State

router = APIRouter(prefix="/migrations/{migration_id}", tags=["import"])


@router.post("/import", responses=responses(404, 409))
def begin_import(context: SiteContext, caller: ProviderCaller, migration_id: str, body: ImportInput) -> Migration:
    """Begin to make the VM, or take an interrupted import up again. Unreadable sectors must have been accepted."""
    with context.database.write() as session:
        row = migrations.get(session, None, migration_id, lock=True)
        states.after(Action.IMPORT, State(row.state))
        unreadable.require_accepted(row)
        transitions.apply(session, row, Action.IMPORT, caller.actor, detail={"run": body.run})
        return views.migration(row)


@router.post("/finish", responses=responses(404, 409))
def finish(context: SiteContext, caller: ProviderCaller, migration_id: str, body: FinishInput) -> Migration:
    """The VM is there: the migration is finished."""
    with context.database.write() as session:
        row = migrations.get(session, None, migration_id, lock=True)
        transitions.apply(session, row, Action.FINISH, caller.actor, detail=body.model_dump(mode="json"))
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
