# SPDX-License-Identifier: GPL-3.0-or-later
"""Verification in the background: once every chunk of every disk is durable, all are read again from the device."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

from coldmig_gateway.dataplane.open_disks import OpenDisks
from coldmig_gateway.dataplane.site import CopyPlan, Site, UnknownMigrationError, WrongStateError
from coldmig_gateway.staging.disk import DiskStaging
from coldmig_gateway.staging.verify import Verification, VerificationStoppedError, verify_disk

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_DETAILED = 20


class Verifier:
    """Verifies migrations, each at most once at a time. Belongs to one event loop."""

    def __init__(self, site: Site, disks: OpenDisks, io: ThreadPoolExecutor) -> None:
        """``io`` runs the calls to the site."""
        self._site = site
        self._disks = disks
        self._io = io
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="verify-disk")
        self._stopped = threading.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()

    def consider(self, migration_id: str) -> None:
        """To be called when chunks became durable, and when an agent asks: verifies if nothing is missing any more."""
        if migration_id in self._tasks:
            self._again.add(migration_id)
        elif not self._stopped.is_set():
            self._tasks[migration_id] = asyncio.create_task(self._run(migration_id))

    async def stop(self) -> None:
        """Ends what is running; it begins again when the agent asks next."""
        self._stopped.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._threads.shutdown()

    async def _run(self, migration_id: str) -> None:
        try:
            while True:
                self._again.discard(migration_id)
                await self._verify(migration_id)
                if migration_id not in self._again or self._stopped.is_set():
                    return
        except (UnknownMigrationError, WrongStateError) as error:
            _log.info("migration %s: not verified: %s", migration_id, error)
        except VerificationStoppedError:
            _log.info("migration %s: verification was interrupted", migration_id)
        except Exception:
            _log.exception("migration %s: verification failed", migration_id)
        finally:
            del self._tasks[migration_id]
            self._again.discard(migration_id)

    async def _verify(self, migration_id: str) -> None:
        plan = await self._call(self._site.copy_plan, migration_id)
        if plan.state != "copying":
            return
        async with AsyncExitStack() as stack:
            opened = await self._open_if_complete(stack, migration_id, plan)
            if opened is None:
                return
            sound = True
            for index, staging in opened.items():
                verify = partial(verify_disk, staging, stopped=self._stopped.is_set)
                verification = await asyncio.get_running_loop().run_in_executor(self._threads, verify)
                if verification.damaged:
                    sound = False
                    await self._drop(migration_id, index, staging, verification)
                elif sound:
                    await self._note(migration_id, index, verification)
            if sound:
                await self._call(self._site.copied, migration_id)
                _log.info("migration %s: copied and verified", migration_id)

    async def _open_if_complete(
        self, stack: AsyncExitStack, migration_id: str, plan: CopyPlan
    ) -> dict[int, DiskStaging] | None:
        opened: dict[int, DiskStaging] = {}
        for disk in plan.disks:
            use = self._disks.use(plan.staging_dir, migration_id, disk.index, disk.size_bytes)
            opened[disk.index] = await stack.enter_async_context(use)
            if not opened[disk.index].complete:
                return None
        return opened or None

    async def _note(self, migration_id: str, index: int, found: Verification) -> None:
        await self._call(
            self._site.disk_verified,
            migration_id, index, found.digest_hex, found.vmdk_bytes, found.data_chunks, found.stored_bytes, 0,
        )  # fmt: skip

    async def _drop(self, migration_id: str, index: int, staging: DiskStaging, found: Verification) -> None:
        """What is damaged is asked for again: the agent sees it missing."""
        await self._call(staging.drop, [error.chunk for error in found.damaged])
        shown = "; ".join(str(error) for error in found.damaged[:_DETAILED])
        more = f" and {len(found.damaged) - _DETAILED} more" if len(found.damaged) > _DETAILED else ""
        await self._call(self._site.record, migration_id, "chunk-damaged", f"disk {index}: {shown}{more}")

    async def _call(self, function: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._io, function, *args)
