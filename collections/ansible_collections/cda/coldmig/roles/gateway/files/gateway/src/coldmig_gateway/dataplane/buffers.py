# SPDX-License-Identifier: GPL-3.0-or-later
"""Buffers for payloads, used again: fresh ones of a megabyte come from the kernel, page by page, filled with zeros."""

from __future__ import annotations

from collections.abc import Iterable

from coldmig_wire.frames import MAX_PAYLOAD

#: Below, memory comes from the allocator's own stock anyway.
_SMALL = 64 << 10


class Buffers:
    """Keeps a few buffers of MAX_PAYLOAD. Belongs to one event loop."""

    def __init__(self, spare: int) -> None:
        """``spare`` is how many unused ones are kept."""
        self._most = spare
        self._spare: list[bytearray] = []

    def take(self, length: int) -> memoryview:
        """Room for ``length`` bytes, at most MAX_PAYLOAD; what is in it is anything."""
        if length <= _SMALL:
            return memoryview(bytearray(length))
        return memoryview(self._spare.pop() if self._spare else bytearray(MAX_PAYLOAD))[:length]

    def give(self, payloads: Iterable[memoryview]) -> None:
        """Takes back what nobody looks at any more."""
        for payload in payloads:
            buffer = payload.obj
            if isinstance(buffer, bytearray) and len(buffer) == MAX_PAYLOAD and len(self._spare) < self._most:
                self._spare.append(buffer)
