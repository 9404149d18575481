# SPDX-License-Identifier: GPL-3.0-or-later
"""Writer for the cpio format "newc" (kernel: Documentation/driver-api/early-userspace/buffer-format.rst)."""

from __future__ import annotations

import stat
from pathlib import Path


def header(name: str, mode: int, size: int, *, inode: int = 1, rdev: tuple[int, int] = (0, 0)) -> bytes:
    """The 110-byte header of a member; owner root, time 0."""
    links = 2 if stat.S_ISDIR(mode) else 1
    numbers = (inode, mode, 0, 0, links, 0, size, 0, 0, *rdev, len(name.encode()) + 1, 0)
    return b"070701" + b"".join(b"%08X" % number for number in numbers)


def name_field(name: str) -> bytes:
    """Name with its NUL, padded so that header and name together fill whole words."""
    raw = name.encode() + b"\0"
    return raw + bytes(-(110 + len(raw)) % 4)


class Archive:
    """Collects members and gives the archive's bytes; the same members in the same order give the same bytes."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._inode = 0

    def _member(self, name: str, mode: int, data: bytes = b"", rdev: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        self._out += header(name, mode, len(data), inode=self._inode, rdev=rdev) + name_field(name)
        self._out += data + bytes(-len(data) % 4)

    def directory(self, name: str, mode: int = 0o755) -> None:
        """Add a directory; it must come before what is in it."""
        self._member(name, stat.S_IFDIR | mode)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._member(name, stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._member(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name: str, mode: int, major: int, minor: int) -> None:
        """Add a character device."""
        self._member(name, stat.S_IFCHR | mode, rdev=(major, minor))

    def tree(self, root: Path, prefix: str) -> None:
        """Add a directory with everything below it, sorted."""
        for path in sorted(root.rglob("*")):
            name = f"{prefix}/{path.relative_to(root)}"
            if path.is_symlink():
                self.link(name, str(path.readlink()))
            elif path.is_dir():
                self.directory(name)
            else:
                self.file(name, path.read_bytes(), 0o755 if path.stat().st_mode & 0o111 else 0o644)

    def finish(self) -> bytes:
        """The whole archive with its trailer."""
        return bytes(self._out) + header("TRAILER!!!", 0, 0) + name_field("TRAILER!!!")
