# SPDX-License-Identifier: GPL-3.0-or-later
"""From rows of the database to bodies of the API."""

from __future__ import annotations

from typing import Any

from coldmig_gateway.api.schemas import migrations, session, templates, tokens
from coldmig_gateway.store import models

# Enough to fill a fast link; each costs the agent about 2 MiB of memory.
CONNECTIONS = 4


def token(row: models.Token) -> tokens.Token:
    """A token without its secret."""
    return tokens.Token.model_validate(_with(row, kind="organization" if row.organization else "provider"))


def iso_credential(row: models.IsoCredential) -> tokens.IsoCredential:
    """A credential without its secret."""
    return tokens.IsoCredential.model_validate(_with(row, fingerprint=row.digest[:16]))


def template(row: models.Template) -> templates.Template:
    """A template."""
    limits = {name: getattr(row, name) for name in ("max_migrations", "max_disk_bytes", "max_total_bytes")}
    return templates.Template.model_validate(_with(row, limits=limits))


def migration(row: models.Migration) -> migrations.Migration:
    """A migration with its disks."""
    refs = {name: getattr(row, name) for name in ("vcenter_vm", "vcd_vapp", "vcd_vm")}
    reference = {"id": row.template.id, "name": row.template.name}
    disks = [
        _with(
            disk,
            have_chunks=have_chunks(row, disk),
            source={"path": disk.path, "serial": disk.serial, "model": disk.model},
        )
        for disk in row.disks
    ]
    return migrations.Migration.model_validate(_with(row, refs=refs, template=reference, disks=disks))


def session_of(row: models.Migration, poll_seconds: int) -> session.Session:
    """A migration as its agent sees it."""
    return session.Session(
        migration_id=row.id,
        name=row.name,
        state=row.state,
        reason=row.reason,
        message=row.detail,
        poll_seconds=poll_seconds,
        connections=CONNECTIONS,
        disks=[
            session.SessionDisk(
                index=disk.index, size_bytes=disk.size_bytes, chunks=disk.chunks, have_chunks=have_chunks(row, disk)
            )
            for disk in row.disks
        ],
    )


def audit_entry(row: models.AuditEntry) -> migrations.AuditEntry:
    """One line of the audit trail."""
    return migrations.AuditEntry(
        at=row.at, actor=row.actor, event=row.event, from_=row.from_state, to=row.to_state, detail=row.detail
    )


def have_chunks(row: models.Migration, disk: models.Disk) -> int:
    """Chunks that are there: all once verified, before that what the agent last said was acknowledged."""
    if disk.verified:
        return disk.chunks
    reports = (row.progress or {}).get("disks", [])
    done = next((report["done_chunks"] for report in reports if report["index"] == disk.index), 0)
    return min(int(done), disk.chunks)


def _with(row: models.Base, **values: Any) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in row.__mapper__.column_attrs} | values
