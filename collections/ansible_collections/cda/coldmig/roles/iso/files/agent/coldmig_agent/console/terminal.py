# SPDX-License-Identifier: GPL-3.0-or-later
"""A terminal that is written without ever waiting for it: a serial line may have nobody at its other end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import struct
import termios
import time
from pathlib import Path

_MAX_PENDING = 32 << 10
_MAX_READ = 1024
_GONE = frozenset({errno.EIO, errno.ENXIO, errno.EBADF})


class Terminal:
    """A console's device, or a file in its place (which only takes what is written). Raises OSError when opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending = b""
        self._mode: tuple[bool, bool] | None = None
        self._fd, self._input = self._open()
        self._before: list[object] = []
        if self._input is not None:
            with contextlib.suppress(termios.error):
                self._before = list(termios.tcgetattr(self._input))

    def _open(self) -> tuple[int, int | None]:
        common = os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_APPEND
        output = os.open(self.path, os.O_WRONLY | common)
        if os.isatty(output):
            with contextlib.suppress(OSError):
                return output, os.open(self.path, os.O_RDONLY | common)
        return output, None

    def reopen(self) -> None:
        """Begin anew after a hang-up, which makes what is open useless: the kernel hangs a terminal up when a shell
        that had it for its own ends, or when a line's carrier goes."""
        try:
            opened = self._open()
        except OSError:
            return  # nobody is at its other end; what is open stays until somebody is
        for fd in (self._fd, self._input):
            if fd is not None:
                os.close(fd)
        self._fd, self._input = opened
        self._pending = b""
        if self._mode is not None:
            self._set(*self._mode)

    @property
    def takes_input(self) -> bool:
        """Whether somebody may type here."""
        return self._input is not None

    @property
    def drained(self) -> bool:
        """Whether everything that was written has left; tries to get on with it."""
        if self._pending:
            self.write("")
        return not self._pending

    def write(self, text: str) -> None:
        """Write text as it is: whoever calls this has cleaned what is foreign in it."""
        data = self._pending + text.encode("ascii", "replace")
        if len(data) > _MAX_PENDING:
            data = b"\n[...]\n" + data[-_MAX_PENDING // 2 :]
        if not data:
            return
        try:
            self._pending = data[os.write(self._fd, data) :]
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EIO, errno.EPIPE}:
                raise
            self._pending = data

    def size(self) -> tuple[int, int]:
        """Columns and rows as the kernel knows them; zeros where it does not, as on serial lines."""
        try:
            rows, columns = struct.unpack("HH4x", fcntl.ioctl(self._fd, termios.TIOCGWINSZ, bytes(8)))
        except OSError:
            return 0, 0
        return columns, rows

    def read(self, seconds: float) -> bytes:
        """What was typed, waiting so long for it. Without somebody who could type it only waits."""
        if self._input is None:
            time.sleep(seconds)
            return b""
        poll = select.poll()
        poll.register(self._input, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return b""
        try:
            data = os.read(self._input, _MAX_READ)
        except BlockingIOError:
            return b""
        except OSError as error:
            if error.errno not in _GONE:
                raise
            data = b""
        if not data:
            time.sleep(seconds)
            self.reopen()
        return data

    def keys(self) -> None:
        """From now on every key comes at once, and none is echoed."""
        self._mode = (False, False)
        self._set(*self._mode)

    def lines(self, *, echo: bool = True) -> None:
        """From now on a line comes when Enter is pressed; the terminal echoes (or not: for passwords) and edits."""
        self._mode = (True, echo)
        self._set(*self._mode)

    def forget(self) -> None:
        """What was typed so far was no answer."""
        if self._input is not None:
            with contextlib.suppress(termios.error):
                termios.tcflush(self._input, termios.TCIFLUSH)

    def restore(self) -> None:
        """The settings that it had."""
        self._mode = None
        if self._input is not None and self._before:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._input, termios.TCSANOW, self._before)  # type: ignore[arg-type]

    def close(self) -> None:
        """Leave the device as it was."""
        self.restore()
        if self._input is not None:
            os.close(self._input)
            self._input = None
        os.close(self._fd)

    def _set(self, lines: bool, echo: bool) -> None:
        if self._input is None:
            return
        with contextlib.suppress(termios.error):
            settings = termios.tcgetattr(self._input)
            settings[0] |= termios.ICRNL
            settings[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
            settings[3] |= (termios.ICANON | termios.ECHOE | termios.ECHOK) if lines else 0
            settings[3] |= termios.ECHO if echo else 0
            settings[1] |= termios.OPOST | termios.ONLCR
            settings[6][termios.VMIN], settings[6][termios.VTIME] = b"\x01", b"\x00"
            termios.tcsetattr(self._input, termios.TCSANOW, settings)
