# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs the sources of a Python distribution: ``pack.py DIRECTORY ARCHIVE``.

The archive holds ``pyproject.toml`` and ``src/`` without caches and build results. Its bytes depend on their content
only: the same sources always give the same archive.
"""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
from pathlib import Path

NAME = "coldmig-gateway"


def sources(directory: Path) -> list[Path]:
    """The files that belong to the distribution, in a fixed order."""
    found = [directory / "pyproject.toml"]
    for path in sorted((directory / "src").rglob("*")):
        inside = path.relative_to(directory).parts
        if path.is_file() and "__pycache__" not in inside and not any(part.endswith(".egg-info") for part in inside):
            found.append(path)
    return found


def pack(directory: Path) -> bytes:
    """The archive (tar, gzip)."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for path in sources(directory):
            content = path.read_bytes()
            member = tarfile.TarInfo(f"{NAME}/{path.relative_to(directory).as_posix()}")
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(pack(Path(sys.argv[1])))
