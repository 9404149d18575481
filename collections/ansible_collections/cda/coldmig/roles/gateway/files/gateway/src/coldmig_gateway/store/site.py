# SPDX-License-Identifier: GPL-3.0-or-later
"""The site's state as the data plane sees it: implements ``coldmig_gateway.dataplane.site.Site`` on the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from coldmig_gateway.clock import now
from coldmig_gateway.dataplane.site import (
    CopyPlan,
    DiskPlan,
    EarlierDisk,
    Principal,
    QueuedError,
    Rates,
    UnknownMigrationError,
    WrongStateError,
)
from coldmig_gateway.principal import Role
from coldmig_gateway.store import audit, limits, migrations, principals, queue, states, transitions, unreadable
from coldmig_gateway.store.database import Database
from coldmig_gateway.store.errors import CredentialError, NotFoundError
from coldmig_gateway.store.models import Disk, Migration
from coldmig_gateway.store.presence import SILENT_AFTER, heard_since
from coldmig_gateway.store.states import Action, State

_ACTOR = "gateway"
_STAGING_DAMAGED = "staging-damaged"
# Every request of a copy asks for its plan, so no more is read than it needs, and the statements are made once.
_PLAN = select(Migration.state, Migration.template_id, Migration.organization).where(Migration.id == bindparam("value"))
_PLANNED_DISKS = (
    select(Disk.index, Disk.size_bytes, Disk.chunks, Disk.earlier)
    .where(Disk.migration_id == bindparam("value"))
    .order_by(Disk.index)
)
_NEEDS_STAGING = (State.COPIED, State.IMPORTING)


class DatabaseSite:
    """One transaction per call; every change is audited in it."""

    def __init__(
        self,
        database: Database,
        staging_dir: Path,
        *,
        silent_after: timedelta = SILENT_AFTER,
        started: datetime | None = None,
    ) -> None:
        """``started`` is when agents could first be heard of, by default now."""
        self._database = database
        self._staging_dir = staging_dir
        self._silent_after = silent_after
        self._started = started or now()

    def authenticate(self, token: str) -> Principal | None:
        """Who the token stands for; None if unknown, expired or revoked."""
        with self._database.read() as session:
            try:
                found = principals.authenticate(session, token)
            except CredentialError:
                return None
        migration_id = found.id if found.role is Role.SESSION else None
        return Principal(role=found.role.value, organization=found.organization, migration_id=migration_id)

    def copy_plan(self, migration_id: str) -> CopyPlan:
        """State and disks of a migration. Raises UnknownMigrationError."""
        with self._database.read() as session:
            found = session.execute(_PLAN, {"value": migration_id}).one_or_none()
            if found is None:
                raise UnknownMigrationError(f"There is no migration {migration_id!r}.")
            disks = session.execute(_PLANNED_DISKS, {"value": migration_id}).all()
        return CopyPlan(
            state=found.state,
            disks=tuple(
                DiskPlan(index, size, chunks, tuple(EarlierDisk(*place) for place in earlier))
                for index, size, chunks, earlier in disks
            ),
            staging_dir=self._staging_dir,
            template_id=found.template_id,
            organization=found.organization,
        )

    def rates(self) -> Rates:
        """The limits as they are now."""
        with self._database.read() as session:
            return Rates(limits.get(session).bandwidth_limit, limits.bandwidth_of_templates(session))

    def copying(self) -> Sequence[str]:
        """The migrations in state copying."""
        with self._database.read() as session:
            return tuple(session.scalars(select(Migration.id).where(Migration.state == State.COPYING)))

    def begin_copying(self, migration_id: str) -> None:
        """confirmed → copying; nothing if it is copying already. Raises WrongStateError, QueuedError."""
        with self._locked(migration_id) as (session, migration):
            if migration.state == State.CONFIRMED:
                # Copies begin one after the other, so that two cannot take the last slot.
                limits.get(session, lock=True)
                heard = heard_since(self._started, self._silent_after)
                place = queue.read(session, heard, besides=migration_id).place_of(migration_id)
                if place is not None:
                    raise QueuedError(place.place, place.waiting)
                migration.last_seen_at = now()
            transitions.apply(session, migration, Action.BEGIN_COPYING, _ACTOR)

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
        """Note what the verification of a disk found. Raises WrongStateError unless the migration is copying."""
        with self._locked(migration_id) as (session, migration):
            states.require("disk-verified", State(migration.state), frozenset({State.COPYING}))
            disk = next((disk for disk in migration.disks if disk.index == index), None)
            if disk is None:
                raise LookupError(f"migration {migration_id} has no disk {index}")
            disk.verified, disk.merkle_root = True, merkle_root
            unreadable.note_verified(session, migration, disk, unreadable_chunks)
            disk.vmdk_bytes, disk.data_chunks, disk.stored_bytes = vmdk_bytes, data_chunks, stored_bytes
            detail: dict[str, object] = {"disk": index, "merkle_root": merkle_root, "stored_bytes": stored_bytes}
            detail["unreadable_chunks"] = unreadable_chunks
            audit.write(session, _ACTOR, ("migration", migration_id), "disk-verified", detail=detail)

    def copied(self, migration_id: str) -> None:
        """copying → copied: all disks are verified. Raises WrongStateError."""
        with self._locked(migration_id) as (session, migration):
            unverified = [disk.index for disk in migration.disks if not disk.verified]
            if unverified:
                raise ValueError(f"migration {migration_id} cannot be 'copied': disks {unverified} are not verified")
            transitions.apply(session, migration, Action.COPIED, _ACTOR)

    def image_damaged(self, migration_id: str, index: int, detail: str) -> None:
        """A chunk of a verified disk is lost: the migration fails, unless it has ended before. Always audited."""
        with self._locked(migration_id) as (session, migration):
            message = f"disk {index}: {detail}"
            audit.write(session, _ACTOR, ("migration", migration_id), "image-damaged", detail={"message": message})
            if migration.state in _NEEDS_STAGING:
                text = (
                    f"The staged copy has been damaged on the site's storage ({message}), so no image of the disk can "
                    "be made. Boot the source from its ISO again: only what is missing is copied again. The site's "
                    "storage should be checked."
                )
                transitions.apply(session, migration, Action.FAIL, _ACTOR, because=(_STAGING_DAMAGED, text))

    def record(self, migration_id: str, event: str, detail: str) -> None:
        """Add an entry to the migration's audit trail."""
        with self._locked(migration_id) as (session, _migration):
            audit.write(session, _ACTOR, ("migration", migration_id), event, detail={"message": detail})

    @contextmanager
    def _locked(self, migration_id: str) -> Iterator[tuple[Session, Migration]]:
        with self._database.write() as session, _translated():
            yield session, migrations.get(session, None, migration_id, lock=True)


@contextmanager
def _translated() -> Iterator[None]:
    """The store's errors as those that the data plane knows."""
    try:
        yield
    except NotFoundError as error:
        raise UnknownMigrationError(str(error)) from error
    except states.WrongStateError as error:
        raise WrongStateError(error.state) from error
