# SPDX-License-Identifier: GPL-3.0-or-later
"""Sectors that the source could not read. Zeros stand for them, so somebody must accept that before the import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from coldmig_gateway.clock import now
from coldmig_gateway.store import audit, states
from coldmig_gateway.store.errors import UnreadableSectorsError
from coldmig_gateway.store.models import Disk, Migration
from coldmig_gateway.store.states import State

_SHOWN = 20  # ranges in the audit trail; the migration has them all


@dataclass(frozen=True, slots=True)
class Report:
    """What could not be read of one disk: bytes in all, and where ([start, length], perhaps not all)."""

    index: int
    bytes: int
    ranges: Sequence[tuple[int, int]]


def note_report(session: Session, migration: Migration, actor: str, reports: Sequence[Report]) -> None:
    """Keep an agent's report; it replaces the earlier ones of the same disks.

    Raises:
        WrongStateError: the migration is being imported or has ended.
    """
    states.require("report unreadable sectors", State(migration.state), states.BEFORE_IMPORT)
    disks = {disk.index: disk for disk in migration.disks}
    before = sum(disk.unreadable_bytes for disk in migration.disks)
    for report in reports:
        disk, ranges = disks[report.index], [list(found) for found in report.ranges]
        if (disk.unreadable_bytes, disk.unreadable_ranges) != (report.bytes, ranges):
            disk.unreadable_bytes, disk.unreadable_ranges = report.bytes, ranges
            migration.updated_at = now()
            detail = {"disk": disk.index, "bytes": report.bytes, "ranges": ranges[:_SHOWN], "in_all": len(ranges)}
            audit.write(session, actor, ("migration", migration.id), "unreadable", detail=detail)
    if sum(disk.unreadable_bytes for disk in migration.disks) > before:
        _take_back(session, migration)


def note_verified(session: Session, migration: Migration, disk: Disk, chunks: int) -> None:
    """Keep the number of chunks with unreadable sectors that lie in staging."""
    if chunks > (disk.unreadable_chunks or 0) and not disk.unreadable_bytes:
        _take_back(session, migration)
    disk.unreadable_chunks = chunks


def require_accepted(migration: Migration) -> None:
    """Raise UnreadableSectorsError if sectors are missing and nobody has accepted that."""
    lost = [
        {"index": disk.index, "bytes": disk.unreadable_bytes, "chunks": disk.unreadable_chunks or 0}
        for disk in migration.disks
        if disk.unreadable_bytes or disk.unreadable_chunks
    ]
    if lost and not migration.accept_unreadable:
        raise UnreadableSectorsError(lost)


def _take_back(session: Session, migration: Migration) -> None:
    """Who accepted did not know of this."""
    if migration.accept_unreadable:
        migration.accept_unreadable = False
        detail = {"accept_unreadable": False, "message": "more turned out to be unreadable than was accepted"}
        audit.write(session, "gateway", ("migration", migration.id), "change", detail=detail)
