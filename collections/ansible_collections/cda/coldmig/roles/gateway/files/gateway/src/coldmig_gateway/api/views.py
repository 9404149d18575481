# SPDX-License-Identifier: GPL-3.0-or-later
"""From rows of the database to bodies of the API."""

from __future__ import annotations

from typing import Any

from coldmig_gateway import assessment
from coldmig_gateway.api.schemas import migrations, templates, tokens
from coldmig_gateway.store import claims, held, models
from coldmig_gateway.store.sessions import have_chunks


def token(row: models.Token) -> tokens.Token:
    """A token without its secret."""
    return tokens.Token.model_validate(_with(row, kind="organization" if row.organization else "provider"))


def iso_credential(row: models.IsoCredential) -> tokens.IsoCredential:
    """A credential without its secret."""
    return tokens.IsoCredential.model_validate(_with(row, fingerprint=row.digest[:16]))


def template(row: models.Template) -> templates.Template:
    """A template."""
    limits = {name: getattr(row, name) for name in templates.Limits.model_fields}
    return templates.Template.model_validate(_with(row, limits=limits))


def migration(row: models.Migration) -> migrations.Migration:
    """A migration with its disks."""
    refs = {name: getattr(row, name) for name in ("vcenter_vm", "vcd_vapp", "vcd_vm")}
    reference = {"id": row.template.id, "name": row.template.name}
    disks = [
        _with(
            disk,
            have_chunks=have_chunks(row.progress, disk.index, disk.chunks, verified=disk.verified),
            earlier=[{"migration_id": attempt, "index": index} for attempt, index in disk.earlier],
            unreadable={
                "bytes": disk.unreadable_bytes,
                "chunks": disk.unreadable_chunks,
                "ranges": disk.unreadable_ranges,
            },
            source={"path": disk.path, "serial": disk.serial, "model": disk.model},
        )
        for disk in row.disks
    ]
    facts = {
        "guest": assessment.guest(row.machine, row.system),
        "guests": assessment.guests(row.machine),
        "warnings": held.warnings(row),
        "claim": claims.of(row),
    }
    return migrations.Migration.model_validate(_with(row, refs=refs, template=reference, disks=disks, **facts))


def audit_entry(row: models.AuditEntry) -> migrations.AuditEntry:
    """One line of the audit trail."""
    return migrations.AuditEntry(
        at=row.at, actor=row.actor, event=row.event, from_=row.from_state, to=row.to_state, detail=row.detail
    )


def _with(row: models.Base, **values: Any) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in row.__mapper__.column_attrs} | values
