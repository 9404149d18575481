# SPDX-License-Identifier: GPL-3.0-or-later
"""Bandwidth limits: token buckets for the site and for each template, emptied in equal shares by migrations.

Enforced by not reading: TCP then holds the sender back. Shares are equal between migrations, however many connections
each has; what one does not use the others get.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from coldmig_gateway.dataplane.site import Rates

#: A bucket holds what its rate gives in this time: exact on a busy loop, and no burst that hurts.
_BURST_SECONDS = 0.25
_SMALLEST_PIECE = 16 << 10
_LARGEST_PIECE = 1 << 20
_PIECES_A_SECOND = 8
_CREDIT_PIECES = 8
_ROUND_SECONDS = 0.001


@dataclass(slots=True)
class _Bucket:
    """May be overdrawn by one piece; nothing is given until that is made up for."""

    rate: int
    tokens: float
    filled: float

    def fill(self, now: float) -> None:
        """Adds what the time since the last filling is worth."""
        most = self.rate * _BURST_SECONDS
        self.tokens = min(most, self.tokens + (now - self.filled) * self.rate)
        self.filled = now

    @property
    def ready_in(self) -> float:
        """Seconds until something may be taken."""
        return 0.0 if self.tokens > 0 else (1 - self.tokens) / self.rate


@dataclass(slots=True)
class _Migration:
    """The pieces that a migration's connections want to read, and how much it has read."""

    template: str
    waiting: deque[tuple[int, asyncio.Future[None]]] = field(default_factory=deque)
    served: float = 0.0
    not_before: float = 0.0


class Shaper:
    """Says when a connection may read on. Belongs to one event loop."""

    def __init__(self) -> None:
        self._rates = Rates()
        self._site: _Bucket | None = None
        self._templates: dict[str, _Bucket] = {}
        self._migrations: dict[str, _Migration] = {}
        self._served = 0.0  # of the one that was served last: where newcomers begin
        self._timer: asyncio.TimerHandle | None = None

    def set_rates(self, rates: Rates) -> None:
        """The limits from now on; who waits is treated by them at once."""
        if rates == self._rates:
            return
        now = asyncio.get_running_loop().time()
        self._rates = rates
        self._site = _changed(self._site, rates.site, now)
        self._templates = {
            name: bucket
            for name, rate in rates.templates.items()
            if (bucket := _changed(self._templates.get(name), rate, now)) is not None
        }
        self._serve()

    def piece(self, template: str) -> int | None:
        """How much to ask for at a time; None if nothing limits this template's copies."""
        rates = [bucket.rate for bucket in self._buckets(template)]
        if not rates:
            return None
        return max(_SMALLEST_PIECE, min(_LARGEST_PIECE, min(rates) // _PIECES_A_SECOND))

    async def take(self, migration_id: str, template: str, count: int) -> None:
        """Waits until the migration may read ``count`` bytes."""
        if not self._buckets(template):
            return
        migration = self._migrations.get(migration_id)
        if migration is None:
            migration = self._migrations[migration_id] = _Migration(template)
        if not migration.waiting:
            # Who was away has no claim to what it did not use, except for the moment that it takes to ask again.
            migration.served = max(migration.served, self._served - _CREDIT_PIECES * count)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        migration.waiting.append((count, place))
        self._serve()
        await place

    def forget(self, migration_id: str) -> None:
        """No request of the migration is left."""
        migration = self._migrations.get(migration_id)
        if migration is not None and not any(not place.done() for _count, place in migration.waiting):
            del self._migrations[migration_id]

    def _buckets(self, template: str) -> list[_Bucket]:
        found = (self._site, self._templates.get(template))
        return [bucket for bucket in found if bucket is not None]

    def _serve(self) -> None:
        """Gives what may be given, to the migration that had least, and comes back when there is more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for bucket in (self._site, *self._templates.values()):
            if bucket is not None:
                bucket.fill(now)
        while True:
            wait: float | None = None
            least: _Migration | None = None
            for migration in self._migrations.values():
                while migration.waiting and migration.waiting[0][1].done():
                    migration.waiting.popleft()
                if not migration.waiting:
                    continue
                ready_in = max((bucket.ready_in for bucket in self._buckets(migration.template)), default=0.0)
                # One piece, then the others must have time to ask again.
                ready_in = max(ready_in, migration.not_before - now)
                if ready_in > 0:
                    wait = ready_in if wait is None else min(wait, ready_in)
                elif least is None or migration.served < least.served:
                    least = migration
            if least is None:
                if wait is not None:
                    self._timer = loop.call_later(wait, self._serve)
                return
            count, place = least.waiting.popleft()
            for bucket in self._buckets(least.template):
                bucket.tokens -= count
                least.not_before = now + _ROUND_SECONDS
            self._served = least.served
            least.served += count
            place.set_result(None)


def _changed(bucket: _Bucket | None, rate: int | None, now: float) -> _Bucket | None:
    if rate is None:
        return None
    if bucket is None:
        return _Bucket(rate, rate * _BURST_SECONDS, now)
    bucket.fill(now)
    bucket.rate = rate
    bucket.tokens = max(min(bucket.tokens, rate * _BURST_SECONDS), -float(rate))
    return bucket
