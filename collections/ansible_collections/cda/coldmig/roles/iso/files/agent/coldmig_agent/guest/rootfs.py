# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a guest, opened so that nothing in it can lead outside: the kernel resolves links inside the root.

``openat2`` with RESOLVE_IN_ROOT makes an absolute link, ``..`` and a bind mount stay within the guest. Only regular
files are read, and never more than the caller asked for.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_NAMES = 20_000
_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class GuestRoot:
    """A directory that holds a guest's root (or only its /boot)."""

    def __init__(self, fd: int) -> None:
        """Takes over ``fd``, an open directory."""
        self._fd = fd

    @classmethod
    def at(cls, root: Path) -> GuestRoot:
        """The root at a directory of the live system. Raises OSError."""
        return cls(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))

    def below(self, path: str) -> GuestRoot:
        """A directory of the guest as a root of its own, a Btrfs subvolume for instance. Raises OSError."""
        return GuestRoot(self._open(path, os.O_PATH | os.O_DIRECTORY))

    def fileno(self) -> int:
        """The descriptor of the directory (O_PATH), which stays this object's."""
        return self._fd

    def close(self) -> None:
        """Give the directory free for unmounting."""
        os.close(self._fd)

    def __enter__(self) -> GuestRoot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, path: str, flags: int) -> int:
        # O_NONBLOCK: a FIFO in the guest's place of a file must not stop us.
        flags |= os.O_CLOEXEC | (0 if flags & os.O_PATH else os.O_NONBLOCK | os.O_NOCTTY)
        how = _OpenHow(flags, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        fd: int = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2), self._fd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)
        )
        if fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
        return fd

    @contextmanager
    def open(self, path: str) -> Iterator[int]:
        """File descriptor of a regular file. Raises OSError, also for anything that is not a regular file."""
        fd = self._open(path, os.O_RDONLY)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(f"{path} is not a regular file")
            yield fd
        finally:
            os.close(fd)

    def read(self, path: str, limit: int = 1 << 16) -> bytes | None:
        """First ``limit`` bytes, None where there is no such regular file."""
        try:
            with self.open(path) as fd:
                parts = []
                while limit > 0 and (part := os.read(fd, min(limit, 1 << 20))):
                    parts.append(part)
                    limit -= len(part)
                return b"".join(parts)
        except (OSError, ValueError):
            return None

    def text(self, path: str, limit: int = 1 << 16) -> str | None:
        """As :meth:`read`, decoded; bytes that are not UTF-8 are replaced."""
        data = self.read(path, limit)
        return None if data is None else data.decode("utf-8", "replace")

    def names(self, path: str) -> list[str]:
        """Sorted names in a directory (bounded); empty where there is none."""
        try:
            fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        except (OSError, ValueError):
            return []
        try:
            found: list[str] = []
            with os.scandir(fd) as entries:
                for entry in entries:
                    found.append(entry.name)
                    if len(found) >= MAX_NAMES:
                        break
            return sorted(found)
        except OSError:
            return []
        finally:
            os.close(fd)

    def is_dir(self, path: str) -> bool:
        """Whether ``path`` leads to a directory inside the guest."""
        try:
            fd = self._open(path, os.O_PATH | os.O_DIRECTORY)
        except (OSError, ValueError):
            return False
        os.close(fd)
        return True

    def is_file(self, path: str) -> bool:
        """Whether ``path`` leads to a regular file inside the guest."""
        try:
            with self.open(path):
                return True
        except (OSError, ValueError):
            return False

    def link(self, path: str) -> str | None:
        """Where a symbolic link points, as it is written; None for anything else."""
        try:
            fd = self._open(path, os.O_PATH | os.O_NOFOLLOW)
        except (OSError, ValueError):
            return None
        try:
            return os.readlink("", dir_fd=fd)
        except OSError:
            return None
        finally:
            os.close(fd)

    def inode(self, path: str) -> int | None:
        """Inode number of a directory; that of a Btrfs subvolume's own directory is always 256."""
        try:
            fd = self._open(path, os.O_PATH | os.O_DIRECTORY)
        except (OSError, ValueError):
            return None
        try:
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    def nocase(self, path: str) -> str | None:
        """``path`` as it is written here, each component in any case: FAT keeps the case, firmware ignores it."""
        found = ""
        for wanted in path.strip("/").lower().split("/"):
            name = next((item for item in self.names(found or "/") if item.lower() == wanted), None)
            if name is None:
                return None
            found = f"{found}/{name}"
        return found
