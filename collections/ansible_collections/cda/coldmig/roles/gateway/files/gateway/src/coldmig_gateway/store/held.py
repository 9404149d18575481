# SPDX-License-Identifier: GPL-3.0-or-later
"""Warnings that hold a migration back until somebody has accepted them."""

from __future__ import annotations

from coldmig_gateway import assessment
from coldmig_gateway.store.errors import BlockedError
from coldmig_gateway.store.models import Migration


def warnings(migration: Migration) -> list[assessment.Warning]:
    """What warns of this migration."""
    return assessment.warnings(migration.machine, migration.system, migration.accept_warnings)


def refresh(migration: Migration) -> None:
    """Note what holds it back; after every change of its system or of the warnings that are accepted.

    It is kept beside the description of the machine, which is large and which agents make us read every few seconds.
    """
    migration.blocked = assessment.blocking(warnings(migration))


def require_free(migration: Migration) -> None:
    """Raise BlockedError while a warning holds it back."""
    if migration.blocked:
        raise BlockedError([warning for warning in warnings(migration) if warning.blocks])
