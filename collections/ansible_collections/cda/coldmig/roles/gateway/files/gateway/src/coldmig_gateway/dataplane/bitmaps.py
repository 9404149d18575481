# SPDX-License-Identifier: GPL-3.0-or-later
"""``GET /data/v1/disks/{index}/have`` and ``…/known``: what need not be sent, one bit per chunk."""

from __future__ import annotations

from contextlib import AsyncExitStack
from http import HTTPStatus

from coldmig_gateway.dataplane.connection import Connection
from coldmig_gateway.dataplane.context import Context, find_disk
from coldmig_gateway.dataplane.http import RequestHead, answer
from coldmig_gateway.dataplane.ingest import open_earlier
from coldmig_gateway.dataplane.problem import wrong_state
from coldmig_gateway.staging.bitmap import Bitmap

_STATES = ("confirmed", "copying", "copied", "importing")


async def get_have(context: Context, connection: Connection, head: RequestHead, index: int) -> None:
    """The chunks that are durable. Raises Problem, StagingError."""
    migration_id, plan = await context.session(head)
    disk = find_disk(plan, index)
    if plan.state not in _STATES:
        raise wrong_state(plan.state, " or ".join(_STATES))
    async with context.open(plan, migration_id, disk) as staging:
        bitmap = staging.have()
    context.verifier.consider(migration_id)
    await _answer(connection, head, bitmap)


async def get_known(context: Context, connection: Connection, head: RequestHead, index: int) -> None:
    """The chunks that an earlier attempt of the same machine has: a REF frame may do. Raises Problem, StagingError."""
    _principal, plan = await context.session(head)
    disk = find_disk(plan, index)
    async with AsyncExitStack() as stack:
        earlier = await open_earlier(context, stack, plan, disk)
        bitmap = bytes(Bitmap.bytes_for(disk.chunks)) if earlier is None else bytes(earlier.data_bitmap())
    await _answer(connection, head, bitmap)


async def _answer(connection: Connection, head: RequestHead, bitmap: bytes) -> None:
    await connection.write(
        answer(HTTPStatus.OK, bitmap, content_type="application/octet-stream", keep_alive=head.keep_alive)
    )
