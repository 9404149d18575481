# SPDX-License-Identifier: GPL-3.0-or-later
"""``POST /data/v1/frames``: chunks in. Each is inflated, compared with its digest and appended to its disk's pack.

Frames are handed to worker threads in batches. A connection waits with reading while its share of batches is busy,
so what is in memory is bounded whatever arrives. The answer comes when everything accepted is durable.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from http import HTTPStatus

from coldmig_gateway.dataplane.connection import Connection
from coldmig_gateway.dataplane.context import Context
from coldmig_gateway.dataplane.http import CONTINUE, RequestHead, answer
from coldmig_gateway.dataplane.problem import Problem, bad_request, wrong_state
from coldmig_gateway.dataplane.site import CopyPlan, QueuedError, UnknownMigrationError, WrongStateError
from coldmig_gateway.staging.disk import DiskStaging
from coldmig_gateway.staging.errors import StagingError
from coldmig_wire.frames import CHUNK, HEADER, Frame, FrameError, FrameType
from coldmig_wire.payload import PayloadError

CONTENT_TYPE = "application/vnd.coldmig.frames"
_BATCH_FRAMES = 256
_SHOWN = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Disk:
    """A disk that this request writes to; ``epoch`` is from before its first append."""

    staging: DiskStaging
    epoch: int


@dataclass(slots=True)
class _Batch:
    """Frames on their way to a worker thread."""

    frames: list[tuple[_Disk, Frame, memoryview]] = field(default_factory=list)
    size: int = 0

    def add(self, disk: _Disk, frame: Frame, payload: memoryview) -> None:
        self.frames.append((disk, frame, payload))
        self.size += len(payload)

    @property
    def is_full(self) -> bool:
        return self.size >= CHUNK or len(self.frames) >= _BATCH_FRAMES


@dataclass(slots=True)
class _Outcome:
    durable: int = 0
    rejected: list[dict[str, int | str]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def _store(batch: _Batch) -> _Outcome:
    """Runs in a worker thread. Raises StagingError."""
    outcome = _Outcome()
    for disk, frame, payload in batch.frames:
        try:
            stored = disk.staging.append(frame, payload)
        except PayloadError as error:
            outcome.rejected.append({"disk": frame.disk, "chunk": frame.chunk, "reason": error.reason})
            continue
        outcome.durable += frame.end_chunk - frame.chunk
        if stored and frame.type is FrameType.UNREADABLE:
            outcome.unreadable.append(f"disk {frame.disk} chunk {frame.chunk}")
    return outcome


class _Request:
    """One request's way through: reads frames, keeps its batches in flight, and answers."""

    def __init__(self, context: Context, connection: Connection, migration_id: str, plan: CopyPlan) -> None:
        self._context = context
        self._connection = connection
        self._migration_id = migration_id
        self._plan = plan
        self._disks: dict[int, _Disk] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(context.limits.batches_per_connection)
        self._outcome = _Outcome()
        self._failure: StagingError | None = None

    async def run(self, length: int) -> _Outcome:
        """Takes in ``length`` bytes of frames. Whatever ends it, what was complete before stays and is durable."""
        async with AsyncExitStack() as stack:
            try:
                await self._read_frames(stack, length)
            finally:
                await self._finish()
        return self._outcome

    async def _read_frames(self, stack: AsyncExitStack, length: int) -> None:
        batch = _Batch()
        header = bytearray(HEADER)
        try:
            while length and self._failure is None:
                if length < HEADER:
                    raise bad_request("malformed-frame", f"the body ends {HEADER - length} bytes before a header does")
                await self._read(header)
                length -= HEADER
                disk, frame = await self._accept(stack, header)
                if frame.length > length:
                    missing = frame.length - length
                    raise bad_request("malformed-frame", f"length={frame.length}: the body ends {missing} bytes before")
                payload = self._context.buffers.take(frame.length)
                await self._read(payload)
                length -= frame.length
                batch.add(disk, frame, payload)
                if batch.is_full:
                    full, batch = batch, _Batch()
                    await self._submit(full)
        finally:
            if batch.frames:
                await self._submit(batch)

    async def _read(self, buffer: bytearray | memoryview) -> None:
        """Fills the buffer, no faster than the limits allow."""
        plan, shaper = self._plan, self._context.shaper
        if shaper.piece(plan.template_id) is None:
            await self._connection.read_into(buffer)
            return
        view = memoryview(buffer)
        while view:
            size = min(len(view), shaper.piece(plan.template_id) or len(view))
            await shaper.take(self._migration_id, plan.template_id, size)
            await self._connection.read_into(view[:size])
            view = view[size:]

    async def _accept(self, stack: AsyncExitStack, header: bytearray) -> tuple[_Disk, Frame]:
        """The frame of a header, checked against its disk. Raises Problem 400."""
        try:
            frame = Frame.unpack(header)
            if frame.disk not in self._disks:
                self._disks[frame.disk] = await self._open(stack, frame.disk)
            disk = self._disks[frame.disk]
            disk.staging.check_fits(frame)
        except FrameError as error:
            raise bad_request("malformed-frame", str(error)) from None
        return disk, frame

    async def _open(self, stack: AsyncExitStack, index: int) -> _Disk:
        plan = next((disk for disk in self._plan.disks if disk.index == index), None)
        if plan is None:
            raise FrameError(f"disk={index}: the migration has {len(self._plan.disks)} disks, counted from 0")
        context = self._context
        staging = await stack.enter_async_context(context.open(self._plan, self._migration_id, plan))
        return _Disk(staging, staging.epoch)

    async def _submit(self, batch: _Batch) -> None:
        await self._slots.acquire()
        try:
            self._context.room.check(self._plan.staging_dir, batch.size)
            await self._context.batches.acquire(self._migration_id)
        except StagingError as error:
            # What is in memory still finds room in the reserve; nothing more is read.
            self._failure = self._failure or error
            await self._context.batches.acquire(self._migration_id)
        task = asyncio.create_task(self._process(batch))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _process(self, batch: _Batch) -> None:
        context = self._context
        try:
            outcome = await asyncio.get_running_loop().run_in_executor(context.workers, _store, batch)
            self._outcome.durable += outcome.durable
            room = context.limits.rejected - len(self._outcome.rejected)
            self._outcome.rejected += outcome.rejected[:room]
            self._outcome.unreadable += outcome.unreadable
            for disk in {id(disk): disk for disk, *_rest in batch.frames}.values():
                if disk.staging.unsynced_bytes >= context.limits.unsynced_bytes:
                    await context.call(disk.staging.commit, disk.epoch)
                    context.verifier.consider(self._migration_id)
        except StagingError as error:
            self._failure = self._failure or error
        except Exception as error:
            _log.exception("migration %s: a batch of frames could not be stored", self._migration_id)
            self._failure = self._failure or StagingError(str(error))
        finally:
            context.buffers.give(payload for _disk, _frame, payload in batch.frames)
            context.batches.release()
            self._slots.release()

    async def _finish(self) -> None:
        """Waits for the batches and makes durable what they wrote. Raises StagingError."""
        if self._running:
            await asyncio.gather(*self._running)
        for disk in self._disks.values():
            try:
                await self._context.call(disk.staging.commit, disk.epoch)
            except StagingError as error:
                self._failure = self._failure or error
        if self._outcome.unreadable:
            await self._context.call(self._record_unreadable)
        if self._failure is not None:
            raise self._failure

    def _record_unreadable(self) -> None:
        chunks = self._outcome.unreadable
        text = f"the source could not read all of {', '.join(chunks[:_SHOWN])}"
        more = f" and {len(chunks) - _SHOWN} more" if len(chunks) > _SHOWN else ""
        self._context.site.record(
            self._migration_id, "source-unreadable", f"{text}{more}; zeros stand for what is lost"
        )


async def post_frames(context: Context, connection: Connection, head: RequestHead) -> None:
    """Handles the request. Raises Problem, StagingError, ConnectionLostError; what had arrived is kept in all cases."""
    length = head.content_length
    if length is None:
        raise Problem(HTTPStatus.LENGTH_REQUIRED, "length-required", "Content-Length: is missing")
    if length > context.limits.body_bytes:
        detail = f"Content-Length: {length}, must be at most {context.limits.body_bytes}"
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body-too-large", detail)
    if head.headers.get("content-type") != CONTENT_TYPE:
        detail = f"Content-Type: must be {CONTENT_TYPE}"
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)
    migration_id, plan = await context.sender(head)
    if length:
        context.room.check(plan.staging_dir)
    await _ensure_copying(context, migration_id, plan)
    async with context.posts.one(migration_id):
        if head.expects_continue:
            await connection.write(CONTINUE)
        try:
            outcome = await _Request(context, connection, migration_id, plan).run(length)
        finally:
            context.shaper.forget(migration_id)
            context.verifier.consider(migration_id)
    body = json.dumps({"durable": outcome.durable, "rejected": outcome.rejected}).encode()
    await connection.write(answer(HTTPStatus.OK, body, content_type="application/json", keep_alive=head.keep_alive))


async def _ensure_copying(context: Context, migration_id: str, plan: CopyPlan) -> None:
    if plan.state == "copying":
        return
    if plan.state != "confirmed":
        raise wrong_state(plan.state, "confirmed or copying")
    try:
        await context.call(context.site.begin_copying, migration_id)
    except WrongStateError as error:
        raise wrong_state(error.state, "confirmed or copying") from None
    except QueuedError as error:
        raise Problem(HTTPStatus.CONFLICT, "queued", str(error), place=error.place, waiting=error.waiting) from None
    except UnknownMigrationError:
        raise Problem(HTTPStatus.UNAUTHORIZED, "unauthorized", "the session's migration is gone") from None
