# SPDX-License-Identifier: GPL-3.0-or-later
"""A file system in memory that says it is huge: room for disks of many TiB that hold little, and for their copies."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .processes import SupportError


@contextmanager
def huge_memory_disk() -> Iterator[Path]:
    """Mounts it in a new directory with a short name. Raises SupportError where that is not allowed (it takes root)."""
    path = Path(tempfile.mkdtemp(prefix="coldmig-"))
    command = ["mount", "-t", "tmpfs", "-o", "size=64T,mode=700", "tmpfs", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        if done.returncode:
            raise SupportError(f"mounting a tmpfs: {done.stderr}")
        yield path
    finally:
        if not done.returncode:
            subprocess.run(["umount", "--lazy", str(path)], check=True)
        path.rmdir()
