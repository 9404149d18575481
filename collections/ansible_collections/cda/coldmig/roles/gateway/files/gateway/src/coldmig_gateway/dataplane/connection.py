# SPDX-License-Identifier: GPL-3.0-or-later
"""One TLS connection as something to read from and write to, with bounded memory.

TLS runs here, on the event loop's plain socket calls: asyncio's own TLS transport costs a third more processor time
for what arrives, and a buffer of a quarter of a megabyte for each connection that waits. Payloads are decrypted
straight into the buffer they are wanted in. What nobody reads stays in the kernel, and TCP holds the sender back.

Where a body is read, the kernel wakes us up when a good piece of it is there (SO_RCVLOWAT): on a link slower than we
are it would do so for every few packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

#: What is taken from a socket at once.
RECEIVE_BYTES = 256 << 10
_RECORD = 16 << 10
_SEND_PIECE = 256 << 10
_SHUTDOWN_SECONDS = 5.0
#: A connection from which everything is there at once lets the others in after so many bytes.
_TURN_BYTES = 1 << 20
_CALL_BYTES = 4 << 10
#: What should be there of a body before it is worth waking up.
_WORTHWHILE_BYTES = 256 << 10
#: On a link that brings less than that in this time, and for a peer that ends early, whatever is there is taken.
_WORTHWHILE_SECONDS = 0.5


class ConnectionLostError(ConnectionError):
    """The peer has gone, or stood still for too long."""


class HeadTooLargeError(ValueError):
    """There is no end of the head within its bound."""


class Connection:
    """A byte stream in both directions for one coroutine at a time in each."""

    def __init__(self, peer: socket.socket, context: ssl.SSLContext, scratch: bytearray) -> None:
        """``scratch`` has RECEIVE_BYTES and may be shared by all connections of an event loop."""
        peer.setblocking(False)
        self._socket = peer
        self._scratch = memoryview(scratch)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._ahead = b""  # decrypted and not taken yet
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._watched = False
        self._writing = asyncio.Lock()
        self._closed = False
        self._ended = False
        self._turn = 0
        self._mark = 1  # the socket's SO_RCVLOWAT
        self._emptied = False  # the last read has taken all there was
        self._loop = asyncio.get_running_loop()
        self._moved = self._loop.time()

    async def handshake(self) -> None:
        """To be done first. Raises OSError (ssl.SSLError is one), ConnectionLostError."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    await self._flush()  # the alert that says why
                raise
            else:
                await self._flush()
                return

    @property
    def still_for(self) -> float:
        """Seconds since anything moved while somebody here waited for the peer; 0 if nobody waits."""
        waiting = self._readable is not None or self._writable is not None
        return self._loop.time() - self._moved if waiting else 0.0

    # --- reading ------------------------------------------------------------------------------------------------

    async def read_into(self, buffer: bytearray | memoryview) -> None:
        """Fills the whole buffer. Raises ConnectionLostError."""
        view = memoryview(buffer)
        size = len(view)
        filled = min(size, len(self._ahead))
        if filled:
            view[:filled] = self._ahead[:filled]
            self._ahead = self._ahead[filled:]
        read = self._tls.read
        while filled < size:
            try:
                while filled < size:
                    count: int = read(size - filled, view[filled:])  # type: ignore[assignment]
                    if not count:
                        raise self._lost()
                    filled += count
            except ssl.SSLWantReadError:
                # Of what is missing, TLS may hold all of a record but its last byte; the others are still to come.
                await self._more(min(size - filled - _RECORD, _WORTHWHILE_BYTES))
            except ssl.SSLError:
                raise self._lost() from None
        self._turn += size + _CALL_BYTES
        if self._turn >= _TURN_BYTES:
            self._turn = 0
            await asyncio.sleep(0)

    async def wait_for_bytes(self) -> None:
        """Returns when there is something to read. Raises ConnectionLostError."""
        if not self._ahead:
            self._ahead = await self._read_record()

    async def read_head(self, limit: int) -> bytes:
        """Everything up to and including the next empty line. Raises HeadTooLargeError, ConnectionLostError."""
        while (end := self._ahead.find(b"\r\n\r\n", 0, limit)) < 0:
            if len(self._ahead) >= limit:
                raise HeadTooLargeError
            self._ahead += await self._read_record()
        head, self._ahead = self._ahead[: end + 4], self._ahead[end + 4 :]
        return head

    async def read_some(self) -> bytes:
        """Whatever is there, at least one byte. Raises ConnectionLostError."""
        await self.wait_for_bytes()
        data, self._ahead = self._ahead, b""
        return data

    async def _read_record(self) -> bytes:
        while True:
            try:
                record = self._tls.read(_RECORD)
                if not record:
                    raise self._lost()
                return record
            except ssl.SSLWantReadError:
                await self._more()
            except ssl.SSLError:
                raise self._lost() from None

    async def _more(self, worthwhile: int = 1) -> None:
        if self._outgoing.pending > 0:  # TLS itself had something to say
            await self._flush()
        await self._receive(worthwhile)

    async def _receive(self, worthwhile: int = 1) -> None:
        """Takes from the socket what is there, at least a byte. Raises ConnectionLostError.

        Where it has to wait, it does for ``worthwhile`` bytes, the end, or a moment after which a byte is enough.
        """
        if self._ended:
            raise self._lost()
        while True:
            if self._closed:
                raise ConnectionLostError
            if self._emptied:  # to look again now would be in vain
                self._emptied = False
                await self._wait_until_readable(worthwhile)
                continue
            try:
                count = self._socket.recv_into(self._scratch)
                self._emptied = 0 < count < len(self._scratch)
                break
            except (BlockingIOError, InterruptedError):
                await self._wait_until_readable(worthwhile)
            except OSError:
                raise self._lost() from None
        self._moved = self._loop.time()
        if count:
            self._incoming.write(self._scratch[:count])
        else:
            self._ended = True
            self._incoming.write_eof()

    async def _wait_until_readable(self, worthwhile: int) -> None:
        self._set_mark(max(1, worthwhile))
        enough = self._loop.call_later(_WORTHWHILE_SECONDS, self._set_mark, 1) if worthwhile > 1 else None
        self._readable = self._loop.create_future()
        if not self._watched:
            self._watched = True
            self._loop.add_reader(self._socket.fileno(), self._on_readable)
        try:
            await self._readable
        finally:
            if enough is not None:
                enough.cancel()
            self._readable = None

    def _set_mark(self, mark: int) -> None:
        if mark != self._mark and not self._closed:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
            self._mark = mark

    def _on_readable(self) -> None:
        if self._readable is None:
            # Nobody wants it now. To ask again when somebody does costs less than to be told again and again.
            self._watched = False
            self._loop.remove_reader(self._socket.fileno())
        elif not self._readable.done():
            self._readable.set_result(None)

    # --- writing ------------------------------------------------------------------------------------------------

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Writes; returns when the kernel has it. Raises ConnectionLostError."""
        view = memoryview(data)
        for start in range(0, len(view), _SEND_PIECE):
            async with self._writing:
                if self._closed:
                    raise ConnectionLostError
                try:
                    self._tls.write(view[start : start + _SEND_PIECE])
                except ssl.SSLError:
                    raise self._lost() from None
                await self._send()

    async def _flush(self) -> None:
        async with self._writing:
            await self._send()

    async def _send(self) -> None:
        """Gives the kernel all that TLS wants to send. Raises ConnectionLostError."""
        while self._outgoing.pending:
            rest = memoryview(self._outgoing.read())
            while rest:
                if self._closed:
                    raise ConnectionLostError
                try:
                    rest = rest[self._socket.send(rest) :]
                    self._moved = self._loop.time()
                except (BlockingIOError, InterruptedError):
                    await self._wait_until_writable()
                except OSError:
                    raise self._lost() from None

    async def _wait_until_writable(self) -> None:
        writable = self._writable = self._loop.create_future()
        self._loop.add_writer(self._socket.fileno(), _wake, writable)
        try:
            await writable
        finally:
            self._writable = None
            if not self._closed:
                self._loop.remove_writer(self._socket.fileno())

    # --- the end ------------------------------------------------------------------------------------------------

    async def close(self, *, linger_seconds: float = 0.0) -> None:
        """Closes after what was written has gone out.

        With ``linger_seconds`` what the peer still sends is thrown away for so long at most: closing at once would
        reset the connection and could take from the peer the answer that tells it why.
        """
        if self._closed:
            return
        if linger_seconds:
            with contextlib.suppress(ConnectionLostError, TimeoutError):
                async with asyncio.timeout(linger_seconds):
                    while not self._ended:
                        await self._receive()
                        self._incoming.read()
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_SHUTDOWN_SECONDS):
                with contextlib.suppress(ssl.SSLError):
                    self._tls.unwrap()
                await self._flush()
        self.abort()

    def abort(self) -> None:
        """Ends the connection at once; a peer in the middle of a body sees that it is incomplete."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        for waiting in (self._readable, self._writable):
            if waiting is not None and not waiting.done():
                waiting.set_exception(ConnectionLostError())

    def _lost(self) -> ConnectionLostError:
        self.abort()
        return ConnectionLostError()


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
