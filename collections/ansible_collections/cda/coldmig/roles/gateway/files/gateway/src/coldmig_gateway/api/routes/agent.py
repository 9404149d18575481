# SPDX-License-Identifier: GPL-3.0-or-later
"""What a booted ISO does: register its machine, then ask for its state and report."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request

from coldmig_gateway.api import views
from coldmig_gateway.api.context import IsoCaller, SessionCaller, SiteContext, source_address
from coldmig_gateway.api.problems import invalid, responses
from coldmig_gateway.api.schemas.common import FailureInput
from coldmig_gateway.api.schemas.machine import Machine
from coldmig_gateway.api.schemas.session import Enrolment, ProgressInput, Session
from coldmig_gateway.store import enrolment, migrations, transitions
from coldmig_gateway.store.enrolment import SourceDisk, SourceMachine
from coldmig_gateway.store.states import Action

router = APIRouter(tags=["agent"])

BootKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[A-Za-z0-9_-]{8,64}$",
        description="Random, one per boot: repeating a registration whose answer was lost gives the same migration",
    ),
]


@router.post("/enrolments", status_code=201, responses=responses(409, 410, 413, 507))
def enrol(
    context: SiteContext, caller: IsoCaller, request: Request, body: Machine, idempotency_key: BootKey = None
) -> Enrolment:
    """Register a machine. Every boot is a new migration. The session token is in this answer and nowhere else."""
    with context.database.write() as session:
        row, secret = enrolment.enrol(
            session,
            caller,
            _source(body),
            key=idempotency_key,
            source_ip=source_address(request),
            staging=context.settings.staging,
        )
        return Enrolment(
            migration_id=row.id,
            session_token=secret,
            state=row.state,
            name=row.name,
            poll_seconds=context.settings.poll_seconds,
        )


@router.get("/session", responses=responses())
def get_session(context: SiteContext, caller: SessionCaller) -> Session:
    """The agent's own migration."""
    with context.database.read() as session:
        return views.session_of(migrations.get(session, None, caller.id), context.settings.poll_seconds)


@router.post("/session/progress", status_code=204, responses=responses(409))
def report_progress(context: SiteContext, caller: SessionCaller, body: ProgressInput) -> None:
    """Report how far the copy is. The latest report replaces the one before."""
    with context.database.write() as session:
        row = migrations.get(session, None, caller.id, lock=True)
        unknown = {disk.index for disk in body.disks} - {disk.index for disk in row.disks}
        if unknown:
            raise invalid("disks", min(unknown), f"the machine has the disks 0 to {len(row.disks) - 1}")
        migrations.note_progress(row, body.model_dump(mode="json"))


@router.post("/session/failure", responses=responses(409))
def report_failure(context: SiteContext, caller: SessionCaller, body: FailureInput) -> Session:
    """Give up: the migration fails."""
    with context.database.write() as session:
        row = migrations.get(session, None, caller.id, lock=True)
        transitions.apply(session, row, Action.FAIL, caller.actor, because=(body.reason, body.detail))
        return views.session_of(row, context.settings.poll_seconds)


def _source(machine: Machine) -> SourceMachine:
    disks = [SourceDisk(disk.index, disk.size_bytes, disk.path, disk.serial, disk.model) for disk in machine.disks]
    return SourceMachine(machine.name, machine.serial, disks, machine.model_dump(mode="json"))
