# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose turn it is where places are few: round robin by migration, however many connections each has."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """A number of places; who waits for one is served in turn with the others, and first come first served among its
    own. Belongs to one event loop.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def acquire(self, whose: str) -> None:
        """Waits for a place."""
        if self._free and not self._waiting:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(whose, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Gives a place back."""
        self._free += 1
        while self._free and self._waiting:
            whose, places = self._waiting.popitem(last=False)
            place = places.popleft()
            if places:
                self._waiting[whose] = places
            if not place.done():
                self._free -= 1
                place.set_result(None)


class Bounded:
    """At most so many at a time for each migration; the others wait."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._turns: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def one(self, whose: str) -> AsyncIterator[None]:
        """Waits until it is one of them."""
        semaphore, users = self._turns.get(whose) or (asyncio.Semaphore(self._most), 0)
        self._turns[whose] = semaphore, users + 1
        try:
            async with semaphore:
                yield
        finally:
            semaphore, users = self._turns[whose]
            if users == 1:
                del self._turns[whose]
            else:
                self._turns[whose] = semaphore, users - 1
