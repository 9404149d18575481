# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes that the kernel tells in /proc."""

from __future__ import annotations

import re
from pathlib import Path

from coldmig_agent.interfaces import PROC, read_text


def size_of(path: Path, name: str) -> int | None:
    """Bytes in a line such as ``MemAvailable:   612000 kB``; None where the file or the line is not there."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", read_text(path, 1 << 16) or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def available_memory(proc: Path = PROC) -> int | None:
    """Bytes that can be taken without swapping (``MemAvailable``)."""
    return size_of(proc / "meminfo", "MemAvailable")
