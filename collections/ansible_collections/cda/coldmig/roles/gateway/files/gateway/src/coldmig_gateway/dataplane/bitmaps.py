# SPDX-License-Identifier: GPL-3.0-or-later
"""``GET /data/v1/disks/{index}/have`` and ``…/known``: what need not be sent."""

from __future__ import annotations

import re
from http import HTTPStatus
from urllib.parse import parse_qsl

from coldmig_gateway.dataplane.connection import Connection
from coldmig_gateway.dataplane.context import Context, find_disk
from coldmig_gateway.dataplane.http import RequestHead, answer
from coldmig_gateway.dataplane.problem import bad_request, wrong_state
from coldmig_gateway.dataplane.site import DiskPlan

#: Chunks that one ``known`` may ask for.
_WINDOW = 65536
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
    """What earlier attempts of the same machine hold: a REF frame may do. Raises Problem, StagingError."""
    migration_id, plan = await context.session(head)
    disk = find_disk(plan, index)
    if plan.state not in _STATES:
        raise wrong_state(plan.state, " or ".join(_STATES))
    first, count = _window(head, disk)
    async with context.open(plan, migration_id, disk) as staging:
        prefixes = await context.call(staging.digest_prefixes, first, count)
    if prefixes is None:
        await connection.write(answer(HTTPStatus.NO_CONTENT, keep_alive=head.keep_alive))
    else:
        await _answer(connection, head, prefixes)


def _window(head: RequestHead, disk: DiskPlan) -> tuple[int, int]:
    """The chunks that are asked for: the first and how many. Raises Problem 400."""
    query = dict(parse_qsl(head.target.partition("?")[2]))
    values: list[int] = []
    for name, low, high in (("first", 0, disk.chunks - 1), ("count", 1, _WINDOW)):
        text = query.get(name, "")
        if not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise bad_request("bad-request", f"{name}={text[:20]}: must be {low} to {high}")
        values.append(int(text))
    first, count = values
    return first, min(count, disk.chunks - first)


async def _answer(connection: Connection, head: RequestHead, bitmap: bytes) -> None:
    await connection.write(
        answer(HTTPStatus.OK, bitmap, content_type="application/octet-stream", keep_alive=head.keep_alive)
    )
