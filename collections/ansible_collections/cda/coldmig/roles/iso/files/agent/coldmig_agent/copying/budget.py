# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory a pass of the copy may take: less where the machine has little left, so that it is never killed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coldmig_agent.procfs import available_memory
from coldmig_wire.geometry import CHUNK

#: A third of what is available at most: what runs from a medium needs the rest to stay in the page cache.
_SHARE = 3
_MOST_CHUNKS, _LEAST_CHUNKS = 64, 16
_MOST_BATCH, _LEAST_BATCH = 32 << 20, 8 << 20


@dataclass(frozen=True, slots=True)
class Budget:
    """``chunks`` buffers of 1 MiB for what was read, ``batch_bytes`` of encoded frames over all senders."""

    chunks: int = _MOST_CHUNKS
    batch_bytes: int = _MOST_BATCH


def budget(proc: Path = Path("/proc")) -> Budget:
    """From the memory that is available now; all of it where the kernel does not say."""
    available = available_memory(proc)
    if available is None:
        return Budget()
    share = available // _SHARE
    # Two parts of it are for what was read, one for what is being sent.
    chunks = max(_LEAST_CHUNKS, min(_MOST_CHUNKS, share * 2 // 3 // CHUNK))
    return Budget(chunks, max(_LEAST_BATCH, min(_MOST_BATCH, share // 3)))
