# SPDX-License-Identifier: GPL-3.0-or-later
"""What the data plane asks of the site's state: who may do what, where content goes, and what to write down.

The store implements ``Site``. Every method may block (it is called in a thread), is one transaction, and is audited
where it changes something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """The same disk in an earlier attempt of the same machine: what its staging holds need not be sent again."""

    migration_id: str
    index: int


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """One disk to be copied. ``chunks`` is ``coldmig_wire.geometry.chunk_count(size_bytes)``.

    ``earlier`` are its earlier attempts, newest first, at most 4; never those of another organization. They may be in
    any state, and their staging may be removed at any time.
    """

    index: int
    size_bytes: int
    chunks: int
    earlier: Sequence[EarlierDisk] = ()


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """Where a migration stands and where its content goes: ``<staging_dir>/<migration id>/disk-<index>.pack``."""

    state: str
    disks: Sequence[DiskPlan] = field(default_factory=tuple)
    staging_dir: Path = Path()
    template_id: str = ""
    organization: str = ""


@dataclass(frozen=True, slots=True)
class Rates:
    """What agents may send, in bytes per second: all together, and those of one template together; None: no limit."""

    site: int | None = None
    templates: Mapping[str, int] = field(default_factory=dict)


class UnknownMigrationError(LookupError):
    """There is no such migration (any more)."""


class WrongStateError(RuntimeError):
    """The migration is in a state in which this is not allowed; ``state`` names it."""

    def __init__(self, state: str) -> None:
        super().__init__(f"the migration is {state}")
        self.state = state


class QueuedError(RuntimeError):
    """As many copies run as may; ``place`` counts from 1, of ``waiting`` migrations that wait."""

    def __init__(self, place: int, waiting: int) -> None:
        super().__init__(f"no copy slot is free: place {place} of {waiting}")
        self.place = place
        self.waiting = waiting


class Site(Protocol):
    """The site's state as the data plane sees it. ``migration_id`` is a UUID in its canonical text form."""

    def authenticate(self, token: str) -> Principal | None:
        """Who the token stands for; None if unknown, expired or revoked."""

    def copy_plan(self, migration_id: str) -> CopyPlan:
        """State and disks of a migration. Raises UnknownMigrationError."""

    def rates(self) -> Rates:
        """The limits as they are now; asked for every few seconds."""

    def copying(self) -> Sequence[str]:
        """The migrations in state copying: asked for once, when the data plane starts."""

    def begin_copying(self, migration_id: str) -> None:
        """confirmed → copying; nothing if it is copying already. Raises WrongStateError, QueuedError."""

    def disk_verified(  # noqa: PLR0917 - the contract with the store
        self,
        migration_id: str,
        index: int,
        merkle_root: str,
        vmdk_bytes: int,
        data_chunks: int,
        stored_bytes: int,
        unreadable_chunks: int,
    ) -> None:
        """Every chunk of the disk was re-read from staging and had its digest.

        ``merkle_root`` is ``coldmig_wire.merkle``'s, 64 hexadecimal digits; ``vmdk_bytes`` the length of the image, 0
        if there can be none; ``data_chunks`` the chunks that are not zeros; ``stored_bytes`` what they take in packs,
        linked ones included; ``unreadable_chunks`` those in which the source's disk gave read errors.
        """

    def copied(self, migration_id: str) -> None:
        """copying → copied: all disks are verified. Raises WrongStateError."""

    def image_damaged(self, migration_id: str, index: int, detail: str) -> None:
        """A chunk of a verified disk cannot be read from staging any more; its image was cut off and cannot be made.

        The chunk is dropped from the staging. A migration that is copied or importing must fail with a reason from
        which a person sees that booting the source again brings what is missing; else it is only noted.
        """

    def record(self, migration_id: str, event: str, detail: str) -> None:
        """Adds an entry to the migration's audit trail. ``event`` is a slug such as ``chunk-damaged``."""
