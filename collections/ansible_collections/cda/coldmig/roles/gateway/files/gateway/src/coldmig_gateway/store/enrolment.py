# SPDX-License-Identifier: GPL-3.0-or-later
"""A booted ISO registers its machine. Every boot is a new migration."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from coldmig_gateway import naming, space
from coldmig_gateway.clock import now
from coldmig_gateway.principal import Principal
from coldmig_gateway.store import activation, audit, confirmation, earlier, held, superseding
from coldmig_gateway.store.confirmation import Staging
from coldmig_gateway.store.errors import DiskTooLargeError, LimitReachedError, NotFoundError, TemplateDeletedError
from coldmig_gateway.store.models import Disk, IsoCredential, Migration, Template
from coldmig_gateway.store.states import ACTIVE, State
from coldmig_gateway.tokens import TokenKind, new_token, token_digest
from coldmig_wire.geometry import chunk_count

ASSESS = "assess"  # the mode of templates whose machines are only looked at
_AUTO_START = "auto-start of the template"


@dataclass(frozen=True, slots=True)
class SourceDisk:
    """A disk as the agent found it; sizes in bytes. ``used`` has to be copied (None: not known)."""

    index: int
    size: int
    used: int | None
    path: str
    serial: str | None
    model: str | None


@dataclass(frozen=True, slots=True)
class SourceMachine:
    """What registration needs of a machine; ``document`` is all that the agent said, as JSON."""

    name: str
    serial: str | None
    uuid: str | None
    disks: Sequence[SourceDisk]
    document: dict[str, Any]


def enrol(
    session: Session,
    principal: Principal,
    machine: SourceMachine,
    *,
    key: str | None,
    source_ip: str | None,
    staging: Staging,
    heard_since: datetime,
) -> tuple[Migration, str]:
    """Register a machine under the template of an ISO credential; gives the migration and its session token.

    ``key`` is a random value that the agent chose for this boot: when the answer to its first try was lost, the same
    key gives the same migration again, with a new session token. ``heard_since``: an earlier attempt of this machine
    whose agent has been silent since then is superseded.

    Raises:
        TemplateDeletedError, NotActivatedError, LimitReachedError, DiskTooLargeError, StagingFullError: it may not.
    """
    credential = _lock_credential(session, principal)
    if key is not None:
        again = session.scalar(
            select(Migration).where(Migration.credential_id == credential.id, Migration.enrolment_key == key)
        )
        if again is not None:
            return again, _renew_session(session, again, principal.actor)
    template = _admit(session, credential)
    moment = now()
    identifier = str(uuid.uuid4())
    secret = new_token(TokenKind.SESSION)
    migration = Migration(
        id=identifier,
        name=naming.expand(template.name_pattern, name=machine.name, serial=machine.serial, migration_id=identifier),
        organization=template.organization,
        template=template,
        credential_id=credential.id,
        enrolment_key=key,
        session_digest=token_digest(secret),
        state=State.WAITING,
        created_at=moment,
        updated_at=moment,
        source_ip=source_ip,
        machine=machine.document,
        machine_uuid=earlier.machine_uuid(machine.uuid),
        destination=template.destination,
        power_on=template.power_on,
        skip_free=template.skip_free,
        mode=template.mode,
        system=template.system,
        accept_warnings=template.accept_warnings,
        hardware=template.hardware,
        at_end=template.at_end,
        collect_logs=template.collect_logs,
        last_seen_at=moment,
        disks=[
            Disk(
                index=disk.index,
                size_bytes=disk.size,
                chunks=chunk_count(disk.size),
                path=disk.path,
                serial=disk.serial,
                model=disk.model,
                used_bytes=disk.used,
                earlier=[],
                unreadable_bytes=0,
                unreadable_ranges=[],
                verified=False,
            )
            for disk in machine.disks
        ],
    )
    held.refresh(migration)
    session.add(migration)
    session.flush()
    credential.uses += 1
    credential.last_used_at = moment
    if template.mode == ASSESS:
        _assess(session, principal.actor, template, migration, staging)
        return migration, secret
    if migration.machine_uuid is not None:
        superseding.run(session, heard_since, machine_uuid=migration.machine_uuid)
        earlier.assign(session, migration, staging.directory)
    _check_template_limits(template, migration)
    _check_count(session, template, migration)
    _check_sizes(staging, migration)
    audit.write(session, principal.actor, ("migration", identifier), "enrol", states=(None, State.WAITING))
    if template.auto_start:
        _start(session, migration, staging)
    return migration, secret


def _start(session: Session, migration: Migration, staging: Staging) -> None:
    if migration.blocked:
        message = "It does not start by itself: accept these warnings and confirm it, or do what they say."
        detail = {"blocked": migration.blocked, "message": message}
        audit.write(session, _AUTO_START, ("migration", migration.id), "held-back", detail=detail)
    else:
        confirmation.confirm(session, migration, _AUTO_START, staging)


def _assess(session: Session, actor: str, template: Template, migration: Migration, staging: Staging) -> None:
    """It ends with what its agent has told, and with what a migration of this machine would be refused for."""
    migration.state, migration.ended_at = State.ASSESSED, migration.created_at
    try:
        _check_template_limits(template, migration)
        _check_sizes(staging, migration)
    except (DiskTooLargeError, LimitReachedError) as error:
        migration.reason = "disk-too-large" if isinstance(error, DiskTooLargeError) else "limit-reached"
        migration.detail = str(error)
    detail = {"blocked": migration.blocked} | ({"reason": migration.reason} if migration.reason else {})
    audit.write(session, actor, ("migration", migration.id), "enrol", states=(None, State.ASSESSED), detail=detail)


def _lock_credential(session: Session, principal: Principal) -> IsoCredential:
    # Two machines at once must not both take the last place, so they wait for each other.
    credential = session.get(IsoCredential, principal.id, with_for_update=True)
    if credential is None:
        raise NotFoundError("ISO credential", principal.id)
    return credential


def _renew_session(session: Session, migration: Migration, actor: str) -> str:
    secret = new_token(TokenKind.SESSION)
    migration.session_digest = token_digest(secret)
    audit.write(session, actor, ("migration", migration.id), "renew-session")
    return secret


def _admit(session: Session, credential: IsoCredential) -> Template:
    template = session.get(Template, credential.template_id, with_for_update=True)
    if template is None or template.deleted_at is not None:
        raise TemplateDeletedError("The template of this ISO was deleted; make a new ISO from another template.")
    activation.require(session, template.organization)
    allowed = credential.max_registrations
    if allowed is not None and credential.uses >= allowed:
        raise LimitReachedError(
            "max_registrations", allowed, f"This ISO may register {allowed} machines and has done so; make a new ISO."
        )
    return template


def _check_template_limits(template: Template, migration: Migration) -> None:
    for disk in migration.disks:
        if template.max_disk_bytes is not None and disk.size_bytes > template.max_disk_bytes:
            raise DiskTooLargeError(
                f"Disk {disk.index} ({disk.path}) has {disk.size_bytes} bytes; "
                f"the template allows at most {template.max_disk_bytes} bytes for one disk.",
                needed=disk.size_bytes,
                allowed=template.max_disk_bytes,
            )
    total = sum(disk.size_bytes for disk in migration.disks)
    if template.max_total_bytes is not None and total > template.max_total_bytes:
        raise LimitReachedError(
            "max_total_bytes",
            template.max_total_bytes,
            f"The disks have {total} bytes together; the template allows at most {template.max_total_bytes} bytes.",
        )


def _check_count(session: Session, template: Template, migration: Migration) -> None:
    if template.max_migrations is not None:
        query = select(func.count()).select_from(Migration)
        query = query.where(
            Migration.template_id == template.id, Migration.state.in_(ACTIVE), Migration.id != migration.id
        )
        if (session.scalar(query) or 0) >= template.max_migrations:
            raise LimitReachedError(
                "max_migrations",
                template.max_migrations,
                f"The template allows {template.max_migrations} migrations at a time and these are under way; "
                "cancel one or wait until one has ended.",
            )


def _check_sizes(staging: Staging, migration: Migration) -> None:
    """Raise DiskTooLargeError for a disk that can never fit, whatever is removed from staging."""
    total = staging.room().total
    for disk in migration.disks:
        needed = space.needed_for(disk.size_bytes, confirmation.used_bytes(migration, disk))
        if needed > total:
            raise DiskTooLargeError(
                f"Disk {disk.index} ({disk.path}) needs {needed} bytes of staging; the site's whole staging area has "
                f"{total} bytes for copies.",
                needed=needed,
                allowed=total,
            )
