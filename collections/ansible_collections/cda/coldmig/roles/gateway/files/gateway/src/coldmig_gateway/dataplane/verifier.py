# SPDX-License-Identifier: GPL-3.0-or-later
"""Verification in the background, behind the copy: what is durable is read again from the device while more comes.

When every chunk of every disk is durable, little is left to be read, and the migration becomes ``copied``. How far it
has come is kept in memory only; after a restart everything is read again, without any agent's help.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

from coldmig_gateway.dataplane.open_disks import OpenDisks
from coldmig_gateway.dataplane.site import CopyPlan, Site, UnknownMigrationError, WrongStateError
from coldmig_gateway.staging.disk import Checked, DiskStaging
from coldmig_gateway.staging.errors import ChunkDamagedError
from coldmig_gateway.staging.verify import STEP_BYTES, Verification, VerificationStoppedError, verify_disk

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_DETAILED = 20
#: Less than this is not worth reading before the disk is complete.
_WORTH_BYTES = 16 << 20
#: The disks of a copy from which nothing comes stay open for so long.
_PATIENCE_SECONDS = 30.0
_RETRY_SECONDS = 60.0
_AT_ONCE = 2


class Verifier:
    """Verifies migrations, each at most once at a time. Belongs to one event loop."""

    def __init__(
        self, site: Site, disks: OpenDisks, io: ThreadPoolExecutor, copied: Callable[[str], None] = lambda _: None
    ) -> None:
        """``io`` runs the calls to the site; ``copied`` is told of each migration that is ready."""
        self._copied = copied
        self._site = site
        self._disks = disks
        self._io = io
        self._threads = ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="verify-disk")
        self._opening = asyncio.Semaphore(_AT_ONCE)
        self._stopped = threading.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._checked: dict[str, dict[int, Checked]] = {}
        self._failed: dict[str, float] = {}

    def consider(self, migration_id: str) -> None:
        """To be called when chunks became durable, and when an agent asks."""
        news = self._news.get(migration_id)
        if news is not None:
            news.set()
        elif not self._stopped.is_set():
            self._news[migration_id] = asyncio.Event()
            self._tasks[migration_id] = asyncio.create_task(self._run(migration_id))

    async def resume(self) -> None:
        """Takes up again what a restart interrupted: copies that are complete have no agent that would ask."""
        try:
            waiting = await self._call(self._site.copying)
        except Exception:
            _log.exception("the copies that wait for verification could not be found out")
            return
        for migration_id in waiting:
            self.consider(migration_id)

    def retry(self) -> None:
        """Tries again what failed a while ago; to be called now and then."""
        now = asyncio.get_running_loop().time()
        for migration_id, when in tuple(self._failed.items()):
            if now >= when:
                self.consider(migration_id)

    async def stop(self) -> None:
        """Ends what is running."""
        self._stopped.set()
        for news in self._news.values():
            news.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._threads.shutdown()

    async def _run(self, migration_id: str) -> None:
        try:
            await self._verify(migration_id)
        except (UnknownMigrationError, WrongStateError) as error:
            _log.info("migration %s: not verified: %s", migration_id, error)
            self._forget(migration_id)
        except VerificationStoppedError:
            _log.info("migration %s: verification was interrupted", migration_id)
        except Exception as error:
            _log.exception("migration %s: verification failed", migration_id)
            await self._note_failure(migration_id, error)
        finally:
            del self._tasks[migration_id]
            del self._news[migration_id]

    async def _note_failure(self, migration_id: str, error: Exception) -> None:
        """It is tried again; the trail says so once."""
        first = migration_id not in self._failed
        self._failed[migration_id] = asyncio.get_running_loop().time() + _RETRY_SECONDS
        if first:
            try:
                text = f"{error or type(error).__name__}; it is tried again every {_RETRY_SECONDS:.0f} s"
                await self._call(self._site.record, migration_id, "verification-failed", text)
            except Exception:
                _log.exception("migration %s: the failure could not be written down", migration_id)

    def _forget(self, migration_id: str) -> None:
        self._checked.pop(migration_id, None)
        self._failed.pop(migration_id, None)

    async def _verify(self, migration_id: str) -> None:
        """Until the migration is copied, is not copying any more, or nothing new comes."""
        news = self._news[migration_id]
        async with AsyncExitStack() as stack:
            opened: dict[int, DiskStaging] = {}
            try:
                while not self._stopped.is_set():
                    news.clear()
                    plan = await self._call(self._site.copy_plan, migration_id)
                    if plan.state != "copying":
                        self._forget(migration_id)
                        return
                    await self._open(stack, migration_id, plan, opened)
                    if await self._step(migration_id, plan, opened):
                        self._forget(migration_id)
                        return
                    if not any(_is_worth(staging) for staging in opened.values()):
                        try:
                            async with asyncio.timeout(_PATIENCE_SECONDS):
                                await news.wait()
                        except TimeoutError:
                            return
            finally:
                if opened and migration_id not in self._failed:
                    self._checked[migration_id] = {index: staging.checked for index, staging in opened.items()}

    async def _open(
        self, stack: AsyncExitStack, migration_id: str, plan: CopyPlan, opened: dict[int, DiskStaging]
    ) -> None:
        """Opens the disks of which something has come."""
        for disk in plan.disks:
            pack = plan.staging_dir / migration_id / f"disk-{disk.index}.pack"
            if disk.index in opened or not pack.exists():
                continue
            async with self._opening:
                use = self._disks.use(
                    plan.staging_dir, migration_id, disk.index, disk.size_bytes, disk.earlier, must_exist=True
                )
                opened[disk.index] = await stack.enter_async_context(use)
            before = self._checked.get(migration_id, {}).get(disk.index)
            if before is not None:
                opened[disk.index].checked = before

    async def _step(self, migration_id: str, plan: CopyPlan, opened: dict[int, DiskStaging]) -> bool:
        """Reads a piece of each disk; True if the migration is copied now."""
        for index, staging in opened.items():
            if _is_worth(staging):
                damaged = await self._compute(partial(staging.check_next, STEP_BYTES))
                await self._drop(migration_id, index, staging, damaged)
        if len(opened) < len(plan.disks) or not all(_is_done(staging) for staging in opened.values()):
            return False
        found: dict[int, Verification] = {}
        for index, staging in opened.items():
            found[index] = await self._compute(partial(verify_disk, staging, stopped=self._stopped.is_set))
            await self._drop(migration_id, index, staging, found[index].damaged)
            # From now on the index is trusted: it must not be behind what it is trusted with.
            await self._compute(staging.checkpoint)
        if not all(staging.complete for staging in opened.values()):
            return False
        for index, verification in found.items():
            await self._call(
                self._site.disk_verified,
                migration_id, index, verification.merkle_root, verification.vmdk_bytes, verification.data_chunks,
                verification.stored_bytes, verification.unreadable_chunks,
            )  # fmt: skip
        await self._call(self._site.copied, migration_id)
        self._copied(migration_id)
        _log.info("migration %s: copied and verified", migration_id)
        return True

    async def _drop(
        self, migration_id: str, index: int, staging: DiskStaging, damaged: Sequence[ChunkDamagedError]
    ) -> None:
        """What is damaged is asked for again: the agent sees it missing."""
        if not damaged:
            return
        await self._call(staging.drop, [error.chunk for error in damaged])
        shown = "; ".join(str(error) for error in damaged[:_DETAILED])
        more = f" and {len(damaged) - _DETAILED} more" if len(damaged) > _DETAILED else ""
        text = f"disk {index}: {shown}{more}"
        _log.error("migration %s: damaged in staging, asked for again: %s", migration_id, text)
        await self._call(self._site.record, migration_id, "chunk-damaged", text)

    async def _compute(self, function: Callable[[], _T]) -> _T:
        if self._stopped.is_set():
            raise VerificationStoppedError
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def _call(self, function: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._io, function, *args)


def _is_worth(staging: DiskStaging) -> bool:
    unchecked = staging.unchecked_bytes
    return unchecked >= _WORTH_BYTES or (unchecked > 0 and staging.complete)


def _is_done(staging: DiskStaging) -> bool:
    return staging.complete and not staging.unchecked_bytes
