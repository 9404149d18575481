# SPDX-License-Identifier: GPL-3.0-or-later
"""``GET /data/v1/migrations/{id}/disks/{index}/image.vmdk``: a disk as streamOptimized VMDK, made while it is sent.

Every chunk is checked again on the way. One that has changed in staging ends the connection: the receiver sees fewer
bytes than it was promised and throws the image away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from http import HTTPStatus

from coldmig_gateway.dataplane.connection import Connection
from coldmig_gateway.dataplane.context import Context, find_disk
from coldmig_gateway.dataplane.http import RequestHead, answer
from coldmig_gateway.dataplane.problem import Problem, not_found, wrong_state
from coldmig_gateway.dataplane.site import UnknownMigrationError
from coldmig_gateway.staging.disk import DiskStaging
from coldmig_gateway.staging.errors import ChunkDamagedError, StagingError
from coldmig_gateway.vmdk.stream_optimized import ImageChunk, ImageTooLargeError, image_length, write_image
from coldmig_wire.digest import chunk_digest
from coldmig_wire.payload import payload_grains

CONTENT_TYPE = "application/x-vnd.vmware-streamVmdk"
_STATES = ("copied", "importing", "finished")


async def get_image(context: Context, connection: Connection, head: RequestHead, migration_id: str, index: int) -> None:
    """Handles GET and HEAD. Raises Problem, StagingError."""
    await context.principal(head, "provider")
    try:
        plan = await context.plan(migration_id)
    except UnknownMigrationError:
        raise not_found(f"migration {migration_id}: there is none") from None
    disk = find_disk(plan, index)
    if plan.state not in _STATES:
        raise wrong_state(plan.state, " or ".join(_STATES))
    async with context.open(plan, migration_id, disk) as staging:
        try:
            length = await context.call(_length, staging)
        except ImageTooLargeError as error:
            raise Problem(HTTPStatus.CONFLICT, "image-too-large", str(error)) from None
        await connection.write(
            answer(HTTPStatus.OK, content_type=CONTENT_TYPE, content_length=length, keep_alive=head.keep_alive)
        )
        if head.method == "HEAD":
            return
        try:
            await _send(context, connection, staging, migration_id)
        except (ChunkDamagedError, StagingError) as error:
            connection.abort()
            await context.call(context.site.record, migration_id, "image-damaged", f"disk {index}: {error}")


def _length(staging: DiskStaging) -> int:
    if not staging.complete:
        raise StagingError(f"disk {staging.disk}: staging is not complete")
    return image_length(staging.size_bytes, staging.data_sectors())


async def _send(context: Context, connection: Connection, staging: DiskStaging, migration_id: str) -> None:
    """Sends the image; while one piece is on its way to the peer the next is made."""
    # VMware's tools take the CID as a mark of content; it must not be ffffffff, which means "no parent".
    content_id = int.from_bytes(chunk_digest(f"{migration_id}/{staging.disk}".encode())[:4], "big") >> 1
    pieces = write_image(staging.size_bytes, _chunks(staging), name=f"disk-{staging.disk}.vmdk", content_id=content_id)
    loop = asyncio.get_running_loop()
    following = loop.run_in_executor(context.workers, next, pieces, None)
    try:
        while (piece := await following) is not None:
            following = loop.run_in_executor(context.workers, next, pieces, None)
            await connection.write(piece)
    finally:
        # The generator must not be left running in a thread when the staging is given back.
        await asyncio.gather(following, return_exceptions=True)


def _chunks(staging: DiskStaging) -> Iterator[ImageChunk]:
    for chunk in staging.data_bitmap().indices():
        stored = staging.load(chunk)
        yield ImageChunk(chunk, payload_grains(stored.frame.codec, stored.payload, stored.frame.run))
