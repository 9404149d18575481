# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole ``Site`` in memory: the rules of the real one without its database."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from coldmig_gateway.dataplane.site import (
    CopyPlan,
    DiskPlan,
    Principal,
    QueuedError,
    Rates,
    UnknownMigrationError,
    WrongStateError,
)

PROVIDER = "cm1_pro_provider"
ORGANIZATION = "cm1_org_tenant"


class Verified(NamedTuple):
    merkle_root: str
    vmdk_bytes: int
    data_chunks: int
    stored_bytes: int
    unreadable_chunks: int


@dataclass
class MemoryMigration:
    disks: tuple[DiskPlan, ...]
    state: str = "confirmed"
    verified: dict[int, Verified] = field(default_factory=dict)
    records: list[tuple[str, str]] = field(default_factory=list)
    template_id: str = ""
    queued: tuple[int, int] | None = None


class MemorySite:
    def __init__(self, staging_dir: Path) -> None:
        self.staging_dir = staging_dir
        self.migrations: dict[str, MemoryMigration] = {}
        self.limits = Rates()
        self._lock = threading.Lock()

    @staticmethod
    def token(migration_id: str) -> str:
        return f"cm1_ses_{migration_id}"

    def authenticate(self, token: str) -> Principal | None:
        if token == PROVIDER:
            return Principal("provider")
        if token == ORGANIZATION:
            return Principal("organization", "acme")
        migration_id = token.removeprefix("cm1_ses_")
        return Principal("session", "acme", migration_id) if migration_id in self.migrations else None

    def copy_plan(self, migration_id: str) -> CopyPlan:
        with self._lock:
            migration = self._find(migration_id)
            return CopyPlan(migration.state, migration.disks, self.staging_dir, migration.template_id, "acme")

    def rates(self) -> Rates:
        return self.limits

    def copying(self) -> Sequence[str]:
        with self._lock:
            return [name for name, migration in self.migrations.items() if migration.state == "copying"]

    def begin_copying(self, migration_id: str) -> None:
        queued = self._find(migration_id).queued
        if queued is not None:
            raise QueuedError(*queued)
        self._move(migration_id, ("confirmed", "copying"), "copying")

    def disk_verified(  # noqa: PLR0917 - the protocol's signature
        self,
        migration_id: str,
        index: int,
        merkle_root: str,
        vmdk_bytes: int,
        data_chunks: int,
        stored_bytes: int,
        unreadable_chunks: int,
    ) -> None:
        with self._lock:
            migration = self._find(migration_id)
            if migration.state != "copying":
                raise WrongStateError(migration.state)
            migration.verified[index] = Verified(merkle_root, vmdk_bytes, data_chunks, stored_bytes, unreadable_chunks)

    def copied(self, migration_id: str) -> None:
        assert len(self._find(migration_id).verified) == len(self._find(migration_id).disks)
        self._move(migration_id, ("copying",), "copied")

    def image_damaged(self, migration_id: str, index: int, detail: str) -> None:
        with self._lock:
            migration = self._find(migration_id)
            migration.records.append(("image-damaged", f"disk {index}: {detail}"))
            if migration.state in ("copied", "importing"):
                migration.state = "failed"

    def record(self, migration_id: str, event: str, detail: str) -> None:
        with self._lock:
            self._find(migration_id).records.append((event, detail))

    def _find(self, migration_id: str) -> MemoryMigration:
        try:
            return self.migrations[migration_id]
        except KeyError:
            raise UnknownMigrationError(migration_id) from None

    def _move(self, migration_id: str, allowed: tuple[str, ...], state: str) -> None:
        with self._lock:
            migration = self._find(migration_id)
            if migration.state not in allowed:
                raise WrongStateError(migration.state)
            migration.state = state
