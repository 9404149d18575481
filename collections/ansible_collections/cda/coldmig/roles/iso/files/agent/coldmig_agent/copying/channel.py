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
        lock = threading.Lock()
        self._filled = threading.Condition(lock)
        self._emptied = threading.Condition(lock)
        self._ended = False
        self._aborted = False

    def put(self, item: T) -> None:
        """Wait for room. Raises Closed after :meth:`abort`."""
        with self._emptied:
            while len(self._items) >= self._size and not self._aborted:
                self._emptied.wait()
            if self._aborted:
                raise Closed
            self._items.append(item)
            self._filled.notify()

    def get(self, timeout: float) -> T | None:
        """The next item; None after ``timeout`` seconds without one. Raises Closed when there will be none."""
        with self._filled:
            if not self._items:
                deadline = time.monotonic() + timeout
                while not self._items:
                    if self._ended or self._aborted:
                        raise Closed
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return None
                    self._filled.wait(left)
            if self._aborted:
                raise Closed
            item = self._items.popleft()
            self._emptied.notify()
            return item

    @property
    def over(self) -> bool:
        """Nothing more can be taken, now or later."""
        return self._aborted or (self._ended and not self._items)

    def end(self) -> None:
        """Nothing more will be put; what is there can still be taken."""
        with self._filled:
            self._ended = True
            self._filled.notify_all()

    def abort(self) -> None:
        """Wake everybody up; what is there is lost."""
        with self._filled:
            self._aborted = True
            self._filled.notify_all()
            self._emptied.notify_all()
