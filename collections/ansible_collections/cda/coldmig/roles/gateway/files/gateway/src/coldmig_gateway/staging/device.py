# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a file from its device, past what the kernel has in memory of it: only that proves what will be there later.

O_DIRECT where the file system has it. Elsewhere (tmpfs) the kernel is asked to forget its copy first.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections import deque
from pathlib import Path

from coldmig_gateway.staging.errors import storage_error

_ALIGN = 4096
_NOTHING = memoryview(b"")
#: Buffers that are used again: fresh ones come from the kernel page by page, filled with zeros.
_spare: deque[mmap.mmap] = deque()
_SPARE = 4


class DeviceReader:
    """Reads ranges of one file, best in ascending order: what was read beyond one serves the next. For one thread."""

    #: What is read at once where ranges follow each other.
    WINDOW = 4 << 20
    #: The longest range that can be asked for.
    MOST = 2 << 20

    def __init__(self, path: Path, fd: int) -> None:
        """``fd`` is the file, open for reading; it must stay open. ``path`` is for messages."""
        self._path = path
        self._file = fd
        self._direct: int | None = None
        with contextlib.suppress(OSError):
            self._direct = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        # The file's bytes ``_low`` to ``_high`` lie in the buffer, ending at ``_end``. Each window is read to the same
        # aligned place; what is left of the one before is moved in front of it.
        self._memory = self._take_memory()
        self._buffer = memoryview(self._memory)
        self._place = self.MOST + _ALIGN
        self._low = self._high = 0
        self._end = self._place

    @classmethod
    def _take_memory(cls) -> mmap.mmap:
        try:
            return _spare.pop()
        except IndexError:
            return mmap.mmap(-1, cls.MOST + _ALIGN + cls.WINDOW)

    def read(self, offset: int, length: int) -> memoryview:
        """``length`` bytes at ``offset``, at most MOST; fewer at the end of the file. Valid until the next call.

        Raises StagingError.
        """
        if not self._low <= offset <= self._high:
            self._low = self._high = offset - offset % _ALIGN
            self._end = self._place
        while self._high < offset + length:
            if not self._read_window(offset):
                break
        start = self._end - (self._high - offset)
        return self._buffer[start : min(start + length, self._end)] if offset <= self._high else _NOTHING

    def _read_window(self, offset: int) -> bool:
        """Reads on after ``_high``, keeping what is there from ``offset`` on. False at the end of the file."""
        # After the end of a file that has grown since, the last read did not end at a multiple.
        again = self._high % _ALIGN
        self._high -= again
        self._end -= again
        self._low = min(max(self._low, offset), self._high)
        kept = self._high - self._low
        self._buffer[self._place - kept : self._place] = self._buffer[self._end - kept : self._end]
        self._end = self._place
        count = self._fill(self._buffer[self._place :])
        self._high += count
        self._end += count
        return count > again

    def _fill(self, target: memoryview) -> int:
        try:
            if self._direct is not None:
                try:
                    return os.preadv(self._direct, [target], self._high)
                except OSError as error:
                    if error.errno != errno.EINVAL:  # a file system that opens so, but does not read so
                        raise
                    os.close(self._direct)
                    self._direct = None
            os.posix_fadvise(self._file, self._high, len(target), os.POSIX_FADV_DONTNEED)
            return os.preadv(self._file, [target], self._high)
        except OSError as error:
            raise storage_error(f"{self._path}: read at {self._high}", error) from error

    def close(self) -> None:
        """Closes what was opened besides the file itself. What was read is not valid any more."""
        if len(_spare) < _SPARE:
            _spare.append(self._memory)
        self._buffer = _NOTHING
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None
