# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
import http.client
import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _vcenter_upload as upload

pytest.importorskip("pyVmomi", reason="pyvmomi is not installed")


# --- sending, over plain HTTP on the loopback ---------------------------------------------------------------------


class _Host(http.server.BaseHTTPRequestHandler):
    """Takes uploads; ``server.refuse`` makes it answer that status unread."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = self.server
        if server.refuse:
            self.send_response(server.refuse, "No")
            self.send_header("Content-Length", "9")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"disk full")
            self.close_connection = True
            return
        server.headers = dict(self.headers)
        server.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Nothing."""


@pytest.fixture
def host() -> Iterator[Any]:
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Host)
    server.refuse = 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


class Source:
    """An image of some blocks that says it has *length* bytes."""

    def __init__(self, blocks: list[bytes], length: int | None = None) -> None:
        self.length = sum(map(len, blocks)) if length is None else length
        self._blocks = blocks

    def blocks(self) -> Iterator[bytes]:
        return iter(self._blocks)


def send(host: Any, source: Source, stop: threading.Event | None = None) -> tuple[upload.Sent, list[int]]:
    counted: list[int] = []
    connection: Any = http.client.HTTPConnection("127.0.0.1", host.server_address[1], timeout=5)
    try:
        sent = upload.send_disk(
            connection,
            "https://esx/nfc/1/disk-0.vmdk",
            source,
            algorithm="sha256",
            report=counted.append,
            stop=stop or threading.Event(),
        )
    finally:
        connection.close()
    return sent, counted


def test_disk_is_posted_with_its_exact_length_and_digest(host: Any) -> None:
    sent, counted = send(host, Source([b"a" * 70_000, b"b" * 10]))
    assert host.body == b"a" * 70_000 + b"b" * 10
    assert host.headers["Content-Length"] == "70010"
    assert host.headers["Content-Type"] == "application/x-vnd.vmware-streamVmdk"
    assert "Transfer-Encoding" not in host.headers
    assert sent == upload.Sent(70_010, hashlib.sha256(host.body).hexdigest())
    assert counted == [70_000, 10]


def test_image_that_is_shorter_or_longer_than_announced_is_an_error(host: Any) -> None:
    with pytest.raises(upload.UploadError, match="only 3 of the 5 bytes"):
        send(host, Source([b"abc"], 5))
    with pytest.raises(upload.UploadError, match="more than the 2 bytes"):
        send(host, Source([b"abc"], 2))


def test_refusal_in_the_middle_is_quoted(host: Any) -> None:
    host.refuse = 507
    with pytest.raises(upload.UploadError, match=r"507 No: disk full") as raised:
        send(host, Source([b"x" * (1 << 20)] * 64))
    assert raised.value.transient is False


@pytest.mark.parametrize(("status", "again"), [(503, True), (429, True), (409, False), (415, False)])
def test_only_a_host_that_is_busy_is_asked_again(host: Any, status: int, again: bool) -> None:
    host.refuse = status
    with pytest.raises(upload.UploadError) as raised:
        send(host, Source([b"x"]))
    assert (raised.value.in_place, raised.value.transient) == (again, again)


def test_upload_stops_when_told_to(host: Any) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(upload.UploadError, match="stopped"):
        send(host, Source([b"x"]), stop)
