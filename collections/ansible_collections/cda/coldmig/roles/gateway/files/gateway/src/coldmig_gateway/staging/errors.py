# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong in staging. Every error says which file or chunk."""

from __future__ import annotations

import errno

#: The reason for which a REF frame is refused, as it stands in answers.
UNKNOWN_REF = "unknown-ref"


class StagingError(RuntimeError):
    """Content could not be kept or read; the text names the file and the cause."""


class StagingFullError(StagingError):
    """There is no room left for staging (ENOSPC, or a quota)."""


class StagingBusyError(StagingError):
    """Another process has the disk open."""


class PackDamagedError(StagingError):
    """The pack's own header is wrong, or it is another disk's. Nothing in it can be trusted."""


class ChunkDamagedError(StagingError):
    """A stored chunk is not what was acknowledged."""

    def __init__(self, chunk: int, text: str) -> None:
        super().__init__(f"chunk {chunk}: {text}")
        self.chunk = chunk


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def storage_error(action: str, error: OSError) -> StagingError:
    """The staging error for an OSError: full or not."""
    kind = StagingFullError if error.errno in _FULL else StagingError
    return kind(f"{action}: {error.strerror or error}")
