# SPDX-License-Identifier: GPL-3.0-or-later
"""One runner at a time works on the destination of a migration.

A claim holds for some seconds and is renewed while its runner works. The claim of one that was killed ends by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from coldmig_gateway.clock import now
from coldmig_gateway.store.errors import ClaimedError
from coldmig_gateway.store.models import Migration


@dataclass(frozen=True, slots=True)
class Claim:
    """Who works on a migration. ``run`` is for people, for example the address of a CI job."""

    run: str
    since: datetime
    until: datetime


def of(migration: Migration) -> Claim | None:
    """The claim that holds now."""
    run, since, until = migration.run, migration.run_since, migration.run_until
    if run is None or since is None or until is None or until <= now():
        return None
    return Claim(run, since, until)


def require_free(migration: Migration, holder: str | None) -> None:
    """Raise ClaimedError when somebody else than ``holder`` works on it. None is nobody that could hold a claim."""
    claim = of(migration)
    if claim is not None and (holder is None or migration.run_holder != holder):
        raise ClaimedError(migration.id, claim.run, claim.since, claim.until)


def take(migration: Migration, run: str, holder: str, seconds: int) -> bool:
    """Take the claim, or renew it; says whether it is a new one. The row must be locked. Raises ClaimedError."""
    require_free(migration, holder)
    new = of(migration) is None
    moment = now()
    if new:
        migration.run, migration.run_holder, migration.run_since = run, holder, moment
    migration.run_until = moment + timedelta(seconds=seconds)
    return new


def release(migration: Migration) -> None:
    """Nobody works on it any more."""
    migration.run = migration.run_holder = migration.run_since = migration.run_until = None
