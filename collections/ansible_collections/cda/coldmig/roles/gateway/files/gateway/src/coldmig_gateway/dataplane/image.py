# SPDX-License-Identifier: GPL-3.0-or-later
"""``GET /data/v1/migrations/{id}/disks/{index}/image.vmdk``: a disk as streamOptimized VMDK, made while it is sent.

Every chunk is checked again on the way. One that has changed in staging ends the connection: the receiver sees fewer
bytes than it was promised and throws the image away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from http import HTTPStatus

from coldmig_gateway.dataplane.connection import Connection
from coldmig_gateway.dataplane.context import Context, find_disk
from coldmig_gateway.dataplane.http import RequestHead, answer
from coldmig_gateway.dataplane.problem import Problem, not_found, wrong_state
from coldmig_gateway.dataplane.site import UnknownMigrationError
from coldmig_gateway.staging.disk import RECORD_BYTES, DiskStaging
from coldmig_gateway.staging.errors import ChunkDamagedError, StagingError
from coldmig_gateway.vmdk.stream_optimized import (
    PIECE_BYTES,
    ImageChunk,
    ImageTooLargeError,
    image_length,
    write_image,
)
from coldmig_wire.digest import chunk_digest
from coldmig_wire.payload import payload_grains

_log = logging.getLogger(__name__)

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
    use = context.disks.use(plan.staging_dir, migration_id, disk.index, disk.size_bytes, must_exist=True)
    async with use as staging:
        try:
            length = await context.call(_length, staging)
        except ImageTooLargeError as error:
            raise Problem(HTTPStatus.CONFLICT, "image-too-large", str(error)) from None
        except ChunkDamagedError as error:
            await _note_damage(context, staging, migration_id, error)
            raise
        await connection.write(
            answer(HTTPStatus.OK, content_type=CONTENT_TYPE, content_length=length, keep_alive=head.keep_alive)
        )
        if head.method == "HEAD":
            return
        try:
            await _send(context, connection, staging, migration_id)
        except ChunkDamagedError as error:
            connection.abort()
            await _note_damage(context, staging, migration_id, error)


async def _note_damage(context: Context, staging: DiskStaging, migration_id: str, error: ChunkDamagedError) -> None:
    """Looks once more, at the device; what is really damaged goes, and a person is told: nothing here can mend it.

    The next attempt of the machine takes over all that is good and sends this chunk again.
    """
    chunk = error.chunk
    if not await context.call(staging.check, [chunk]):
        text = f"disk {staging.disk}: {error}; read again, it was good: the image was cut off and may be fetched again"
        _log.warning("migration %s: %s", migration_id, text)
        await context.call(context.site.record, migration_id, "image-cut-off", text)
        return
    _log.error("migration %s: disk %d: damaged in staging: %s", migration_id, staging.disk, error)
    await context.call(staging.drop, [chunk])
    await context.call(context.site.image_damaged, migration_id, staging.disk, str(error))


def _length(staging: DiskStaging) -> int:
    if not staging.complete:
        raise StagingError(f"disk {staging.disk}: staging is not complete")
    return image_length(staging.size_bytes, ((slot.chunk, slot.sectors) for slot in staging.slots()))


async def _send(context: Context, connection: Connection, staging: DiskStaging, migration_id: str) -> None:
    """Sends the image; while one piece is on its way to the peer the next is made."""
    # VMware's tools take the CID as a mark of content; it must not be ffffffff, which means "no parent".
    content_id = int.from_bytes(chunk_digest(f"{migration_id}/{staging.disk}".encode())[:4], "big") >> 1
    # One piece is on its way, one is being made.
    buffers = [bytearray(PIECE_BYTES) for _buffer in range(2)]
    pieces = write_image(
        staging.size_bytes,
        _chunks(staging),
        name=f"disk-{staging.disk}.vmdk",
        content_id=content_id,
        buffers=buffers,
    )
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
    buffer = memoryview(bytearray(RECORD_BYTES))
    for chunk in staging.data_bitmap().indices():
        stored = staging.load(chunk, buffer)
        yield ImageChunk(chunk, payload_grains(stored.frame.codec, stored.payload, stored.frame.run))
