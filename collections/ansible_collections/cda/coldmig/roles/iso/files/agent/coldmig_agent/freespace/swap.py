# SPDX-License-Identifier: GPL-3.0-or-later
"""Swap space: only its header says something, unless a sleeping system lies in it (mkswap, kernel/power/swap.c)."""

from __future__ import annotations

import struct

from coldmig_agent.freespace.area import Area, Doubt, Hibernated, Ranges

PAGE_SIZES = (4096, 8192, 16384, 65536)
_SIGNATURE = b"SWAPSPACE2"
_ASLEEP = (b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB")
ADVICE = "start the machine and shut it down properly, then boot this ISO again"


def free_ranges(area: Area) -> Ranges:
    """All pages behind the header. Raises Doubt, Hibernated where it holds a memory image."""
    marks = {page: area.read(page - 10, 10) for page in PAGE_SIZES}
    if any(mark.startswith(_ASLEEP) for mark in marks.values()):
        raise Hibernated("it holds the memory of a hibernated Linux", ADVICE)
    pages = [page for page, mark in marks.items() if mark == _SIGNATURE]
    if len(pages) != 1:
        raise Doubt("it has no signature of swap space, or more than one")
    page = pages[0]
    version, last = struct.unpack("<II", area.read_exactly(1024, 8))
    if version != 1 or not last or (last + 1) * page > area.size_bytes:
        raise Doubt(f"swap space of version {version} with {last} pages of {page} bytes: not known, or too large")
    if last * page >= max(PAGE_SIZES):
        yield max(PAGE_SIZES), (last + 1) * page
