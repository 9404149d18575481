# SPDX-License-Identifier: GPL-3.0-or-later
"""The maps that partclone writes (GNU ddrescue's format): lines ``position size status``, ``+`` used, ``?`` free.

partclone itself says nothing about a file system that was not left cleanly; that is for whoever asks it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from coldmig_agent.freespace.area import Area, Doubt, Ranges

_POSITION = re.compile(rb"0x([0-9A-F]{8,16})     \?$")
_LINE = re.compile(rb"0x([0-9A-F]{8,16})  0x([0-9A-F]{8,16})  ([+?])$")


def free_in_map(lines: Iterable[bytes], area_bytes: int) -> Ranges:
    """Free ranges of a map. Raises Doubt where it has holes, overlaps, ends outside the area or is no map."""
    position = 0
    begun = False
    for line in lines:
        if line.startswith(b"#"):
            continue
        if not begun:
            begun = True
            if _POSITION.match(line) is None:
                raise Doubt("partclone wrote no map")
            continue
        found = _LINE.match(line)
        if found is None:
            raise Doubt("partclone wrote a map in a way that is not known")
        start, size = int(found[1], 16), int(found[2], 16)
        if start != position or not size or start + size > area_bytes:
            raise Doubt(f"partclone's map has {size} bytes at {start} after {position}, in {area_bytes}")
        position = start + size
        if found[3] == b"?":
            yield start, position
    if not position:
        raise Doubt("partclone wrote an empty map")


def free_ranges(area: Area, fstype: str) -> Ranges:
    """What ``partclone.<fstype>`` calls free. Raises Doubt, ToolError."""
    # -f: its thread that tells the progress wakes up so often, and is waited for at the end.
    command = (f"partclone.{fstype}", "-D", "-q", "-B", "-f", "1", "-L", "/dev/null", "-s", "{}", "-o", "-")
    with area.sandbox.run(*command) as tool:
        yield from free_in_map(tool.lines(), area.size_bytes)
