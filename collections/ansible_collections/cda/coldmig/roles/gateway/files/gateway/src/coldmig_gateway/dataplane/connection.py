# SPDX-License-Identifier: GPL-3.0-or-later
"""One TLS connection as something to read from and write to, with bounded memory.

Payloads are decrypted straight into the buffer they are wanted in. Whoever does not read is not sent to: without a
waiting reader at most one read-ahead buffer fills, then the transport is paused and TCP holds the sender back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

_READ_AHEAD = 64 << 10


class ConnectionLostError(ConnectionError):
    """The peer has gone, or stood still for too long."""


class HeadTooLargeError(ValueError):
    """There is no end of the head within its bound."""


class Connection(asyncio.BufferedProtocol):
    """A byte stream in both directions for one coroutine at a time in each."""

    def __init__(self, started: Callable[[Connection], None], lost: Callable[[Connection], None]) -> None:
        """``started`` and ``lost`` are called when the TLS connection is there, and when it has gone."""
        self._started = started
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._ahead = bytearray()  # made when something comes, let go while a request is waited for
        self._start = 0  # what was read ahead lies in [start:end]
        self._end = 0
        self._target: memoryview | None = None  # what is still to be filled of the buffer that a reader waits for
        self._reader: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = False
        self._paused = False
        self._discarding = False
        self._moved = asyncio.get_running_loop().time()

    # --- the transport's side -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport
        self._started(self)

    def get_buffer(self, sizehint: int) -> memoryview | bytearray:
        # Large targets are filled in place; small reads share one decryption by way of the read-ahead buffer.
        if self._target is not None and len(self._target) >= _READ_AHEAD:
            return self._target
        if not self._ahead:
            self._ahead = bytearray(_READ_AHEAD)
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == _READ_AHEAD:
            self._ahead[: self._end - self._start] = self._ahead[self._start : self._end]
            self._start, self._end = 0, self._end - self._start
        return memoryview(self._ahead)[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self._moved = asyncio.get_running_loop().time()
        if self._discarding:
            self._start = self._end = 0
            return
        if self._target is not None and len(self._target) >= _READ_AHEAD:
            self._target = self._target[nbytes:]
        else:
            self._end += nbytes
            self._serve_target()
        if self._reader is not None and not self._target:
            self._wake()
        if self._end - self._start == _READ_AHEAD:
            self._pause()

    def eof_received(self) -> bool:
        self._fail()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail()
        self._writable.set()
        self._lost(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._moved = asyncio.get_running_loop().time()
        self._writable.set()

    # --- the application's side ---------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """True once nothing can be read any more."""
        return self._gone

    @property
    def still_for(self) -> float:
        """Seconds since anything moved while somebody here waited for the peer; 0 if nobody waits."""
        waiting = self._reader is not None or not self._writable.is_set()
        return asyncio.get_running_loop().time() - self._moved if waiting else 0.0

    async def read_into(self, buffer: bytearray | memoryview) -> None:
        """Fills the whole buffer. Raises ConnectionLostError."""
        self._target = memoryview(buffer)
        self._serve_target()
        while self._target:
            await self._wait()
        self._target = None

    async def wait_for_bytes(self) -> None:
        """Returns when there is something to read. Raises ConnectionLostError."""
        while self._start == self._end:
            # Many connections wait like this, most of them for long.
            self._start = self._end = 0
            self._ahead = bytearray()
            await self._wait()

    async def read_head(self, limit: int) -> bytes:
        """Everything up to and including the next empty line. Raises HeadTooLargeError, ConnectionLostError."""
        while True:
            found = self._ahead.find(b"\r\n\r\n", self._start, min(self._end, self._start + limit))
            if found >= 0:
                return self._take(found + 4 - self._start)
            if self._end - self._start >= limit:
                raise HeadTooLargeError
            await self._wait()

    async def read_some(self) -> bytes:
        """Whatever is there, at least one byte. Raises ConnectionLostError."""
        await self.wait_for_bytes()
        return self._take(self._end - self._start)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Writes; returns when the transport will take more. Raises ConnectionLostError."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionLostError
        if self._writable.is_set():
            self._moved = asyncio.get_running_loop().time()
        transport.write(data)
        await self._writable.wait()
        if transport.is_closing():
            raise ConnectionLostError

    async def close(self, *, linger_seconds: float = 0.0) -> None:
        """Closes after what was written has gone out.

        With ``linger_seconds`` what the peer still sends is thrown away for so long at most: closing at once would
        reset the connection and could take from the peer the answer that tells it why.
        """
        transport = self._transport
        if transport is None:
            return
        if linger_seconds and not self._gone:
            self._discarding = True
            self._resume()
            self._reader = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._reader], timeout=linger_seconds)
            self._reader = None
        transport.close()

    def abort(self) -> None:
        """Ends the connection at once; a peer in the middle of a body sees that it is incomplete."""
        if self._transport is not None:
            # Before Python 3.11.4 a TLS transport that asyncio and we have both closed fails so; it is gone anyway.
            with contextlib.suppress(AttributeError):
                self._transport.abort()
        self._fail()

    # --- inside -------------------------------------------------------------------------------------------------

    def _take(self, size: int) -> bytes:
        data = bytes(self._ahead[self._start : self._start + size])
        self._start += size
        return data

    def _serve_target(self) -> None:
        """Moves what was read ahead to where it is wanted."""
        if self._target is None:
            return
        size = min(len(self._target), self._end - self._start)
        if size:
            self._target[:size] = memoryview(self._ahead)[self._start : self._start + size]
            self._start += size
            self._target = self._target[size:]

    async def _wait(self) -> None:
        """Until something was read."""
        if self._gone:
            raise ConnectionLostError
        self._moved = asyncio.get_running_loop().time()
        self._reader = asyncio.get_running_loop().create_future()
        self._resume()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _fail(self) -> None:
        self._gone = True
        if self._reader is not None and not self._reader.done():
            if self._discarding:
                self._reader.set_result(None)
            else:
                self._reader.set_exception(ConnectionLostError())

    def _pause(self) -> None:
        if self._transport is not None and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
