# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong in the store, as types. The API turns each into a problem document."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from coldmig_gateway.assessment import Warning  # noqa: A004 - the name of the thing
from coldmig_gateway.errors import GatewayError


class StoreError(GatewayError):
    """Base of the expected errors of the store."""


class NotFoundError(StoreError):
    """There is no such thing, or the one who asks may not know of it (the two look alike on purpose)."""

    def __init__(self, kind: str, identifier: str) -> None:
        super().__init__(f"There is no {kind} {identifier!r}.")
        self.kind = kind
        self.identifier = identifier


class DuplicateNameError(StoreError):
    """A name that must be unique is taken."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"A {kind} named {name!r} exists already; names are unique within an organization.")
        self.name = name


class NotActivatedError(StoreError):
    """Cold migration is off, or not on for this organization."""


class CredentialError(StoreError):
    """A credential that is no longer good; ``slug`` says why: credential-expired, -revoked or -unknown."""

    def __init__(self, slug: str, message: str) -> None:
        super().__init__(message)
        self.slug = slug


class TemplateDeletedError(StoreError):
    """The ISO's template was deleted, so nothing may register with it any more."""


class LimitReachedError(StoreError):
    """A limit of the template or of the credential; ``limit`` is its name."""

    def __init__(self, limit: str, allowed: int, message: str) -> None:
        super().__init__(message)
        self.limit = limit
        self.allowed = allowed


class DiskTooLargeError(StoreError):
    """One disk can never fit: larger than the template allows or than the whole staging area. Bytes."""

    def __init__(self, message: str, *, needed: int, allowed: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.allowed = allowed


class StagingFullError(StoreError):
    """The staging area has not enough free space now. Bytes."""

    def __init__(self, *, needed: int, free: int) -> None:
        super().__init__(
            f"The site's staging area has too little free space: {needed} bytes are needed, {free} bytes are free. "
            "Remove ended migrations, wait for copies to be imported, or enlarge the staging area, then try again."
        )
        self.needed = needed
        self.free = free


class UnreadableSectorsError(StoreError):
    """The source could not read everything, and nobody has accepted that; ``disks`` says how much is missing."""

    def __init__(self, disks: Sequence[dict[str, int]]) -> None:
        lost = ", ".join(f"disk {disk['index']}: {disk['bytes']} bytes in {disk['chunks']} chunks" for disk in disks)
        super().__init__(
            f"The source's disks have sectors that could not be read; zeros stand for them ({lost}). "
            "Set accept_unreadable of the migration to import it as it is, or repair the source and copy it again."
        )
        self.disks = disks


class ClaimedError(StoreError):
    """Another runner works on the migration."""

    def __init__(self, migration_id: str, run: str, since: datetime, until: datetime) -> None:
        super().__init__(
            f"Another runner works on migration {migration_id}: {run}, since {since.isoformat(timespec='seconds')}. "
            f"Unless it goes on, its claim ends at {until.isoformat(timespec='seconds')}."
        )
        self.run = run
        self.since = since
        self.until = until


class NotStagedError(StoreError):
    """The staged copy was removed, so no VM can be made of it any more."""


class BlockedError(StoreError):
    """Warnings that nobody has accepted hold the migration back."""

    def __init__(self, warnings: Sequence[Warning]) -> None:
        told = "; ".join(str(warning) for warning in warnings)
        super().__init__(
            f"Warnings hold this migration back ({told}). Do what they say and boot the machine again, "
            "or accept them: name their codes in accept_warnings."
        )
        self.warnings = warnings


class SchemaError(StoreError):
    """The database was made by another version of the gateway, or was not made yet."""
