# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the data files: one entry a line, ``#`` starts a comment."""

from __future__ import annotations

from coldmig_iso import SOURCES


def read_list(name: str) -> list[str]:
    """Entries of ``iso-build/<name>`` in their order."""
    lines = (SOURCES / name).read_text(encoding="utf-8").splitlines()
    return [entry for line in lines if (entry := line.split("#", 1)[0].strip())]
