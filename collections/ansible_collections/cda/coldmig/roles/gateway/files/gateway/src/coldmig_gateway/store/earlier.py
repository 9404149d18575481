# SPDX-License-Identifier: GPL-3.0-or-later
"""Earlier attempts of the same machine: what their staging holds need not cross the wire again.

The same machine is: the same organization and template, the same UUID in its firmware, and a disk of equal size with
an equal serial number (without one: at the same place in the list). A copy is checked chunk by chunk against digests,
so two machines that are alike by mistake cost a few questions and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from coldmig_gateway.store.models import Disk, Migration
from coldmig_gateway.store.states import State

MAX_EARLIER = 4
_LOOKED_AT = 32  # attempts, so that a machine that boots in circles costs no more and no more

# What firmware says that was never given a UUID.
_NO_UUID = frozenset(
    {
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "03000200-0400-0500-0006-000700080009",
    }
)


def machine_uuid(found: str | None) -> str | None:
    """The UUID that tells machines apart, or None."""
    uuid = (found or "").lower()
    return uuid if uuid and uuid not in _NO_UUID else None


def attempts(session: Session, migration: Migration) -> Sequence[Migration]:
    """Attempts of the same machine before this one, newest first."""
    if migration.machine_uuid is None:
        return ()
    query = (
        select(Migration)
        .where(
            Migration.machine_uuid == migration.machine_uuid,
            Migration.template_id == migration.template_id,
            Migration.organization == migration.organization,
            Migration.created_at < migration.created_at,
            Migration.id != migration.id,
            Migration.state != State.ASSESSED,
        )
        .order_by(Migration.created_at.desc(), Migration.id.desc())
        .limit(_LOOKED_AT)
    )
    return [found for found in session.scalars(query) if shares_a_disk(migration, found)]


def shares_a_disk(one: Migration, other: Migration) -> bool:
    """Whether a disk of one is, by size and serial number, a disk of the other."""
    return any(_same_disk(disk, other.disks) is not None for disk in one.disks)


def assign(session: Session, migration: Migration, staging: Path) -> Sequence[Migration]:
    """Note for each disk which earlier attempts have something staged of it; gives all earlier attempts."""
    found = attempts(session, migration)
    for disk in migration.disks:
        places = []
        for attempt in found:
            same = _same_disk(disk, attempt.disks)
            if same is not None and attempt.staging_removed_at is None and _is_staged(staging, attempt, same):
                places.append([attempt.id, same.index])
        disk.earlier = places[:MAX_EARLIER]
    return found


def _same_disk(disk: Disk, others: Sequence[Disk]) -> Disk | None:
    same = [other for other in others if (other.size_bytes, other.serial) == (disk.size_bytes, disk.serial)]
    at_its_place = [other for other in same if other.index == disk.index]
    if at_its_place:
        return at_its_place[0]
    # Several disks of one serial number (some controllers give all the same) are told apart by their place only.
    return same[0] if disk.serial and len(same) == 1 else None


def _is_staged(staging: Path, attempt: Migration, disk: Disk) -> bool:
    return (staging / attempt.id / f"disk-{disk.index}.pack").exists()
