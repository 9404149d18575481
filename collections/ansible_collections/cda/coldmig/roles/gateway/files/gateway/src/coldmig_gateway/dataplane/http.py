# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP/1.1 heads: reading a request's with h11, writing an answer's. Bodies are not touched here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

import h11

from coldmig_gateway.dataplane.problem import MEDIA_TYPE, Problem, bad_request

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request without its body. Header names are lower case; ``target`` is path and query as sent."""

    method: str
    target: str
    headers: Mapping[str, str]
    keep_alive: bool

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def content_length(self) -> int | None:
        """Bytes of the body; None if there is no Content-Length. Raises Problem."""
        if "transfer-encoding" in self.headers:
            raise Problem(HTTPStatus.LENGTH_REQUIRED, "length-required", "Transfer-Encoding: send a Content-Length")
        value = self.headers.get("content-length")
        return None if value is None else int(value)

    @property
    def has_body(self) -> bool:
        """Something follows the head."""
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"

    @property
    def bearer_token(self) -> str | None:
        """The token of ``Authorization: Bearer``, if there is one."""
        scheme, _blank, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() or None if scheme.lower() == "bearer" else None

    @property
    def expects_continue(self) -> bool:
        """The client waits for ``100 Continue`` before it sends its body."""
        return self.headers.get("expect", "").lower() == "100-continue"


def parse_head(head: bytes) -> RequestHead:
    """Reads a head that ends with an empty line. Raises Problem 400."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head) + 1)
    parser.receive_data(head)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise bad_request("bad-request", f"the head of the request is malformed: {error}") from None
    # A head that ends before its last line would hide a second request in what we took for headers.
    if not isinstance(event, h11.Request) or parser.trailing_data[0]:
        raise bad_request("bad-request", "the head of the request is malformed")
    headers: dict[str, str] = {}
    for name, value in event.headers:
        key = name.decode("ascii")
        if key in headers and key in ("authorization", "content-length", "transfer-encoding"):
            raise bad_request("bad-request", f"{key}: sent more than once")
        headers[key] = value.decode("latin-1")
    close = "close" in headers.get("connection", "").lower() or event.http_version < b"1.1"
    return RequestHead(event.method.decode("ascii"), event.target.decode("latin-1"), headers, not close)


def answer(
    status: HTTPStatus,
    body: bytes = b"",
    *,
    content_type: str | None = None,
    content_length: int | None = None,
    headers: Mapping[str, str] | None = None,
    keep_alive: bool = True,
) -> bytes:
    """An answer's head and its body. ``content_length`` is for a body that follows later, or never (HEAD)."""
    fields = {"Content-Length": str(len(body) if content_length is None else content_length)}
    if content_type is not None:
        fields["Content-Type"] = content_type
    fields |= headers or {}
    fields["Cache-Control"] = "no-store"
    if not keep_alive:
        fields["Connection"] = "close"
    lines = [f"HTTP/1.1 {int(status)} {status.phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def problem_answer(problem: Problem, *, keep_alive: bool, head_only: bool = False) -> bytes:
    """The answer for a problem."""
    document = problem.document()
    extra = {"WWW-Authenticate": 'Bearer realm="coldmig"'} if problem.status == HTTPStatus.UNAUTHORIZED else None
    return answer(
        problem.status,
        b"" if head_only else document,
        content_type=MEDIA_TYPE,
        content_length=len(document),
        headers=extra,
        keep_alive=keep_alive,
    )
