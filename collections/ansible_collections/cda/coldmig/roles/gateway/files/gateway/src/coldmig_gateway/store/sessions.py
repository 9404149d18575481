# SPDX-License-Identifier: GPL-3.0-or-later
"""What an agent asks again and again: its own migration, found by its token. Made to cost little.

One indexed look-up finds the migration, a second one its disks; nothing else is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session

from coldmig_gateway.store.errors import CredentialError
from coldmig_gateway.store.models import Disk, Migration
from coldmig_gateway.store.principals import SESSION_UNKNOWN

_MIGRATION = select(
    Migration.id, Migration.name, Migration.state, Migration.reason, Migration.detail, Migration.skip_free,
    Migration.progress, Migration.mode, Migration.blocked, Migration.at_end, Migration.collect_logs,
)  # fmt: skip
# Made once: making a statement takes longer than running it.
_OF_TOKEN = _MIGRATION.where(Migration.session_digest == bindparam("value"))
_OF_ID = _MIGRATION.where(Migration.id == bindparam("value"))
_DISKS = (
    select(Disk.index, Disk.size_bytes, Disk.chunks, Disk.verified)
    .where(Disk.migration_id == bindparam("value"))
    .order_by(Disk.index)
)


@dataclass(frozen=True, slots=True)
class DiskState:
    """A disk as its agent sees it."""

    index: int
    size_bytes: int
    chunks: int
    have_chunks: int


@dataclass(frozen=True, slots=True)
class SessionState:
    """A migration as its agent sees it."""

    migration_id: str
    name: str
    state: str
    reason: str | None
    message: str | None
    skip_free: str
    mode: str
    blocked: Sequence[str]
    at_end: dict[str, str]
    collect_logs: bool
    disks: Sequence[DiskState]


def of_token(session: Session, digest: str) -> SessionState:
    """The migration of a session's token, given by its digest. Raises CredentialError."""
    return _read(session, _OF_TOKEN, digest)


def of_migration(session: Session, migration_id: str) -> SessionState:
    """The same by the migration's id. Raises CredentialError."""
    return _read(session, _OF_ID, migration_id)


def have_chunks(progress: dict[str, Any] | None, index: int, chunks: int, *, verified: bool) -> int:
    """Chunks that are there: all once verified, before that what the agent last said was acknowledged."""
    if verified:
        return chunks
    reports = (progress or {}).get("disks", [])
    done = next((report["done_chunks"] for report in reports if report["index"] == index), 0)
    return min(int(done), chunks)


def _read(session: Session, query: Select[Any], value: str) -> SessionState:
    row = session.execute(query, {"value": value}).one_or_none()
    if row is None:
        raise CredentialError(*SESSION_UNKNOWN)
    disks = session.execute(_DISKS, {"value": row.id})
    return SessionState(
        row.id, row.name, row.state, row.reason, row.detail, row.skip_free, row.mode, row.blocked,
        row.at_end, row.collect_logs,
        [
            DiskState(index, size, chunks, have_chunks(row.progress, index, chunks, verified=verified))
            for index, size, chunks, verified in disks
        ],
    )  # fmt: skip
