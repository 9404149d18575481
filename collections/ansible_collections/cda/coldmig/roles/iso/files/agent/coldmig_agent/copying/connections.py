# SPDX-License-Identifier: GPL-3.0-or-later
"""The connections that senders take turns with, and what the kernel knows of them while they are at work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from coldmig_agent.api import DataClient
from coldmig_agent.copying.channel import Closed
from coldmig_agent.copying.meter import Differences
from coldmig_agent.site import SiteError

LOG = logging.getLogger(__name__)

#: Unacknowledged data and no sign of life for so long: the way is cut, and a new connection may find another.
DEAD_SECONDS = 25.0
_WAIT_SECONDS = 0.5


class Connections:
    """Up to ``limit()`` connections that send at once, and one more whose sender only awaits the site's answer: making
    things durable takes the site a while, in which the link shall not idle. They are kept open for the next sender.
    """

    def __init__(self, make: Callable[[], DataClient], limit: Callable[[], int]) -> None:
        self._make = make
        self._limit = limit
        self._changed = threading.Condition()
        self._idle: list[DataClient] = []
        self._used: set[DataClient] = set()
        self._awaiting: set[DataClient] = set()
        self._closed = False
        self._growth = Differences()

    def warm_up(self) -> None:
        """Open a connection for whoever sends first. Whether that works is that sender's business; raises Closed."""
        client = self.take()
        try:
            client.open()
        except SiteError as error:
            LOG.info("opening a connection: %s", error)
        finally:
            self.give(client)

    def take(self) -> DataClient:
        """Wait for a connection. Raises Closed after :meth:`abort`."""
        with self._changed:
            self._wait(1)
            client = self._idle.pop() if self._idle else self._make()
            self._used.add(client)
            return client

    def _wait(self, more: int) -> None:
        """Until there may be one more that sends, ``more`` of them not in use yet."""
        while not self._closed:
            limit = self._limit()
            if len(self._used) - len(self._awaiting) < limit and len(self._used) + more <= limit + 1:
                return
            self._changed.wait(_WAIT_SECONDS)  # the limit changes without a word
        raise Closed

    def sent(self, client: DataClient) -> None:
        """Everything was sent; its answer is awaited."""
        with self._changed:
            self._awaiting.add(client)
            self._changed.notify()

    def send_again(self, client: DataClient) -> None:
        """The answer has come and there is more to send. Raises Closed."""
        with self._changed:
            if client in self._awaiting:
                self._wait(0)
                self._awaiting.discard(client)

    def give(self, client: DataClient) -> None:
        """Hand a connection back."""
        with self._changed:
            self._used.discard(client)
            self._awaiting.discard(client)
            if len(self._used) + len(self._idle) > self._limit() or self._closed:
                client.close()
            else:
                self._idle.append(client)
            self._changed.notify()

    def measure(self) -> tuple[int, float | None]:
        """Since the last call: bytes that the other end acknowledged, and the share of the time with unsent data in
        which it did not read; None if unknown.
        """
        busy = unread = acknowledged = 0.0
        for client in self._working():
            info = client.tcp_info()
            if info is not None:
                busy += self._growth.since((client, info.socket, "busy"), info.busy_seconds)
                unread += self._growth.since((client, info.socket, "unread"), info.unread_seconds)
                acknowledged += self._growth.since((client, info.socket, "sent"), info.acknowledged_bytes)
        return int(acknowledged), min(1.0, unread / busy) if busy > 0 else None

    def cut_dead(self) -> float | None:
        """Cut the connections on which nothing is acknowledged any more; the longest silence of any, in seconds.

        None when all are alive. The kernel itself gives up only after many minutes.
        """
        silences = []
        for client in self._working():
            info = client.tcp_info()
            if info is None or not info.unacknowledged or info.silent_seconds < DEAD_SECONDS:
                continue
            silences.append(info.silent_seconds)
            client.cut()
        return max(silences, default=None)

    def _working(self) -> list[DataClient]:
        with self._changed:
            return list(self._used)

    def abort(self) -> None:
        """Nobody gets a connection any more; requests that are under way are cut."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            used = list(self._used)
        for client in used:
            client.cut()

    def close(self) -> None:
        """Close what is idle."""
        with self._changed:
            self._closed = True
            for client in self._idle:
                client.close()
            self._idle.clear()
