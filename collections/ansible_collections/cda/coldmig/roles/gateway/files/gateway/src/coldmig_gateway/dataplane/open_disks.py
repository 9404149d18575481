# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks whose staging is open: opened on first use, shared by all connections, closed when nobody needs them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from coldmig_gateway.staging.disk import DiskStaging

_log = logging.getLogger(__name__)

_Key = tuple[str, int]


@dataclass(slots=True)
class _Entry:
    staging: DiskStaging | None = None
    users: int = 0
    last_used: float = 0.0
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)


class OpenDisks:
    """One open ``DiskStaging`` for each disk in use, whoever asks. Belongs to one event loop."""

    def __init__(self, executor: Executor) -> None:
        """``executor`` runs what blocks: opening (with recovery) and closing (with a checkpoint)."""
        self._executor = executor
        self._entries: dict[_Key, _Entry] = {}

    @asynccontextmanager
    async def use(self, root: Path, migration_id: str, index: int, size_bytes: int) -> AsyncIterator[DiskStaging]:
        """The open staging of a disk, as long as the context lasts. Raises StagingError."""
        entry = self._entries.setdefault((migration_id, index), _Entry())
        entry.users += 1
        try:
            async with entry.opening:
                if entry.staging is None:
                    loop = asyncio.get_running_loop()
                    entry.staging = await loop.run_in_executor(
                        self._executor, DiskStaging, root, migration_id, index, size_bytes
                    )
            yield entry.staging
        finally:
            entry.users -= 1
            entry.last_used = time.monotonic()

    async def close_idle(self, seconds: float) -> None:
        """Closes what nobody has used for so long."""
        before = time.monotonic() - seconds
        for key, entry in tuple(self._entries.items()):
            if entry.users == 0 and entry.last_used <= before:
                del self._entries[key]
                await self._close(entry)

    async def close_all(self) -> None:
        """Closes everything; to be called when no connection is left."""
        while self._entries:
            _key, entry = self._entries.popitem()
            await self._close(entry)

    async def _close(self, entry: _Entry) -> None:
        if entry.staging is not None:
            await asyncio.get_running_loop().run_in_executor(self._executor, entry.staging.close)
