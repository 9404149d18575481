# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from coldmig_gateway.control.proxy_protocol import ProxiedHttpProtocol, ProxyLineError, parse_proxy_line


@pytest.mark.parametrize(
    ("line", "peer"),
    [
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443", ("192.0.2.7", 56324)),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 443", ("2001:db8::1", 1)),
        (b"PROXY UNKNOWN", None),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2", None),
    ],
)
def test_a_good_line_names_the_peer(line: bytes, peer: tuple[str, int] | None) -> None:
    assert parse_proxy_line(line) == peer


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET / HTTP/1.1",
        b"PROXY",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 56324",
        b"PROXY TCP4 192.0.2.700 10.0.0.1 1 2",
        b"PROXY TCP4 a b c d",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 x 2",
        b"PROXY TCP4  192.0.2.7 10.0.0.1 1 2",
        b"PROXY TCP4 \xff 10.0.0.1 1 2",
        b"PROXY UDP4 192.0.2.7 10.0.0.1 1 2",
    ],
)
def test_a_bad_line_is_refused(line: bytes) -> None:
    with pytest.raises(ProxyLineError):
        parse_proxy_line(line)


async def _tell_peer(scope: Scope, receive: Receive, send: Send) -> None:
    body = f"{scope['client']} {scope['scheme']} {dict(scope['headers']).get(b'x-n', b'').decode()}".encode()
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    config = uvicorn.Config(_tell_peer, http=ProxiedHttpProtocol, ws="none", lifespan="off", log_config=None)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    while not running.started and thread.is_alive():
        time.sleep(0.01)
    yield path
    running.should_exit = True
    thread.join()


def _exchange(path: Path, *pieces: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        for piece in pieces:
            client.sendall(piece)
            time.sleep(0.02)  # so that the pieces arrive apart
        return _answer(client)


def _answer(client: socket.socket) -> bytes:
    """One answer: its head and its body may come apart."""
    answer = b""
    while b"\r\n\r\n" not in answer or not answer.split(b"\r\n\r\n", 1)[1]:
        data = client.recv(65536)
        if not data:
            break
        answer += data
    return answer


LINE = b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n"
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nX-N: 1\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [[LINE + REQUEST], [LINE, REQUEST], [LINE[:9], LINE[9:-1], LINE[-1:] + REQUEST[:5], REQUEST[5:]]],
    ids=["at once", "apart", "in bits"],
)
def test_the_application_sees_the_peer_of_the_line(server: Path, pieces: list[bytes]) -> None:
    assert _exchange(server, *pieces).endswith(b"('192.0.2.7', 56324) https 1")


def test_the_line_is_expected_once_per_connection(server: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(server))
        for request in (LINE + REQUEST, REQUEST):
            client.sendall(request)
            assert b"192.0.2.7" in _answer(client)


@pytest.mark.parametrize("pieces", [[REQUEST], [b"x" * 200], [b"PROXY TCP4 " + b"1" * 200 + b"\r\n"]])
def test_a_connection_without_the_line_is_cut(server: Path, pieces: list[bytes]) -> None:
    try:
        answer = _exchange(server, *pieces)
    except (ConnectionResetError, BrokenPipeError):
        answer = b""
    assert answer == b""
