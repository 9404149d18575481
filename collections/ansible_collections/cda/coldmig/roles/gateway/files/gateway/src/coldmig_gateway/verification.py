# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a staged copy again, from the device, and compares it with what the database says of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coldmig_gateway.errors import GatewayError
from coldmig_gateway.staging.disk import DiskStaging
from coldmig_gateway.staging.errors import StagingBusyError, StagingError
from coldmig_gateway.staging.verify import verify_disk
from coldmig_gateway.store import migrations
from coldmig_gateway.store.database import Database
from coldmig_gateway.store.states import State

#: A running service keeps a disk open until a minute after it was last used.
PATIENCE_SECONDS = 90.0


class VerificationError(GatewayError):
    """The copy cannot be read at all."""


@dataclass(frozen=True, slots=True)
class DiskResult:
    """What was found on one disk."""

    index: int
    good: bool
    text: str

    def __str__(self) -> str:
        return f"disk {self.index}: {'good' if self.good else 'NOT GOOD'}: {self.text}"


@dataclass(frozen=True, slots=True)
class _Expected:
    index: int
    size: int
    merkle_root: str | None


def verify(
    database: Database, staging: Path, migration_id: str, patience: float = PATIENCE_SECONDS
) -> Sequence[DiskResult]:
    """Check all disks of a migration. Takes as long as reading them takes.

    Waits up to ``patience`` seconds for the service to let go of a disk, unless it is being copied.

    Raises:
        NotFoundError: there is no such migration.
        VerificationError: a disk is not staged, is being copied now, or its pack is damaged as a whole.
    """
    with database.read() as session:
        row = migrations.get(session, None, migration_id)
        disks = [
            _Expected(disk.index, disk.size_bytes, disk.merkle_root if disk.verified else None) for disk in row.disks
        ]
        if row.state == State.COPYING:
            patience = 0
    return [_verify_disk(staging, migration_id, disk, patience) for disk in disks]


def _verify_disk(staging: Path, migration_id: str, expected: _Expected, patience: float) -> DiskResult:
    # Opening would make an empty one.
    if not (staging / migration_id / f"disk-{expected.index}.pack").exists():
        raise VerificationError(f"nothing is staged of disk {expected.index} of migration {migration_id}")
    try:
        disk = _open(staging, migration_id, expected, patience)
    except StagingError as error:
        raise VerificationError(f"disk {expected.index} of migration {migration_id}: {error}") from error
    try:
        if not disk.complete:
            return DiskResult(expected.index, False, f"{disk.have_chunks} of {disk.chunks} chunks are there")
        found = verify_disk(disk)
    finally:
        disk.close()
    if found.damaged:
        return DiskResult(expected.index, False, "; ".join(str(error) for error in found.damaged[:10]))
    if expected.merkle_root is not None and expected.merkle_root != found.merkle_root:
        return DiskResult(expected.index, False, f"Merkle root is {found.merkle_root}, was {expected.merkle_root}")
    unreadable = f", {found.unreadable_chunks} chunks with sectors that the source could not read"
    return DiskResult(
        expected.index, True, f"Merkle root {found.merkle_root}{unreadable if found.unreadable_chunks else ''}"
    )


def _open(staging: Path, migration_id: str, expected: _Expected, patience: float) -> DiskStaging:
    """Raises StagingError."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return DiskStaging(staging, migration_id, expected.index, expected.size)
        except StagingBusyError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(1)
