# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from coldmig_gateway.dataplane.relay import proxy_line
from coldmig_gateway.dataplane.settings import Limits
from gateway.dataplane.front import Front, wait_until, write_certificate


class ControlPlane:
    """A small HTTP server on the Unix socket that answers each request with what it saw."""

    def __init__(self, path: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.lines: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            self.lines.append(stream.readline())
            while request := stream.readline():
                length = 0
                while (line := stream.readline()) not in (b"\r\n", b""):
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                body = stream.read(length)
                answer = request.split()[1] + b" " + body
                stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
                stream.flush()


@pytest.fixture
def control(front: Front) -> Iterator[ControlPlane]:
    plane = ControlPlane(str(front.control_socket))
    yield plane
    plane.listener.close()


def test_other_paths_reach_the_control_plane_with_the_peer_s_address(front: Front, control: ControlPlane) -> None:
    client = front.client()
    connection = client.connect()
    assert client.request("GET", "/api/v1/health", connection=connection).body == b"/api/v1/health "
    big = os.urandom(3 << 20)
    assert client.request("POST", "/api/v1/x", big, connection=connection).body == b"/api/v1/x " + big
    assert connection.sock is not None
    port = connection.sock.getsockname()[1]
    connection.close()
    assert control.lines == [b"PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n" % (port, front.port)]


def test_a_proxy_line_from_outside_is_not_passed_on(front: Front, control: ControlPlane) -> None:
    with front.client().open_socket() as connection:
        connection.sendall(b"PROXY TCP4 10.9.9.9 127.0.0.1 1 443\r\nGET /api/v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    assert control.lines == []


def test_a_connection_may_go_on_to_the_control_plane_after_a_data_request(front: Front, control: ControlPlane) -> None:
    client = front.client()
    connection = client.connect()
    assert client.request("GET", "/data/v1/nothing", connection=connection).status == 404
    assert client.request("GET", "/api/v1/health", connection=connection).status == 200
    connection.close()


def test_without_a_control_plane_the_answer_is_502(front: Front) -> None:
    answer = front.client().request("GET", "/api/v1/health")
    assert (answer.status, answer.json["type"]) == (502, "urn:coldmig:problem:control-plane-down")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /data/v1/frames HTTP/1.1\r\n\r\n", 400),
        (b"GET /data/v1/frames HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"DELETE /data/v1/disks/0/have HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /data/v1/disks/0/have HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 400),
        (b"GET /data/v1/disks/-1/have HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"POST /data/v1/frames HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /data/v1/frames HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /api HTTP/1.1\nHost: a\n\nGET /data/v1/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /data/v1/" + b"x" * (17 << 10), 431),
    ],
)
def test_heads_that_are_wrong_or_hostile_are_refused(front: Front, raw: bytes, status: int) -> None:
    with front.client().open_socket() as connection:
        connection.sendall(raw)
        assert connection.recv(100).startswith(b"HTTP/1.1 %d " % status)


def test_a_head_that_trickles_in_is_given_up(make_front: Callable[..., Front]) -> None:
    front = make_front(Limits(head_seconds=1.0))
    with front.client().open_socket() as connection:
        connection.settimeout(0.05)

        def ended_after(byte: bytes) -> bool:
            try:
                connection.sendall(byte)
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        begun = time.monotonic()
        wait_until(lambda: ended_after(b"G"), "the server gives up")
        assert time.monotonic() - begun >= 1.0


def test_a_body_that_stands_still_is_given_up(
    make_front: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coldmig_gateway.dataplane.server._HOUSEKEEPING_SECONDS", 0.1)
    front = make_front(Limits(stalled_seconds=0.5))
    migration_id = "11111111-2222-4333-8444-555555555555"
    front.migration(migration_id, 1 << 20)
    session = front.session(migration_id)
    with session.open_socket() as connection:
        connection.sendall(session.frames_head(1000))
        connection.settimeout(20)
        # An abort may show as an end, as a TCP reset, or as a TLS stream without its end.
        with contextlib.suppress(ssl.SSLError, ConnectionResetError):
            assert connection.recv(100) == b""


def test_one_address_cannot_take_all_connections(make_front: Callable[..., Front]) -> None:
    front = make_front(Limits(connections_per_address=3))
    client = front.client()
    kept = [client.open_socket() for _ in range(3)]
    with pytest.raises(OSError, match=r".*"):
        client.open_socket()
    kept.pop().close()

    def connects() -> bool:
        try:
            client.open_socket().close()
        except OSError:
            return False
        return True

    wait_until(connects, "a place is free again")
    for connection in kept:
        connection.close()


def test_where_all_places_are_taken_the_connection_that_has_waited_longest_goes(
    make_front: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coldmig_gateway.dataplane.server._STILL_SECONDS", 0.0)
    client = make_front(Limits(connections=3)).client()
    kept = [client.connect() for _ in range(3)]
    for connection in (*kept, kept[0]):
        assert client.request("GET", "/data/v1/nothing", connection=connection).status == 404
    assert client.request("GET", "/data/v1/nothing").status == 404
    with pytest.raises((ConnectionError, http.client.HTTPException, ssl.SSLError)):
        client.request("GET", "/data/v1/nothing", connection=kept[1])
    for connection in kept:
        connection.close()


def test_a_client_that_does_not_speak_tls_disturbs_nobody(front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.port)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert front.client().request("GET", "/data/v1/nothing").status == 404


def test_http_2_is_not_offered(front: Front) -> None:
    context = ssl.create_default_context(cafile=str(front.certificate))
    context.set_alpn_protocols(["h2", "http/1.1"])
    with context.wrap_socket(
        socket.create_connection(("127.0.0.1", front.port)), server_hostname="localhost"
    ) as connection:
        assert connection.selected_alpn_protocol() == "http/1.1"


def test_a_renewed_certificate_is_used_for_new_connections(front: Front) -> None:
    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", front.port))

    before = shown()
    front.certificate.write_text("half a certificate")
    assert shown() == before
    write_certificate(front.directory)
    assert shown() != before
    assert shown().split() == front.certificate.read_text().split()


def test_ipv6_and_mapped_addresses_are_named_correctly() -> None:
    assert proxy_line(("2001:db8::1", 5), ("2001:db8::2", 443)) == b"PROXY TCP6 2001:db8::1 2001:db8::2 5 443\r\n"
    assert proxy_line(("::ffff:10.0.0.1", 5), ("::ffff:10.0.0.2", 443)) == b"PROXY TCP4 10.0.0.1 10.0.0.2 5 443\r\n"
    assert proxy_line(("fe80::1%eth0", 5), ("fe80::2%eth0", 443)) == b"PROXY TCP6 fe80::1 fe80::2 5 443\r\n"
