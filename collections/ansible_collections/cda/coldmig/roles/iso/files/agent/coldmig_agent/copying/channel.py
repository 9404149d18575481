# SPDX-License-Identifier: GPL-3.0-or-later
"""A bounded queue between threads that can end (all was put) or be aborted (nobody wants it any more)."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):  # noqa: N818 - an ordinary end, not an error
    """The channel ended or was aborted."""


class Channel(Generic[T]):
    """Holds at most ``size`` items."""

    def __init__(self, size: int) -> None:
        self._items: deque[T] = deque()
        self._size = size
        self._changed = threading.Condition()
        self._ended = False
        self._aborted = False

    def put(self, item: T) -> None:
        """Wait for room. Raises Closed after :meth:`abort`."""
        with self._changed:
            while len(self._items) >= self._size and not self._aborted:
                self._changed.wait()
            if self._aborted:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def get(self, timeout: float) -> T | None:
        """The next item; None after ``timeout`` seconds without one. Raises Closed when there will be none."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._items:
                if self._ended or self._aborted:
                    raise Closed
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)
            if self._aborted:
                raise Closed
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def take(self) -> T:
        """The next item, however long it takes. Raises Closed."""
        while (item := self.get(60.0)) is None:
            continue
        return item

    def end(self) -> None:
        """Nothing more will be put; what is there can still be taken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Wake everybody up; what is there is lost."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()
