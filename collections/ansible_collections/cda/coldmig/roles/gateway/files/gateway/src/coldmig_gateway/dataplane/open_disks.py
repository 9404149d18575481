# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks whose staging is open: opened on first use, shared by all connections, closed when nobody needs them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from coldmig_gateway.dataplane.site import EarlierDisk
from coldmig_gateway.staging.disk import DiskStaging
from coldmig_gateway.staging.errors import StagingError

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_Key = tuple[str, int]


@dataclass(slots=True)
class _Entry:
    staging: DiskStaging | None = None
    users: int = 0
    last_used: float = 0.0
    needed: bool = True
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)


class OpenDisks:
    """One open ``DiskStaging`` for each disk in use, whoever asks. Belongs to one event loop."""

    def __init__(self, executor: Executor) -> None:
        """``executor`` runs what blocks: opening (with recovery) and closing (with a checkpoint)."""
        self._executor = executor
        self._entries: dict[_Key, _Entry] = {}

    @asynccontextmanager
    async def use(
        self,
        root: Path,
        migration_id: str,
        index: int,
        size_bytes: int,
        earlier: Sequence[EarlierDisk] = (),
        *,
        must_exist: bool = False,
    ) -> AsyncIterator[DiskStaging]:
        """The open staging of a disk, as long as the context lasts; it is created unless it ``must_exist``.

        Raises StagingError.
        """
        entry = self._entries.setdefault((migration_id, index), _Entry())
        entry.users += 1
        entry.needed = True
        try:
            async with entry.opening:
                if entry.staging is None:
                    await self._settle(root, migration_id, index, size_bytes, earlier)
                    names = [(disk.migration_id, disk.index) for disk in earlier]
                    entry.staging = await self._call(
                        partial(DiskStaging, root, migration_id, index, size_bytes, names, must_exist=must_exist)
                    )
            yield entry.staging
        finally:
            entry.users -= 1
            entry.last_used = time.monotonic()

    async def _settle(
        self, root: Path, migration_id: str, index: int, size_bytes: int, earlier: Sequence[EarlierDisk]
    ) -> None:
        """Before a disk's staging is created: makes durable what earlier attempts have, whatever ended them."""
        if not earlier or (root / migration_id / f"disk-{index}.pack").exists():
            return
        async with AsyncExitStack() as stack:
            for disk in earlier:
                try:
                    use = self.use(root, disk.migration_id, disk.index, size_bytes, must_exist=True)
                    staging = await stack.enter_async_context(use)
                    await self._call(staging.settle)
                except StagingError as error:
                    _log.info("migration %s disk %d: not all can be taken over: %s", migration_id, index, error)

    def let_go(self, migration_id: str) -> None:
        """The migration's disks will hardly be wanted soon: they are closed as soon as nobody uses them."""
        for (whose, _index), entry in self._entries.items():
            if whose == migration_id:
                entry.needed = False

    async def close_idle(self, seconds: float) -> None:
        """Closes what nobody has used for so long, or was let go."""
        before = time.monotonic() - seconds
        for key, entry in tuple(self._entries.items()):
            if entry.users == 0 and (entry.last_used <= before or not entry.needed):
                del self._entries[key]
                await self._close(entry)

    async def close_all(self) -> None:
        """Closes everything; to be called when no connection is left."""
        while self._entries:
            _key, entry = self._entries.popitem()
            await self._close(entry)

    async def _close(self, entry: _Entry) -> None:
        if entry.staging is not None:
            await self._call(entry.staging.close)

    async def _call(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)
