# SPDX-License-Identifier: GPL-3.0-or-later
"""Bodies are bounded in size and time, and are JSON, before anything else looks at them."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coldmig_gateway.api.problems import Problem

MAX_BODY = 1 << 20  # bytes
SECONDS = 30.0  # for the whole body


class BodyGuard:
    """ASGI middleware that reads the whole body before the application runs."""

    def __init__(self, app: ASGIApp, *, max_body: int = MAX_BODY, seconds: float = SECONDS) -> None:
        self._app = app
        self._max_body = max_body
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a problem document, or hand the request on with its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._read(Headers(scope=scope), receive)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        except TimeoutError:
            detail = f"The body did not arrive within {self._seconds:g} seconds."
            await Problem(408, "request-timeout", "Too slow", detail).response()(scope, receive, send)
            return
        if body is None:  # the client has gone
            return
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        await self._app(scope, replay, send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        declared = headers.get("content-length", "0")
        # The server has checked that it is a number.
        if int(declared) > self._max_body:
            raise self._too_large()
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_body:
                raise self._too_large()
        media_type = headers.get("content-type", "").split(";")[0].strip().lower()
        if body and media_type != "application/json":
            detail = f"Content-Type is {media_type[:100]!r}; bodies must be application/json."
            raise Problem(415, "unsupported-media-type", "Not JSON", detail)
        return bytes(body)

    def _too_large(self) -> Problem:
        detail = f"The body is larger than {self._max_body} bytes."
        return Problem(413, "body-too-large", "Body too large", detail, allowed_bytes=self._max_body)
