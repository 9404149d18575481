# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of the gateway for tests: any token, any request, standard library only."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .processes import SupportError

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME: some tests set the gateway's clock wrong, and it makes its certificates by it.
_NO_CHECK_TIME = 0x200000
FRAMES_TYPE = "application/vnd.coldmig.frames"
#: Opens a TCP connection to a host and port; another one than this for a gateway in another network namespace.
Connect = Callable[[tuple[str, int]], socket.socket]


class ApiError(SupportError):
    """The gateway refused a request; ``problem`` is its problem document, ``slug`` the last part of its type."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('title')}: {problem.get('detail')}")
        self.status = status
        self.problem = dict(problem)
        self.slug = str(problem.get("type", "")).rpartition(":")[2]


class Api:
    """The gateway's one port as the bearer of a token sees it. Every call is a connection of its own."""

    def __init__(self, url: str, ca_pem: str | Path, token: str = "", connect: Connect | None = None) -> None:
        """``ca_pem`` is the text of the CA's certificate or the path of its file."""
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 443)
        self._ca_pem = ca_pem
        self._token = token
        self._connect = connect or (lambda address: socket.create_connection(address, 60))

    @contextmanager
    def open(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """A request to any path; gives the answer to read from. Raises ApiError for every status but 2xx, OSError."""
        pem = self._ca_pem.read_text() if isinstance(self._ca_pem, Path) else self._ca_pem
        context = ssl.create_default_context(cadata=pem)
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
        connection = http.client.HTTPSConnection(*self._address, context=context)
        connection.sock = context.wrap_socket(self._connect(self._address), server_hostname=self._address[0])
        try:
            fields = {"Authorization": f"Bearer {self._token}"} if self._token else {}
            connection.request(method, path, body, fields | dict(headers or {}))
            answer = connection.getresponse()
            if not 200 <= answer.status < 300:
                text = answer.read()
                is_json = (answer.getheader("Content-Type") or "").endswith("json")
                raise ApiError(answer.status, json.loads(text) if is_json else {"title": text.decode(errors="replace")})
            yield answer
        finally:
            connection.close()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Call ``/api/v1{path}`` with a JSON body; the decoded answer. Raises ApiError and OSError."""
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        with self.open(method, f"/api/v1{path}", data, headers) as answer:
            return json.loads(answer.read() or b"null")

    def get(self, path: str) -> Any:
        """GET ``/api/v1{path}``."""
        return self.call("GET", path)

    def items(self, path: str) -> list[dict[str, Any]]:
        """All items of a list, page by page."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            mark = "&" if "?" in path else "?"
            page = self.get(f"{path}{mark}limit=500{after}")
            found += page["items"]
            if not page.get("next"):
                return found
            after = f"&after={page['next']}"

    def send(self, frames: bytes) -> dict[str, Any]:
        """Send frames as an agent does; the answer."""
        with self.open("POST", "/data/v1/frames", frames, {"Content-Type": FRAMES_TYPE}) as answer:
            said: dict[str, Any] = json.loads(answer.read())
            return said

    def data(self, path: str) -> tuple[int, bytes]:
        """GET ``/data/v1{path}``: status and body."""
        with self.open("GET", f"/data/v1{path}") as answer:
            return answer.status, answer.read()
