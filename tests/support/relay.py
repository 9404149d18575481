# SPDX-License-Identifier: GPL-3.0-or-later
"""A TCP relay between agents and the gateway, with the faults of a link: cut, dead, slow, far away, resetting."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any

_BLOCK = 64 << 10
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset


class LoopThread:
    """An event loop in a thread of its own; the base of what stands between agent and gateway."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine there and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def end(self) -> None:
        """Cancel everything and end the thread."""

        async def cancel() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.do(cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(60)
        self.loop.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


class Relay:
    """Relays what comes to ``port`` on the loopback interface. The plain attributes may be changed while it works.

    ``sent`` and ``received`` count bytes that agents sent and got, ``connections`` what was accepted.
    """

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self.connections = 0
        self.resets = 0
        self.sent = 0
        self.received = 0
        self.refusing = False
        """New connections are reset."""
        self.reset_after: int | None = None
        """Each connection is reset once so many bytes were sent over it."""
        self.rate: int | None = None
        """Bytes per second from the agents to the gateway, over all connections."""
        self.rate_after = 0
        """``rate`` holds once so many bytes were sent."""
        self.delay = 0.0
        """Seconds that everything takes, each way."""
        self._target = (host, target)
        self._writers: set[asyncio.StreamWriter] = set()
        self._paid_until = 0.0
        self._thread = LoopThread()
        self._through = asyncio.Event()
        self._server: asyncio.Server = self._thread.do(self._start())
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self) -> None:
        """Reset every connection that is open now."""
        self._thread.do(self._cut())

    def hold(self) -> None:
        """Let nothing through in any direction; connections stay open, as behind a pulled cable."""
        self._call(self._through.clear)

    def release(self) -> None:
        """Let everything through again that waited."""
        self._call(self._through.set)

    def crawl(self, after: int, rate: int = 256 << 10) -> None:
        """Let ``after`` bytes of what is still to be sent through at full speed, then only ``rate`` per second."""
        self.rate_after, self.rate = self.sent + after, rate

    def hurry(self) -> None:
        """As fast as it goes again."""
        self.rate = None

    def close(self) -> None:
        """Stop listening and cut everything."""
        if not self._thread.loop.is_closed():
            self._call(self._server.close)
            self.cut()
            self._thread.end()

    @property
    def quiet(self) -> bool:
        """Whether no connection is open."""
        return not self._writers

    # --- in the loop ------------------------------------------------------------------------------------------------

    def _call(self, function: Callable[[], object]) -> None:
        async def call() -> None:
            function()

        self._thread.do(call())

    async def _start(self) -> asyncio.Server:
        self._through.set()
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_BLOCK, backlog=256)

    async def _cut(self) -> None:
        for writer in tuple(self._writers):
            reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if self.refusing:
                raise ConnectionRefusedError
            back, server = await asyncio.open_connection(*self._target, limit=_BLOCK)
        except OSError:
            reset(client)
            return
        self._writers |= {client, server}
        ways = [
            asyncio.create_task(self._relay(reader, server, sending=True)),
            asyncio.create_task(self._relay(back, client, sending=False)),
        ]
        try:
            await asyncio.gather(*ways)
        except OSError:
            for writer in (client, server):
                reset(writer)
        finally:
            for way in ways:
                way.cancel()
            self._writers -= {client, server}
            client.close()
            server.close()

    async def _relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, sending: bool) -> None:
        """One direction, until its end or OSError."""
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256 if self.delay else 4)
        reading = asyncio.create_task(self._read(source, late))
        count = 0
        try:
            while True:
                due, data = await late.get()
                await asyncio.sleep(max(0.0, due - self._thread.loop.time()))
                await self._through.wait()
                if not data:
                    await reading
                    sink.write_eof()
                    return
                if sending:
                    await self._pay(len(data))
                sink.write(data)
                await sink.drain()
                count += len(data)
                if not sending:
                    self.received += len(data)
                    continue
                self.sent += len(data)
                if self.reset_after is not None and count >= self.reset_after:
                    self.resets += 1
                    raise ConnectionResetError
        finally:
            reading.cancel()

    async def _read(self, source: asyncio.StreamReader, late: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b"-"
        try:
            while data:
                data = await source.read(_BLOCK)
                await late.put((self._thread.loop.time() + self.delay, data))
        except OSError:
            await late.put((0.0, b""))
            raise

    async def _pay(self, size: int) -> None:
        """Keep to ``rate``."""
        if self.rate is None or self.sent < self.rate_after:
            return
        now = self._thread.loop.time()
        self._paid_until = max(self._paid_until, now) + size / self.rate
        await asyncio.sleep(self._paid_until - now)
