# SPDX-License-Identifier: GPL-3.0-or-later
"""The order in which copies begin when only so many may run at a time: the order of their confirmation.

Whose agent is silent neither takes a slot nor holds up the others. A copy that has begun is never stopped for the
limit, so more may run for a while after it was lowered.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from coldmig_gateway.store import limits
from coldmig_gateway.store.models import Migration
from coldmig_gateway.store.states import State

_RECENT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the queue a migration is, counted from 1, and how many are in it."""

    place: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Queue:
    """The confirmed migrations in their order, and how many of them may begin now (None: all)."""

    free: int | None
    order: Sequence[str]

    def place_of(self, migration_id: str) -> Place | None:
        """Its place, or None when it may begin."""
        if self.free is None or migration_id in self.order[: self.free] or migration_id not in self.order:
            return None
        return Place(self.order.index(migration_id) - self.free + 1, len(self.order) - self.free)


class RecentQueue:
    """The queue as it was at most a second ago, for those who only want to show it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = -math.inf
        self._queue = Queue(None, ())

    def get(self, session: Session, heard_since: datetime) -> Queue:
        """The queue; read anew when it is too old."""
        with self._lock:
            if time.monotonic() - self._read_at > _RECENT_SECONDS:
                self._queue, self._read_at = read(session, heard_since), time.monotonic()
            return self._queue


def read(session: Session, heard_since: datetime, *, besides: str | None = None) -> Queue:
    """The queue now. ``besides`` is a migration whose agent is there, whatever the database says."""
    limit = limits.get(session).max_concurrent_copies
    if limit is None:
        return Queue(None, ())
    there = func.coalesce(Migration.last_seen_at, Migration.created_at) >= heard_since
    running = select(func.count()).select_from(Migration).where(Migration.state == State.COPYING, there)
    order = (
        select(Migration.id)
        .where(Migration.state == State.CONFIRMED, or_(there, Migration.id == besides))
        .order_by(Migration.confirmed_at, Migration.id)
    )
    return Queue(max(0, limit - (session.scalar(running) or 0)), tuple(session.scalars(order)))
