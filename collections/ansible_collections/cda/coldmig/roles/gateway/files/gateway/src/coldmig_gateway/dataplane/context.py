# SPDX-License-Identifier: GPL-3.0-or-later
"""What all requests share: the site, the open disks, the verifier, threads and limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

from coldmig_gateway.dataplane.buffers import Buffers
from coldmig_gateway.dataplane.http import RequestHead
from coldmig_gateway.dataplane.open_disks import OpenDisks
from coldmig_gateway.dataplane.problem import Problem, not_found
from coldmig_gateway.dataplane.room import Room
from coldmig_gateway.dataplane.sessions import RecentSessions
from coldmig_gateway.dataplane.settings import Limits
from coldmig_gateway.dataplane.shaping import Shaper
from coldmig_gateway.dataplane.site import CopyPlan, DiskPlan, Principal, Role, Site, UnknownMigrationError
from coldmig_gateway.dataplane.turns import Bounded, Turns
from coldmig_gateway.dataplane.verifier import Verifier
from coldmig_gateway.staging.disk import DiskStaging

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Context:
    """``io`` runs calls that wait (database, fdatasync), ``workers`` those that compute (inflate, digest).

    ``batches`` are the places that batches of frames have with the workers, ``posts`` the bodies that are read.
    """

    site: Site
    disks: OpenDisks
    verifier: Verifier
    limits: Limits
    io: ThreadPoolExecutor
    workers: ThreadPoolExecutor
    recent: RecentSessions
    buffers: Buffers
    batches: Turns
    posts: Bounded
    shaper: Shaper
    room: Room

    async def call(self, function: Callable[..., _T], *args: object) -> _T:
        """Calls something that may wait in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.io, function, *args)

    async def principal(self, head: RequestHead, role: Role) -> Principal:
        """Who sends the request. Raises Problem 401 or 403 unless it is somebody with this role."""
        token = head.bearer_token
        found = await self.call(self.site.authenticate, token) if token else None
        if found is None:
            detail = "the token is unknown, expired or revoked" if token else "Authorization: send Bearer and a token"
            raise Problem(HTTPStatus.UNAUTHORIZED, "unauthorized", detail)
        if found.role != role:
            raise Problem(HTTPStatus.FORBIDDEN, "forbidden", f"this takes a token of kind {role}, not {found.role}")
        return found

    async def session(self, head: RequestHead) -> tuple[str, CopyPlan]:
        """The migration of the session that sends the request. Raises Problem 401, 403."""
        principal = await self.principal(head, "session")
        if principal.migration_id is None:
            raise Problem(HTTPStatus.UNAUTHORIZED, "unauthorized", "the session belongs to no migration")
        try:
            return principal.migration_id, await self.plan(principal.migration_id)
        except UnknownMigrationError:
            detail = "the session's migration does not exist any more"
            raise Problem(HTTPStatus.UNAUTHORIZED, "unauthorized", detail) from None

    async def sender(self, head: RequestHead) -> tuple[str, CopyPlan]:
        """As ``session``, for requests that come many times a second. Raises Problem 401, 403."""
        token = head.bearer_token
        found = self.recent.find(token) if token else None
        if found is None:
            found = await self.session(head)
            if token:
                self.recent.keep(token, *found)
        return found

    async def plan(self, migration_id: str) -> CopyPlan:
        """State and disks of a migration. Raises UnknownMigrationError."""
        return await self.call(self.site.copy_plan, migration_id)

    def open(self, plan: CopyPlan, migration_id: str, disk: DiskPlan) -> AbstractAsyncContextManager[DiskStaging]:
        """The staging of one of the migration's disks."""
        return self.disks.use(plan.staging_dir, migration_id, disk.index, disk.size_bytes, disk.earlier)


def find_disk(plan: CopyPlan, index: int) -> DiskPlan:
    """Disk ``index`` of the plan. Raises Problem 404."""
    for disk in plan.disks:
        if disk.index == index:
            return disk
    raise not_found(f"disk {index}: the migration has disks {', '.join(str(disk.index) for disk in plan.disks)}")
