# SPDX-License-Identifier: GPL-3.0-or-later
"""How a connection takes from the kernel what arrives: in large pieces, never waiting for what does not come."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coldmig_gateway.dataplane.connection import RECEIVE_BYTES, Connection, ConnectionLostError
from gateway.dataplane.front import write_certificate

_PATIENCE = 30.0
_SIZE = 1 << 20


class _Counting:
    """A socket that counts how often it was read from."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.reads = 0

    def recv_into(self, buffer: memoryview) -> int:
        self.reads += 1
        return self._real.recv_into(buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@asynccontextmanager
async def _pair(directory: Path) -> AsyncIterator[tuple[Connection, _Counting, asyncio.StreamWriter]]:
    """A connection after its handshake, its socket, and the peer."""
    certificate, key = write_certificate(directory)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        opening = asyncio.create_task(
            asyncio.open_connection(
                *listener.getsockname(), ssl=ssl.create_default_context(cafile=str(certificate)),
                server_hostname="localhost",
            )
        )  # fmt: skip
        accepted, _ = await loop.sock_accept(listener)
    counting = _Counting(accepted)
    connection = Connection(counting, server, bytearray(RECEIVE_BYTES))  # type: ignore[arg-type]
    await connection.handshake()
    _reader, writer = await opening
    try:
        yield connection, counting, writer
    finally:
        connection.abort()
        writer.transport.abort()


def _run(directory: Path, test: Callable[[Connection, _Counting, asyncio.StreamWriter], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(_PATIENCE), _pair(directory) as (connection, counting, writer):
            await test(connection, counting, writer)

    asyncio.run(run())


async def _send(writer: asyncio.StreamWriter, data: bytes, piece: int) -> None:
    """In pieces of their own, each of which has arrived before the next one goes."""
    for start in range(0, len(data), piece):
        writer.write(data[start : start + piece])
        await writer.drain()
        await asyncio.sleep(0.0005)


def test_a_body_that_arrives_in_small_pieces_is_taken_in_large_ones(tmp_path: Path) -> None:
    async def test(connection: Connection, counting: _Counting, writer: asyncio.StreamWriter) -> None:
        data, buffer = bytes(range(256)) * (_SIZE >> 8), bytearray(_SIZE)
        reading = asyncio.create_task(connection.read_into(buffer))
        await _send(writer, data, 2 << 10)
        await reading
        assert buffer == data
        # 512 pieces; what is read one by one is the end, where a record may be there already without its last bytes.
        assert counting.reads < 64

    _run(tmp_path, test)


@pytest.mark.parametrize("size", [1, 40, 16 << 10, (16 << 10) + 1, 200_001, _SIZE])
def test_the_last_byte_may_come_alone_and_nothing_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("coldmig_gateway.dataplane.connection._WORTHWHILE_SECONDS", 3600.0)

    async def test(connection: Connection, _counting: _Counting, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            buffer = bytearray(size)
            reading = asyncio.create_task(connection.read_into(buffer))
            writer.write(bytes(size - 1))
            await asyncio.sleep(0.01)
            assert not reading.done()
            writer.write(b"x")
            await reading
            assert buffer.endswith(b"x")

    _run(tmp_path, test)


def test_the_last_byte_of_a_record_may_come_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldmig_gateway.dataplane.connection._WORTHWHILE_SECONDS", 3600.0)

    async def test(connection: Connection, _counting: _Counting, writer: asyncio.StreamWriter) -> None:
        buffer = bytearray(16 << 10)
        raw = writer.transport.get_extra_info("socket").dup()
        tls = writer.transport.get_extra_info("ssl_object")
        outgoing = writer.transport._ssl_protocol._outgoing  # type: ignore[attr-defined]
        reading = asyncio.create_task(connection.read_into(buffer))
        tls.write(b"x" * len(buffer))
        record = outgoing.read()
        with raw:
            for part in (record[:-1], record[-1:]):
                await asyncio.sleep(0.01)
                assert not reading.done()
                raw.send(part)
        await reading
        assert buffer == b"x" * len(buffer)

    _run(tmp_path, test)


def test_a_request_after_a_body_is_read_at_once(tmp_path: Path) -> None:
    async def test(connection: Connection, _counting: _Counting, writer: asyncio.StreamWriter) -> None:
        reading = asyncio.create_task(connection.read_into(bytearray(_SIZE)))
        await _send(writer, bytes(_SIZE), 64 << 10)
        await reading
        heading = asyncio.create_task(connection.read_head(1000))
        await asyncio.sleep(0.01)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await heading == b"GET / HTTP/1.1\r\n\r\n"

    _run(tmp_path, test)


@pytest.mark.parametrize("ends", ["close", "reset"])
def test_a_peer_that_goes_in_the_middle_of_a_body_is_noticed(tmp_path: Path, ends: str) -> None:
    async def test(connection: Connection, _counting: _Counting, writer: asyncio.StreamWriter) -> None:
        reading = asyncio.create_task(connection.read_into(bytearray(_SIZE)))
        await _send(writer, bytes(20 << 10), 10 << 10)
        assert not reading.done()
        if ends == "close":
            writer.close()
        else:
            writer.transport.abort()
        with pytest.raises(ConnectionLostError):
            await reading

    _run(tmp_path, test)


def test_a_slow_body_does_not_stand_still(tmp_path: Path) -> None:
    async def test(connection: Connection, counting: _Counting, writer: asyncio.StreamWriter) -> None:
        reading = asyncio.create_task(connection.read_into(bytearray(_SIZE)))
        await _send(writer, bytes(20 << 10), 10 << 10)
        reads = counting.reads
        while counting.reads < reads + 3:  # far less arrives than would be worthwhile
            await _send(writer, b"x", 1)
        reading.cancel()

    _run(tmp_path, test)
