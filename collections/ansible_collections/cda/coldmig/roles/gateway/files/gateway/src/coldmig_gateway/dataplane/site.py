# SPDX-License-Identifier: GPL-3.0-or-later
"""What the data plane asks of the site's state: who may do what, where content goes, and what to write down.

The store implements ``Site``. Every method may block (it is called in a thread), is one transaction, and is audited
where it changes something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

Role = Literal["provider", "organization", "iso", "session"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a bearer token stands for. ``migration_id`` is set for role ``session`` only."""

    role: Role
    organization: str | None = None
    migration_id: str | None = None


@dataclass(frozen=True, slots=True)
class EarlierDisk:
    """The same disk in an earlier, ended attempt of the same machine: its staging may serve REF frames."""

    migration_id: str
    index: int


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """One disk to be copied. ``chunks`` is ``coldmig_wire.geometry.chunk_count(size_bytes)``."""

    index: int
    size_bytes: int
    chunks: int
    earlier: EarlierDisk | None = None


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """Where a migration stands and where its content goes: ``<staging_dir>/<migration id>/disk-<index>.pack``."""

    state: str
    disks: Sequence[DiskPlan] = field(default_factory=tuple)
    staging_dir: Path = Path()


class UnknownMigrationError(LookupError):
    """There is no such migration (any more)."""


class WrongStateError(RuntimeError):
    """The migration is in a state in which this is not allowed; ``state`` names it."""

    def __init__(self, state: str) -> None:
        super().__init__(f"the migration is {state}")
        self.state = state


class Site(Protocol):
    """The site's state as the data plane sees it. ``migration_id`` is a UUID in its canonical text form."""

    def authenticate(self, token: str) -> Principal | None:
        """Who the token stands for; None if unknown, expired or revoked."""

    def copy_plan(self, migration_id: str) -> CopyPlan:
        """State and disks of a migration. Raises UnknownMigrationError."""

    def begin_copying(self, migration_id: str) -> None:
        """confirmed → copying; nothing if it is copying already. Raises WrongStateError."""

    def disk_verified(  # noqa: PLR0917 - the contract with the store
        self, migration_id: str, index: int, digest_hex: str, vmdk_bytes: int, data_chunks: int, stored_bytes: int
    ) -> None:
        """Every chunk of the disk was re-read from staging and had its digest.

        ``digest_hex`` is the disk digest (``DiskDigest``), ``vmdk_bytes`` the length of its image,
        ``data_chunks`` the chunks that are not zeros, ``stored_bytes`` the size of the pack.
        """

    def copied(self, migration_id: str) -> None:
        """copying → copied: all disks are verified. Raises WrongStateError."""

    def record(self, migration_id: str, event: str, detail: str) -> None:
        """Adds an entry to the migration's audit trail. ``event`` is a slug such as ``chunk-damaged``."""
