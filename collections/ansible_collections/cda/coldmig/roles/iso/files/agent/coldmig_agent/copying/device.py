# SPDX-License-Identifier: GPL-3.0-or-later
"""One source disk, opened read-only behind the fence and read past the page cache where the kernel allows it.

Direct reads cost a quarter of the processor time of buffered ones, leave the live system's little memory alone, and are
what makes a second read a second look at the disk.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from coldmig_agent import fence

LOG = logging.getLogger(__name__)

#: Direct reads begin and end at multiples of this; the end of a disk is the exception.
ALIGNMENT = 4096
_BUFFERED_AHEAD = 4 << 20
#: Places that are tried before a disk is said to have gone.
_PLACES = 16
_BUFFERED_DROP = 16 << 20
#: A place on the medium cannot be read; its neighbours may well be.
_MEDIUM = frozenset({errno.EIO, errno.ENODATA, errno.EILSEQ, errno.ETIMEDOUT, errno.EREMOTEIO, errno.EBADMSG})


class SourceLostError(RuntimeError):
    """The disk does not answer any more, or is shorter than it was."""


class MediumError(OSError):
    """Something in the range cannot be read."""


class SourceDevice:
    """Reads of one disk; may be used by several threads."""

    def __init__(self, path: Path, size_bytes: int, sector: int = 512) -> None:
        """Raises FenceError, SourceLostError."""
        self.path = path
        self.size_bytes = size_bytes
        fence.protect(path)
        self.direct = True
        self._good = 0
        #: The least that can be read at once.
        self.granule = sector
        try:
            self._fd = self._open()
            self.is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
            found = os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            raise SourceLostError(f"{path} cannot be opened any more: {error.strerror}") from error
        if found < size_bytes:
            os.close(self._fd)
            raise SourceLostError(f"{path} has {found} bytes now; it had {size_bytes} when this machine was examined")

    def _open(self) -> int:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.direct = False
            self.granule = ALIGNMENT
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        if _refuses(fd, ALIGNMENT):
            os.close(fd)
            self.direct = False
            self.granule = ALIGNMENT
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        if _refuses(fd, self.granule):
            self.granule = ALIGNMENT
        return fd

    def close(self) -> None:
        """Close the disk."""
        os.close(self._fd)

    def check_fence(self) -> None:
        """Raises FenceError when the disk has become writable."""
        fence.check(self._fd, self.path)

    def read(self, views: Sequence[memoryview], offset: int, length: int) -> None:
        """Fill ``views`` with the ``length`` bytes at ``offset``.

        The last view must have room for ``length`` rounded up to ALIGNMENT. Raises MediumError, SourceLostError.
        """
        if not self.direct:
            os.posix_fadvise(self._fd, offset + length, _BUFFERED_AHEAD, os.POSIX_FADV_WILLNEED)
        try:
            done = os.preadv(self._fd, list(views), offset)
        except OSError as error:
            raise self._judged(error, offset) from error
        if done < length:
            self._rest(views, offset, done, length)
        self._good = offset
        if not self.direct:
            start = max(0, offset - _BUFFERED_DROP)
            os.posix_fadvise(self._fd, start, offset + length - start, os.POSIX_FADV_DONTNEED)

    def _rest(self, views: Sequence[memoryview], offset: int, done: int, length: int) -> None:
        """Go on after a read that ended early: before a bad place, at a signal, or because the disk has shrunk."""
        start = 0
        for view in views:
            end = start + len(view)
            while done < min(end, length):
                try:
                    count = os.preadv(self._fd, [view[done - start :]], offset + done)
                except OSError as error:
                    raise self._judged(error, offset + done) from error
                if count == 0:
                    raise SourceLostError(f"{self.path} ends at byte {offset + done}; it had {self.size_bytes} bytes")
                done += count
            start = end

    def _judged(self, error: OSError, offset: int) -> Exception:
        if error.errno in _MEDIUM:
            return MediumError(error.errno, f"{self.path}, byte {offset}: {error.strerror}")
        return SourceLostError(f"{self.path} does not answer any more ({error.strerror}, at byte {offset})")

    def is_alive(self) -> bool:
        """Whether anything can be read: what was read last, or one of some places all over the disk, past the cache."""
        buffer = memoryview(mmap.mmap(-1, ALIGNMENT))
        step = max(1, self.size_bytes // _PLACES)
        for offset in (self._good, *range(step // 2, self.size_bytes, step)):
            start = offset // ALIGNMENT * ALIGNMENT
            length = min(ALIGNMENT, self.size_bytes - start)
            self.forget(start, length)
            try:
                self.read([buffer], start, length)
            except MediumError:
                continue
            except SourceLostError:
                return False
            return True
        return False

    def forget(self, offset: int, length: int) -> None:
        """Drop a range from the page cache, if it is used."""
        if not self.direct:
            os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_DONTNEED)

    def hole_until(self, offset: int) -> int:
        """Where data begins at or after ``offset``; ``offset`` itself if there. Image files only have holes."""
        try:
            return os.lseek(self._fd, offset, os.SEEK_DATA)
        except OSError as error:
            return self.size_bytes if error.errno == errno.ENXIO else offset


def _refuses(fd: int, granule: int) -> bool:
    """Whether a direct read of this size is not possible here; a damaged disk does not refuse, it fails."""
    try:
        os.preadv(fd, [memoryview(mmap.mmap(-1, ALIGNMENT))[:granule]], 0)
    except OSError as error:
        return error.errno == errno.EINVAL
    return False
