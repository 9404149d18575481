# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs sources: ``pack.py DIRECTORY ARCHIVE TOP NAME [NAME ...]``.

The archive holds these files and directories of DIRECTORY under ``TOP/``, without caches and build results. Its bytes
depend on their content only: the same sources always give the same archive. One file is also what a build host gets
quickly: Ansible needs seconds for every few files that it copies.
"""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

CACHES = frozenset({"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"})


def sources(directory: Path, names: Iterable[str]) -> list[Path]:
    """The files that are sources, in a fixed order. Raises FileNotFoundError for a name that is not there."""
    found = []
    for name in names:
        top = directory / name
        if not top.exists():
            raise FileNotFoundError(f"{top} is not there")
        for path in [top, *sorted(top.rglob("*"))]:
            inside = path.relative_to(directory).parts
            build = any(part in CACHES or part.endswith(".egg-info") for part in inside)
            if path.is_file() and not build:
                found.append(path)
    return found


def pack(directory: Path, top: str, names: Iterable[str]) -> bytes:
    """The archive (tar, gzip)."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for path in sources(directory, names):
            content = path.read_bytes()
            member = tarfile.TarInfo(f"{top}/{path.relative_to(directory).as_posix()}")
            member.size, member.mode = len(content), 0o755 if path.stat().st_mode & 0o100 else 0o644
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(pack(Path(sys.argv[1]), sys.argv[3], sys.argv[4:]))
