# SPDX-License-Identifier: GPL-3.0-or-later
"""A running front for the tests, and clients for it."""

from __future__ import annotations

import asyncio
import datetime
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coldmig_gateway.dataplane.server import serve
from coldmig_gateway.dataplane.settings import FrontSettings, Limits
from coldmig_gateway.dataplane.site import DiskPlan, Site
from coldmig_wire.frames import Frame
from coldmig_wire.geometry import chunk_count
from gateway.dataplane.memory_site import PROVIDER, MemoryMigration, MemorySite

FRAMES = "application/vnd.coldmig.frames"


def write_certificate(directory: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A self-signed certificate for loopback and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = directory / "server.pem", directory / "server.key"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_path, key_path


def disk_plans(*sizes: int) -> tuple[DiskPlan, ...]:
    return tuple(DiskPlan(index, size, chunk_count(size)) for index, size in enumerate(sizes))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Requests as a session, or with another token."""

    def __init__(self, port: int, certificate: Path, token: str | None) -> None:
        self.port = port
        self.context = ssl.create_default_context(cafile=str(certificate))
        self.token = token

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=30)

    def open_socket(self) -> ssl.SSLSocket:
        return self.context.wrap_socket(
            socket.create_connection(("127.0.0.1", self.port), timeout=30), server_hostname="localhost"
        )

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: dict[str, str] | None = None,
        connection: http.client.HTTPSConnection | None = None,
    ) -> Answer:
        used = connection or self.connect()
        fields = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            used.request(method, path, body, fields | (headers or {}))
            response = used.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            if connection is None:
                used.close()

    def send(self, frames: Iterable[tuple[Frame, bytes]], **options: Any) -> Answer:
        return self.send_bytes(b"".join(frame.pack() + payload for frame, payload in frames), **options)

    def send_bytes(self, body: bytes, **options: Any) -> Answer:
        return self.request("POST", "/data/v1/frames", body, headers={"Content-Type": FRAMES}, **options)

    def have(self, disk: int = 0) -> list[int]:
        answer = self.request("GET", f"/data/v1/disks/{disk}/have")
        assert answer.status == 200, answer.body
        assert answer.headers["content-type"] == "application/octet-stream"
        bits = int.from_bytes(answer.body, "little")
        return [chunk for chunk in range(len(answer.body) * 8) if bits >> chunk & 1]

    def frames_head(self, length: int, extra: str = "") -> bytes:
        """The head of a POST of frames, for tests that write the body by hand."""
        return (
            f"POST /data/v1/frames HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.token}\r\n"
            f"Content-Type: {FRAMES}\r\nContent-Length: {length}\r\n{extra}\r\n"
        ).encode()


class Front:
    """The real server in a thread with its own event loop."""

    def __init__(
        self, directory: Path, limits: Limits | None = None, site: Site | None = None, reserve: int = 0
    ) -> None:
        """With ``site``, that one is served instead of the one in memory; ``reserve`` bytes of staging stay free."""
        self.directory = directory
        self.certificate, self.key = write_certificate(directory)
        self.staging = directory / "staging"
        self.control_socket = directory / "control.sock"
        self.site = MemorySite(self.staging)
        self._served: Site = site or self.site
        self._settings = (self.certificate, self.key, self.control_socket, limits or Limits(), reserve)
        self.start()

    def start(self) -> None:
        started = threading.Event()
        self._loop = asyncio.new_event_loop()

        def ready(port: int) -> None:
            self.port = port
            started.set()

        async def run() -> None:
            self._task = asyncio.current_task()
            certificate, key, control, limits, reserve = self._settings
            settings = FrontSettings("127.0.0.1", 0, certificate, key, control, limits, reserve)
            await serve(settings, self._served, ready=ready)

        def main() -> None:
            try:
                self._loop.run_until_complete(run())
            except asyncio.CancelledError:
                pass
            finally:
                self._loop.close()
                started.set()

        self._thread = threading.Thread(target=main)
        self._thread.start()
        assert started.wait(20)

    def stop(self) -> None:
        task = self._task
        assert task is not None
        self._loop.call_soon_threadsafe(task.cancel)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def migration(self, migration_id: str, *sizes: int, state: str = "confirmed") -> MemoryMigration:
        migration = MemoryMigration(disk_plans(*sizes), state)
        self.site.migrations[migration_id] = migration
        return migration

    def session(self, migration_id: str) -> Client:
        return Client(self.port, self.certificate, self.site.token(migration_id))

    def client(self, token: str | None = PROVIDER) -> Client:
        return Client(self.port, self.certificate, token)


_SERVER = """
import asyncio, sys
from pathlib import Path
from gateway.dataplane.front import disk_plans
from gateway.dataplane.memory_site import MemoryMigration, MemorySite
from coldmig_gateway.dataplane.server import serve
from coldmig_gateway.dataplane.settings import FrontSettings
directory = Path(sys.argv[1])
site = MemorySite(directory / "staging")
site.migrations[sys.argv[2]] = MemoryMigration(disk_plans(int(sys.argv[3])))
settings = FrontSettings("127.0.0.1", 0, directory / "server.pem", directory / "server.key", directory / "control")
asyncio.run(serve(settings, site, ready=lambda port: print(port, flush=True)))
"""


def start_server_process(directory: Path, migration_id: str, size: int) -> tuple[subprocess.Popen[str], Client]:
    """A front as a process of its own, with one migration of one disk and the certificate in ``directory``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(directory), migration_id, str(size)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    return process, Client(port, directory / "server.pem", MemorySite.token(migration_id))


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Waits for something that the server does by itself."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)
