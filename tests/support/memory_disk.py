# SPDX-License-Identifier: GPL-3.0-or-later
"""A file system in memory that says it is huge: room for disks of many TiB that hold little, and for their copies."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .processes import SupportError


@contextmanager
def huge_memory_disk(path: Path) -> Iterator[Path]:
    """Mounts it at ``path``, which is made. Raises SupportError where that is not allowed (it takes root)."""
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64T,mode=700", "tmpfs", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SupportError(f"mounting a tmpfs: {done.stderr}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)
