# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages of docs/ of which a part is written by the tests that measured it."""

from __future__ import annotations

from pathlib import Path


def replace_part(page: Path, name: str, text: str) -> None:
    """Replaces what stands between the lines ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``. Raises ValueError."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, first, rest = page.read_text().partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise ValueError(f"{page}: has no lines {begin} and {end}")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
