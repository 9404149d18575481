# SPDX-License-Identifier: GPL-3.0-or-later
"""A part of a disk that a file system fills, and why its free space may not be known."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from coldmig_agent.discovery.tables import ReadAt
from coldmig_agent.freespace.tools import Sandbox

#: (start, stop) in bytes of the area, ascending and disjoint.
Ranges = Generator[tuple[int, int], None, None]


class Doubt(Exception):  # noqa: N818 - no error: the area is copied whole
    """The free space is not known for certain; the text says why, in words for a person."""


class Unclean(Doubt):
    """The file system was not left cleanly. ``advice`` says what a person could do about it."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.advice = advice


class Hibernated(Unclean):
    """A sleeping system keeps this file system open."""


@dataclass(frozen=True, slots=True)
class Area:
    """``read`` sees the area's bytes only; ``sandbox`` runs tools on a read-only block device that shows the same."""

    size_bytes: int
    read: ReadAt
    sandbox: Sandbox

    def read_exactly(self, offset: int, length: int) -> bytes:
        """Bytes of the area. Raises Doubt where they cannot be read."""
        data = self.read(offset, length)
        if len(data) != length:
            raise Doubt(f"{length} bytes at {offset} cannot be read")
        return data
