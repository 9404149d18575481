# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of shell assignments: os-release, ifcfg, rc.conf, …"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

_LINE = re.compile(r"[^\r\n]+")


def lines(text: str, limit: int = 4096) -> Iterator[str]:
    """Lines of a text one by one, stripped and cut: a file of nothing but newlines costs no memory."""
    return (text[found.start() : min(found.end(), found.start() + limit)].strip() for found in _LINE.finditer(text))


def parse_assignments(text: str) -> dict[str, str]:
    """``KEY=value`` lines with shell quoting; lines that are neither are left out, the last assignment wins."""
    values: dict[str, str] = {}
    for stripped in lines(text):
        key, equals, raw = stripped.partition("=")
        if not equals or stripped.startswith("#") or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            continue
        try:
            words = shlex.split(raw, comments=False, posix=True)
        except ValueError:
            words = [raw.strip("\"'")]
        values[key] = " ".join(words)
    return values
