# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a Windows only sleeps: the state of hiberfil.sys, which hibernation and Fast Startup both write.

Its first four bytes say it: ``hibr`` (in either case) while there is an image to wake up from, ``rstr`` while that goes
on, ``wake`` or zeros afterwards. ntfs-3g refuses to write to a volume by the same rule.
"""

from __future__ import annotations

from coldmig_agent.guest.windows.tree import Tree

_FILE = "/hiberfil.sys"
_IMAGE = frozenset({b"hibr", b"rstr"})
HIBERNATED, UNREADABLE, UNUSED = "hibernated", "unreadable", "unused"


def read_resume(tree: Tree) -> str:
    """``hibernated``, ``unused`` (no image in it), ``unreadable``, or empty: there is no such file."""
    if not tree.exists(_FILE):
        return ""
    head = tree.read(_FILE, 4)
    if head is None:
        return UNREADABLE
    return HIBERNATED if head.lower() in _IMAGE else UNUSED
