# SPDX-License-Identifier: GPL-3.0-or-later
"""What a booted ISO does: register its machine, then ask for its state and report."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse

from coldmig_gateway.api import live
from coldmig_gateway.api.context import IsoCaller, SessionCaller, SessionToken, SiteContext, source_address
from coldmig_gateway.api.problems import Problem, invalid, responses
from coldmig_gateway.api.schemas.common import FailureInput
from coldmig_gateway.api.schemas.machine import Machine
from coldmig_gateway.api.schemas.session import Enrolment, LogsInput, ProgressInput, Session, UnreadableInput
from coldmig_gateway.store import agent_logs, enrolment, migrations, sessions, transitions, unreadable
from coldmig_gateway.store.agent_logs import BadLogsError
from coldmig_gateway.store.enrolment import SourceDisk, SourceMachine
from coldmig_gateway.store.states import Action, State
from coldmig_gateway.store.unreadable import Report

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
            staging=context.staging,
            heard_since=context.heard_since,
        )
        return Enrolment(
            migration_id=row.id,
            session_token=secret,
            state=row.state,
            name=row.name,
            mode=row.mode,
            blocked=row.blocked,
            poll_seconds=live.poll_seconds(context),
        )


@router.get("/session", response_model=Session, responses=responses())
def get_session(context: SiteContext, token: SessionToken) -> Response:
    """The agent's own migration. Every agent asks every few seconds, so this takes the short way."""
    with context.database.read() as session:
        found = sessions.of_token(session, token)
        context.presence.note(found.migration_id)
        return JSONResponse(live.session_body(context, session, found))


@router.post("/session/progress", status_code=204, responses=responses(409))
def report_progress(context: SiteContext, caller: SessionCaller, body: ProgressInput) -> None:
    """Report how far the copy is. The latest report replaces the one before."""
    context.presence.note(caller.id)
    with context.database.write() as session:
        found = sessions.of_migration(session, caller.id)
        _require_disks(len(found.disks), {disk.index for disk in body.disks})
        migrations.note_progress(session, caller.id, State(found.state), body.model_dump(mode="json"))


@router.post("/session/unreadable", status_code=204, responses=responses(409))
def report_unreadable(context: SiteContext, caller: SessionCaller, body: UnreadableInput) -> None:
    """Report sectors that cannot be read. It replaces the earlier report of the disks that are named."""
    context.presence.note(caller.id)
    with context.database.write() as session:
        row = migrations.get(session, None, caller.id, lock=True)
        _require_disks(len(row.disks), {disk.index for disk in body.disks})
        sizes = {disk.index: disk.size_bytes for disk in row.disks}
        for place, disk in enumerate(body.disks):
            end = max((start + length for start, length in disk.ranges), default=0)
            if max(end, disk.bytes) > sizes[disk.index]:
                raise invalid(f"disks[{place}]", max(end, disk.bytes), f"the disk has {sizes[disk.index]} bytes")
        reports = [Report(disk.index, disk.bytes, disk.ranges) for disk in body.disks]
        unreadable.note_report(session, row, caller.actor, reports)


@router.post("/session/failure", response_model=Session, responses=responses(409))
def report_failure(context: SiteContext, caller: SessionCaller, body: FailureInput) -> dict[str, Any]:
    """Give up: the migration fails."""
    with context.database.write() as session:
        row = migrations.get(session, None, caller.id, lock=True)
        transitions.apply(session, row, Action.FAIL, caller.actor, because=(body.reason, body.detail))
        session.flush()
        return live.session_body(context, session, sessions.of_migration(session, caller.id))


@router.put("/session/logs", status_code=204, responses=responses(409))
def put_logs(context: SiteContext, caller: SessionCaller, body: LogsInput) -> None:
    """Send the logs, when the template asks for them (`collect_logs`). They replace those that were sent before."""
    with context.database.write() as session:
        row = migrations.get(session, None, caller.id, lock=True)
        if not row.collect_logs:
            raise Problem(409, "logs-not-wanted", "Logs are not wanted", "The template does not ask for logs.")
        try:
            agent_logs.keep(session, row, caller.actor, agent_logs.decode(body.gzip))
        except BadLogsError as error:
            raise invalid("gzip", None, str(error)) from None


def _require_disks(count: int, named: set[int]) -> None:
    unknown = named - set(range(count))
    if unknown:
        raise invalid("disks", min(unknown), f"the machine has the disks 0 to {count - 1}")


def _source(machine: Machine) -> SourceMachine:
    disks = [
        SourceDisk(disk.index, disk.size_bytes, disk.used_bytes, disk.path, disk.serial, disk.model)
        for disk in machine.disks
    ]
    document = machine.model_dump(mode="json")
    return SourceMachine(machine.name, machine.serial, machine.smbios_uuid, disks, document)
