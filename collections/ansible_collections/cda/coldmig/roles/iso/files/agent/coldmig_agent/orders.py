# SPDX-License-Identifier: GPL-3.0-or-later
"""What people at the consoles want of the agent: kept here until the agent's own thread comes by and does it."""

from __future__ import annotations

import threading


class CanceledHereError(Exception):
    """A person at the machine gave this migration up."""


class DisksChosenError(Exception):
    """A person at the machine chose other disks: what was registered does not hold any more."""


class BeginAgainError(Exception):
    """A person at the machine wants a new migration after the end of the last one."""


class Orders:
    """Given by the consoles' threads, taken by the agent's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._retry = False
        self._cancel = False
        self._chosen = False
        self._again = False
        self._left_out: frozenset[str] = frozenset()
        self._holders: set[object] = set()

    def retry(self) -> None:
        """Do not wait any longer for the next try."""
        with self._lock:
            self._retry = True

    def cancel(self) -> None:
        """Give this machine's migration up."""
        with self._lock:
            self._cancel = True

    def begin_again(self) -> None:
        """After an end: begin a new migration."""
        with self._lock:
            self._again = True

    def check_again(self) -> None:
        """After an end. Raises BeginAgainError where that is wanted, or where other disks were chosen."""
        with self._lock:
            wanted = self._again or self._chosen
        if wanted:
            raise BeginAgainError

    def leave_out(self, disks: frozenset[str]) -> None:
        """Copy all disks but these (paths such as ``/dev/sda``), in place of what was chosen before."""
        with self._lock:
            self._chosen |= disks != self._left_out
            self._left_out = disks

    @property
    def left_out(self) -> frozenset[str]:
        """Paths of the disks that are not to be copied."""
        with self._lock:
            return self._left_out

    def hold(self, who: object, wanted: bool) -> None:
        """While somebody holds, the machine is not registered: the disks are being chosen."""
        with self._lock:
            (self._holders.add if wanted else self._holders.discard)(who)

    @property
    def held(self) -> bool:
        """Whether the registration has to wait for a person."""
        with self._lock:
            return bool(self._holders)

    @property
    def pressing(self) -> bool:
        """Whether there is an order for which even a running copy stops."""
        with self._lock:
            return self._cancel or self._chosen

    def take_retry(self) -> bool:
        """Whether to try again at once; asked once."""
        with self._lock:
            wanted, self._retry = self._retry, False
        return wanted

    def clear(self) -> None:
        """A new beginning: what was ordered before is done or moot. The choice of disks stays."""
        with self._lock:
            self._retry = self._cancel = self._chosen = self._again = False

    def check(self) -> None:
        """Raises CanceledHereError or DisksChosenError where that was ordered; each once."""
        with self._lock:
            cancel, self._cancel = self._cancel, False
            chosen, self._chosen = self._chosen, False
        if cancel:
            raise CanceledHereError
        if chosen:
            raise DisksChosenError
