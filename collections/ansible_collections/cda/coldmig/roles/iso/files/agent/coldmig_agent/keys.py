# SPDX-License-Identifier: GPL-3.0-or-later
"""Single key presses on the operator's consoles."""

from __future__ import annotations

import logging
import os
import select
import termios
import time
from collections.abc import Sequence
from pathlib import Path

LOG = logging.getLogger(__name__)

_ESCAPE = b"\x1b"
_REST_SECONDS = 0.05
_MAX = 64


class Keys:
    """Reads keys without echo and without waiting for Enter; a context manager that leaves the terminals as they were.

    A console that cannot be opened, is no terminal, or goes away is left out.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._before: dict[int, list[object]] = {}
        self._poll = select.poll()
        for path in paths:
            try:
                self._open(path)
            except (OSError, termios.error) as error:
                LOG.info("no keys from %s: %s", path, error)

    def __enter__(self) -> Keys:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in list(self._before):
            self._close(fd)

    def read(self, seconds: float) -> str:
        """The next key as one character in lower case; empty when none came in this time.

        Keys that send more than one character (arrows, functions, answers of the terminal itself) are ``"\\x1b"``.
        """
        deadline = time.monotonic() + seconds
        while True:
            left = max(0.0, deadline - time.monotonic())
            if not self._before:
                time.sleep(left)
                return ""
            for fd, _events in self._poll.poll(left * 1000):
                if key := self._key(fd):
                    return key
            if left <= 0:
                return ""

    def _open(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            before = termios.tcgetattr(fd)
            settings = list(before)
            settings[3] &= ~(termios.ICANON | termios.ECHO)
            termios.tcsetattr(fd, termios.TCSANOW, settings)
            termios.tcflush(fd, termios.TCIFLUSH)  # what was typed before was no answer
        except termios.error:
            os.close(fd)
            raise
        self._before[fd] = before
        self._poll.register(fd, select.POLLIN)

    def _key(self, fd: int) -> str:
        try:
            data = os.read(fd, _MAX)
        except BlockingIOError:
            return ""
        except OSError:
            data = b""
        if not data:  # nobody is at its other end any more
            self._close(fd)
            return ""
        if data.startswith(_ESCAPE):
            # On a serial line the rest of it comes later, and may well be a letter.
            time.sleep(_REST_SECONDS)
            termios.tcflush(fd, termios.TCIFLUSH)
            return "\x1b"
        return data[:1].decode("ascii", "replace").lower()

    def _close(self, fd: int) -> None:
        self._poll.unregister(fd)
        try:
            termios.tcsetattr(fd, termios.TCSANOW, self._before.pop(fd))  # type: ignore[arg-type]
        except termios.error as error:
            LOG.info("a console went away: %s", error)
        os.close(fd)
