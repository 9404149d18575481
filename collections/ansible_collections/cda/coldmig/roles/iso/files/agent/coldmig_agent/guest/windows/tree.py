# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's files by names whose case does not matter, as Windows and UEFI firmware find them.

Whether something is there is asked of the directory: a file that Windows keeps compressed (CompactOS) cannot be opened
through ntfs-3g, but is there all the same.
"""

from __future__ import annotations

from coldmig_agent.guest.rootfs import GuestRoot

_MAX_DIRECTORIES = 64


class Tree:
    """Look-ups in a mounted volume; ``\\`` and ``/`` both separate. Directories are read once."""

    def __init__(self, root: GuestRoot) -> None:
        self.root = root
        self._listings: dict[str, tuple[list[str], dict[str, str]]] = {}

    def _listing(self, directory: str) -> tuple[list[str], dict[str, str]]:
        """Names in a directory, and which of them is meant by what is asked for: itself, or in lower case."""
        found = self._listings.get(directory)
        if found is None:
            if len(self._listings) >= _MAX_DIRECTORIES:
                self._listings.clear()
            names = self.root.names(directory or "/")
            found = names, {name.lower(): name for name in names} | {name: name for name in names}
            self._listings[directory] = found
        return found

    def names(self, path: str) -> list[str]:
        """Names in a directory, as they are spelled; empty where there is none."""
        actual = self.find(path)
        return [] if actual is None else self._listing(actual)[0]

    def find(self, path: str) -> str | None:
        """``path`` as it is spelled on the volume (``/Windows/System32``; ``""`` for the top), or None.

        Where names differ in case only, the one that is spelled as asked for counts.
        """
        actual = ""
        for part in path.replace("\\", "/").split("/"):
            if part in {"", "."}:
                continue
            spelled = self._listing(actual)[1]
            name = spelled.get(part) or spelled.get(part.lower())
            if name is None:
                return None
            actual = f"{actual}/{name}"
        return actual

    def exists(self, path: str) -> bool:
        """Whether there is anything of that name."""
        return self.find(path) is not None

    def is_dir(self, path: str) -> bool:
        """Whether there is a directory of that name."""
        actual = self.find(path)
        return actual is not None and self.root.is_dir(actual or "/")

    def read(self, path: str, limit: int) -> bytes | None:
        """The first ``limit`` bytes of a regular file, None where there is none that can be read."""
        actual = self.find(path)
        return self.root.read(actual, limit) if actual else None
