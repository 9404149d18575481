# SPDX-License-Identifier: GPL-3.0-or-later
"""A real gateway in a process of its own on the loopback interface, and a relay that can cut what goes to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from agent_lab import config_document, need, run

ROOT = Path(__file__).resolve().parents[3]
_ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "gateway/src"), str(ROOT / "agent")])}
ORGANIZATION = "acme"


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Gateway:
    """``coldmig-gateway`` with its state below a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._command(
            "init", "--state-dir", str(directory / "state"), "--name", "127.0.0.1", "--name", "localhost",
            "--listen", "127.0.0.1", "--port", str(self.port), "--token-file", str(directory / "provider.token"),
            "--poll-seconds", "1",
        )  # fmt: skip
        self.ca_pem = (directory / "state/pki/ca.pem").read_text()
        self.provider = (directory / "provider.token").read_text().strip()

    def _arguments(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "coldmig_gateway", "--config", str(self.directory / "gateway.toml"), *words]

    def _command(self, *words: str) -> None:
        done = subprocess.run(self._arguments(*words), capture_output=True, env=_ENV, check=False)
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        """Start it and wait until it answers."""
        log = (self.directory / "serve.log").open("ab")
        self._process = subprocess.Popen(
            self._arguments("serve"), env=_ENV, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        deadline = time.monotonic() + 60
        while True:
            try:
                self.call("GET", "/health")
                return
            except OSError:
                assert self._process.poll() is None, (self.directory / "serve.log").read_text()
                assert time.monotonic() < deadline, "the gateway does not answer"
                time.sleep(0.1)

    def kill(self) -> None:
        """End all its processes at once, as loss of power would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    @contextmanager
    def _open(self, method: str, path: str, token: str, body: bytes | None = None) -> Iterator[IO[bytes]]:
        request = urllib.request.Request(  # noqa: S310 - always https
            self.url + path,
            method=method,
            data=body,
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        context = ssl.create_default_context(cadata=self.ca_pem)
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:  # noqa: S310
            yield answer

    def call(self, method: str, path: str, body: object = None, token: str | None = None) -> Any:
        """One request to the control plane. HTTP errors are urllib's."""
        data = None if body is None else json.dumps(body).encode()
        with self._open(method, f"/api/v1{path}", token or self.provider, data) as answer:
            return json.loads(answer.read() or b"null")

    def activate(self, active: bool = True) -> None:
        """Activate cold migration for the organization of the tests."""
        self.call("PUT", "/activation", {"active": active, "organizations": [ORGANIZATION]})

    def iso(self, name: str, *, auto_start: bool = True, url: str | None = None) -> dict[str, Any]:
        """A template and the settings of an ISO for it."""
        template = self.call(
            "POST",
            "/templates",
            {
                "name": name,
                "organization": ORGANIZATION,
                "destination": {"vdc": "vdc1", "networks": []},
                "auto_start": auto_start,
            },
        )
        credential = self.call(
            "POST", f"/templates/{template['id']}/iso-credentials", {"ttl_hours": 1, "description": "test"}
        )
        reference = {"id": template["id"], "name": name, "organization": ORGANIZATION}
        return config_document(url or self.url, self.ca_pem, credential["credential"], template=reference)

    def migration(self, identity: str) -> Any:
        """One migration."""
        return self.call("GET", f"/migrations/{identity}")

    def migrations(self, template: str) -> list[Any]:
        """Migrations of a template."""
        found: list[Any] = self.call("GET", f"/migrations?template={template}")["items"]
        return found

    def image(self, identity: str, disk: int, target: Path) -> Path:
        """The disk as it would go to vCenter, unpacked to a raw image by qemu-img."""
        need("qemu-img")
        path = f"/data/v1/migrations/{identity}/disks/{disk}/image.vmdk"
        vmdk = target.with_suffix(".vmdk")
        with self._open("GET", path, self.provider) as answer, vmdk.open("wb") as file:
            shutil.copyfileobj(answer, file)
        run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", vmdk, target)
        return target


class Relay:
    """A TCP relay to the gateway: counts what agents send and cuts connections when it is told to."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.connections = 0
        self.sent = 0
        self.refusing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection that is open now."""
        with self._lock:
            open_now = list(self._open)
        for sock in open_now:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        """Stop listening and cut everything."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            self.connections += 1
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if counted:
                    self.sent += len(data)
                sink.sendall(data)
        except OSError:
            pass
        with self._lock:
            self._open -= {source, sink}
        for sock in (source, sink):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def require() -> None:
    """Skip where the gateway's own requirements are not installed."""
    pytest.importorskip("fastapi")
    pytest.importorskip("sqlalchemy")
