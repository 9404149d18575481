# SPDX-License-Identifier: GPL-3.0-or-later
"""A real HTTP(S) server on loopback that answers from a script and remembers what it was asked."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import threading
import typing as t
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass
class Request:
    """What a client sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> t.Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What the server says. ``document`` is sent as JSON; ``cut`` ends the connection before that many last bytes."""

    status: int = 200
    document: t.Any = None
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0


class ScriptedServer:
    """Gives its answers in order, then ``default``."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.requests: list[Request] = []
        self.answers: list[Answer] = []
        self.default = Answer(404, {"type": "urn:coldmig:problem:not-found", "title": "Not found", "status": 404})
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append(Request(self.command, self.path, dict(self.headers), body))
                self.reply(outer.answers.pop(0) if outer.answers else outer.default)

            def reply(self, answer: Answer) -> None:
                body = answer.body
                if body is None:
                    body = b"" if answer.document is None else json.dumps(answer.document).encode()
                kind = "application/problem+json" if answer.status >= 400 else "application/json"
                headers = {"Content-Length": str(len(body)), **answer.headers}
                if "content-type" not in {name.lower() for name in headers}:
                    headers["Content-Type"] = kind
                self.send_response(answer.status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body[: len(body) - answer.cut])
                if answer.cut:
                    self.close_connection = True

            def log_message(self, *_arguments: t.Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: t.Any, client_address: t.Any) -> None:
                """Clients that break off (a handshake, say) are part of the tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def says(self, *answers: Answer) -> None:
        """Queue answers."""
        self.answers.extend(answers)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(frozen=True)
class Pki:
    """Paths of a CA and of a server certificate for 127.0.0.1."""

    ca: Path
    chain: Path
    key: Path


def make_pki(directory: Path) -> Pki:
    """Issue a certificate for 127.0.0.1 from a CA of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(tz=datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test CA")])

    def build(name: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(ca_name).public_key(public)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(
            now + datetime.timedelta(days=1)
        )

    ca = (
        build(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    server_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    certificate = (
        build(server_name, key.public_key()).add_extension(names, critical=False).sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    paths = Pki(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    paths.ca.write_bytes(ca.public_bytes(pem))
    paths.chain.write_bytes(certificate.public_bytes(pem))
    paths.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return paths


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def other_pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """A CA that has nothing to do with the server."""
    return make_pki(tmp_path_factory.mktemp("other-pki"))


@pytest.fixture
def http_server() -> Iterator[ScriptedServer]:
    server = ScriptedServer(None)
    yield server
    server.close()


@pytest.fixture
def https_server(pki: Pki) -> Iterator[ScriptedServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.chain, pki.key)
    server = ScriptedServer(context)
    yield server
    server.close()


@pytest.fixture
def answer() -> type[Answer]:
    """The class of answers (test modules cannot import this file)."""
    return Answer
