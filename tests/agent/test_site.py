# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTPS client against real TLS servers, right ones and wrong ones: what it accepts and what it says."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from agent_lab import Authority

from coldmig_agent import site as site_module
from coldmig_agent.api import DataClient, parse_enrolment, parse_frames_answer, parse_session
from coldmig_agent.config import Endpoint, SiteConfig, parse_endpoint
from coldmig_agent.site import (
    CertificateError,
    NotASiteError,
    ProblemError,
    Site,
    SiteError,
    UnreachableError,
)
from support.processes import free_port

AUTHORITY = Authority.create()
Answer = tuple[int, str, bytes]


class Server:
    """An HTTPS server that answers with what the test says and keeps what it was sent."""

    def __init__(self, certificate: Path, answer: Callable[[str], Answer]) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append((self.command, self.path, dict(self.headers), body))
                status, kind, content = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = _serve  # noqa: N815 - named by the library

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(
        answer: Answer | Callable[[str], Answer] = (200, "application/json", b"{}"),
        names: tuple[str, ...] = ("127.0.0.1",),
        authority: Authority = AUTHORITY,
        days: tuple[int, int] = (-1, 30),
    ) -> Server:
        reply = answer if callable(answer) else lambda _path: answer
        servers.append(Server(authority.server(tmp_path, *names, days=days), reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def site_for(port: int, host: str = "127.0.0.1", ca_pem: str = AUTHORITY.pem, proxy: Endpoint | None = None) -> Site:
    url = f"https://{host}:{port}"
    return Site(SiteConfig(url, parse_endpoint(url, "url", "https"), ca_pem, proxy))


def get(site: Site, path: str = "/api/v1/session", **options: Any) -> bytes:
    return site.connection(5).request("GET", path, token="tok", **options)


def failure(site: Site) -> SiteError:
    with pytest.raises(SiteError) as caught:
        get(site)
    return caught.value


def test_the_site_with_the_right_certificate_is_accepted(serve: Callable[..., Server]) -> None:
    server = serve((200, "application/json", b'{"a": 1}'))
    assert get(site_for(server.port)) == b'{"a": 1}'
    assert server.requests[0][2]["Authorization"] == "Bearer tok"


@pytest.mark.parametrize("days", [(-3000, -2000), (2000, 3000)], ids=["expired", "not yet valid"])
def test_dates_do_not_matter_because_source_clocks_are_wrong(
    serve: Callable[..., Server], days: tuple[int, int]
) -> None:
    assert get(site_for(serve(days=days).port)) == b"{}"


def test_another_authority_is_refused_with_the_sentence_for_the_operator(serve: Callable[..., Server]) -> None:
    server = serve(authority=Authority.create())
    error = failure(site_for(server.port))
    assert isinstance(error, CertificateError)
    assert str(error) == f"cannot reach https://127.0.0.1:{server.port}: certificate is not the one on this ISO"
    assert server.requests == []


def test_a_certificate_for_another_name_is_refused(serve: Callable[..., Server]) -> None:
    error = failure(site_for(serve(names=("site.example",)).port))
    assert isinstance(error, CertificateError)
    assert "not for 127.0.0.1" in str(error)


def test_authorities_of_the_system_are_not_trusted() -> None:
    context = site_module.tls_context(AUTHORITY.pem)
    assert context.cert_store_stats()["x509"] == 1
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_a_refused_connection_is_told_as_such() -> None:
    port = free_port()
    error = failure(site_for(port))
    assert isinstance(error, UnreachableError)
    assert str(error).startswith(f"cannot reach https://127.0.0.1:{port}: connection refused")


def test_a_name_that_does_not_resolve_points_at_dns() -> None:
    assert "cannot be resolved; check DNS" in str(failure(site_for(1, host="no-such-host.invalid")))


def test_silence_is_told_as_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site = site_for(listener.getsockname()[1])
        with pytest.raises(UnreachableError, match="no answer from the site"):
            site.connection(0.3).request("GET", "/", token="t")


def test_something_without_tls_is_told_as_the_wrong_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=talk, daemon=True).start()
        assert "is this the site's port?" in str(failure(site_for(listener.getsockname()[1])))


PROBLEM = {"type": "urn:coldmig:problem:not-activated", "title": "Not activated", "status": 403, "detail": "ask"}


def test_a_problem_document_becomes_a_typed_error(serve: Callable[..., Server]) -> None:
    server = serve((403, "application/problem+json", json.dumps(PROBLEM).encode()))
    error = failure(site_for(server.port))
    assert isinstance(error, ProblemError)
    assert (error.status, error.slug, str(error)) == (403, "not-activated", "ask")


def test_wrong_fields_are_named(serve: Callable[..., Server]) -> None:
    document = {
        **PROBLEM,
        "detail": "not valid",
        "errors": [{"field": "cpu.sockets", "message": "must be 1 or more"}, 7],
    }
    server = serve((422, "application/problem+json", json.dumps(document).encode()))
    assert str(failure(site_for(server.port))) == "not valid (cpu.sockets: must be 1 or more)"


def test_a_problem_cannot_drive_the_terminal(serve: Callable[..., Server]) -> None:
    server = serve((500, "x", json.dumps({"detail": "a\x1b[2Jb\r\n" + "c" * 9000}).encode()))
    text = str(failure(site_for(server.port)))
    assert "\x1b" not in text
    assert len(text) <= 500


@pytest.mark.parametrize("body", [b"<html>", b"", b"[1]", b"[" * 100_000])
def test_a_web_server_that_is_no_site_is_told_as_such(serve: Callable[..., Server], body: bytes) -> None:
    server = serve((404, "text/html", body))
    error = failure(site_for(server.port))
    assert isinstance(error, NotASiteError)
    assert "HTTP 404" in str(error)


def test_an_answer_without_end_is_cut(serve: Callable[..., Server]) -> None:
    server = serve((200, "application/json", b"x" * 2000))
    with pytest.raises(NotASiteError, match="longer than 1000 bytes"):
        get(site_for(server.port), limit=1000)


def test_a_bitmap_of_the_wrong_size_is_refused_and_a_problem_is_not_taken_for_one(serve: Callable[..., Server]) -> None:
    answers = iter(
        [(200, "b", bytes(9)), (200, "b", bytes(11)), (409, "p", json.dumps(PROBLEM).encode()), (200, "b", bytes(10))]
    )
    server = serve(lambda _path: next(answers))
    client = DataClient(site_for(server.port), "t")
    for expected in (NotASiteError, NotASiteError, ProblemError):
        with pytest.raises(expected):
            client.have(0, 80)
    assert client.have(0, 80) == bytes(10)


def test_a_connection_is_used_again_and_a_lost_one_replaced(serve: Callable[..., Server]) -> None:
    server = serve()
    connection = site_for(server.port).connection(5)
    for _ in range(3):
        connection.request("POST", "/x", token="t", body=[b"ab", b"c"], content_type="text/plain")
    assert [request[3] for request in server.requests] == [b"abc"] * 3
    assert all(request[2]["Content-Length"] == "3" for request in server.requests)
    # Closed while it was idle: not worth a word.
    connection._http.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
    assert connection.request("GET", "/x", token="t") == b"{}"
    # What is expensive to send is not sent twice without asking what has arrived.
    connection.cut()
    with pytest.raises(UnreachableError):
        connection.request("POST", "/x", token="t", body=[bytes(1 << 20)], content_type="text/plain")
    assert connection.request("GET", "/x", token="t") == b"{}"


def test_a_connection_may_be_opened_before_it_is_needed(serve: Callable[..., Server]) -> None:
    connection = site_for(serve().port).connection(5)
    connection.open()
    opened = connection._http
    assert opened is not None
    assert connection.request("GET", "/x", token="t") == b"{}"
    assert connection._http is opened
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(UnreachableError, match="refused"):
        site_for(port).connection(5).open()


def test_a_body_goes_out_in_pieces_of_a_bearable_size() -> None:
    parts = [b"a" * 64, b"b" * 64, memoryview(bytes(600 << 10)), b"c" * 64]
    pieces = list(site_module._pieces(parts))
    assert b"".join(pieces) == b"".join(parts)
    assert [len(piece) for piece in pieces] == [128, 256 << 10, 256 << 10, 88 << 10, 64]


def test_the_kernel_tells_how_a_connection_does(serve: Callable[..., Server]) -> None:
    connection = site_for(serve().port).connection(5)
    assert connection.info() is None
    connection.request("POST", "/x", token="t", body=[bytes(100_000)], content_type="text/plain")
    info = connection.info()
    assert info is not None
    assert info.acknowledged_bytes > 100_000
    assert 0 <= info.silent_seconds < 60
    assert 0 < info.rtt_seconds < 60
    assert 0 <= info.unread_seconds <= info.busy_seconds
    connection.close()
    assert connection.info() is None


class Proxy:
    """A CONNECT proxy for one user."""

    def __init__(self, user: str | None = None) -> None:
        self.targets: list[str] = []
        self._user = user
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            if self._user and base64.b64encode(self._user.encode()) not in head:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                client.close()
                continue
            target = head.split(b" ")[1].decode()
            self.targets.append(target)
            host, _, port = target.rpartition(":")
            server = socket.create_connection((host, int(port)))
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        sink.close()


def test_a_proxy_is_used_with_its_user_and_the_certificate_is_still_the_sites(serve: Callable[..., Server]) -> None:
    server = serve()
    proxy = Proxy("ann:s3cret")
    assert get(site_for(server.port, proxy=Endpoint("127.0.0.1", proxy.port, "ann", "s3cret"))) == b"{}"
    assert proxy.targets == [f"127.0.0.1:{server.port}"]
    wrong = site_for(
        server.port, ca_pem=Authority.create().pem, proxy=Endpoint("127.0.0.1", proxy.port, "ann", "s3cret")
    )
    text = str(failure(wrong))
    assert "certificate is not the one on this ISO (through the proxy" in text
    assert "s3cret" not in text
    proxy.close()


def test_a_proxy_can_be_corrected_while_the_site_is_in_use(serve: Callable[..., Server]) -> None:
    server, proxy = serve(), Proxy("ann:s3cret")
    site = site_for(server.port, proxy=Endpoint("127.0.0.1", free_port()))
    connection = site.connection(5)
    with pytest.raises(UnreachableError):
        connection.request("GET", "/", token="tok")
    site.use_proxy(Endpoint("127.0.0.1", proxy.port, "ann", "s3cret"))
    assert connection.request("GET", "/", token="tok") == b"{}"
    assert len(proxy.targets) == 1
    other = Proxy("ann:s3cret")
    site.use_proxy(Endpoint("127.0.0.1", other.port, "ann", "s3cret"))  # the connection through the first is still open
    assert connection.request("GET", "/", token="tok") == b"{}"
    assert (len(proxy.targets), len(other.targets)) == (1, 1)
    site.use_proxy(None)
    assert connection.request("GET", "/", token="tok") == b"{}"
    assert (len(proxy.targets), len(other.targets)) == (1, 1)
    proxy.close()
    other.close()


def test_a_proxy_that_refuses_is_named(serve: Callable[..., Server]) -> None:
    proxy = Proxy("ann:s3cret")
    text = str(failure(site_for(serve().port, proxy=Endpoint("127.0.0.1", proxy.port))))
    assert "wants a user name and a password" in text
    proxy.close()


ENROLMENT = {
    "migration_id": "c4654531-6493-44d5-bdb8-850531dc3df8",
    "session_token": "cm1_ses_" + "a" * 43,
    "state": "waiting",
    "poll_seconds": 5,
    "name": "erp",
}
SESSION = {
    "migration_id": "x",
    "state": "copying",
    "reason": None,
    "message": None,
    "poll_seconds": 5,
    "connections": 4,
    "disks": [{"index": 0, "size_bytes": 512, "chunks": 1, "have_chunks": 0}],
}


def test_answers_of_a_site_are_taken_over() -> None:
    assert parse_enrolment(json.dumps(ENROLMENT).encode()).name == "erp"
    session = parse_session(json.dumps(SESSION).encode())
    assert (session.state, session.reason, session.disks[0].size_bytes) == ("copying", "", 512)


def test_extreme_figures_of_a_site_are_clipped() -> None:
    session = parse_session(json.dumps({**SESSION, "poll_seconds": 0, "connections": 10**9}).encode())
    assert (session.poll_seconds, session.connections) == (1, 8)


@pytest.mark.parametrize(
    "change",
    [
        {"state": "odd"},
        {"disks": None},
        {"disks": [{"index": -1, "size_bytes": 1, "chunks": 1}]},
        {"disks": [{"index": 0, "size_bytes": 0, "chunks": 1}]},
        {"disks": [[]]},
        {"disks": [SESSION["disks"][0]] * 1000},  # type: ignore[index]
        {"poll_seconds": "5"},
        {"reason": 5},
        {"connections": True},
    ],
)
def test_a_session_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(NotASiteError):
        parse_session(json.dumps({**SESSION, **change}).encode())


@pytest.mark.parametrize(
    "change", [{"session_token": "x"}, {"session_token": "cm1_ses_" + "a" * 42 + "\n"}, {"migration_id": "../x"}]
)
def test_a_token_that_is_none_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(NotASiteError):
        parse_enrolment(json.dumps({**ENROLMENT, **change}).encode())


@pytest.mark.parametrize(
    "body", [b"{}", b"nonsense", b'{"durable": -1, "rejected": []}', b'{"durable": 1, "rejected": [1]}']
)
def test_an_answer_to_frames_that_makes_no_sense_is_refused(body: bytes) -> None:
    with pytest.raises(NotASiteError):
        parse_frames_answer(body)
