# SPDX-License-Identifier: GPL-3.0-or-later
"""One connection from its first request to its last: reads heads, finds who handles them, answers errors."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from http import HTTPStatus
from pathlib import Path

from coldmig_gateway.dataplane.bitmaps import get_have, get_known
from coldmig_gateway.dataplane.connection import Connection, ConnectionLostError, HeadTooLargeError
from coldmig_gateway.dataplane.context import Context
from coldmig_gateway.dataplane.http import RequestHead, parse_head, problem_answer
from coldmig_gateway.dataplane.image import get_image
from coldmig_gateway.dataplane.ingest import post_frames
from coldmig_gateway.dataplane.problem import Problem, bad_request, not_found
from coldmig_gateway.dataplane.relay import Address, proxy_line, relay
from coldmig_gateway.staging.errors import StagingError, StagingFullError

_log = logging.getLogger(__name__)

PREFIX = "/data/v1/"
_LINGER_SECONDS = 3.0
_INDEX = "(0|[1-9][0-9]{0,4})"
_UUID = "([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"

_Handler = Callable[[Context, Connection, RequestHead], Awaitable[None]]


class _Next(Enum):
    """What follows a request: another one, the end, or the end with something of the request still unread."""

    REQUEST = auto()
    END = auto()
    UNREAD = auto()


def _route(head: RequestHead) -> _Handler:
    """Who handles the request. Raises Problem 404, 405."""
    path = head.path.removeprefix(PREFIX)
    methods: tuple[str, ...]
    handler: _Handler
    if path == "frames":
        methods, handler = ("POST",), post_frames
    elif match := re.fullmatch(f"disks/{_INDEX}/(have|known)", path):
        index = int(match[1])
        get = get_have if match[2] == "have" else get_known
        methods, handler = ("GET",), partial(get, index=index)
    elif match := re.fullmatch(f"migrations/{_UUID}/disks/{_INDEX}/image\\.vmdk", path):
        name, disk = match[1], int(match[2])
        methods = ("GET", "HEAD")
        handler = partial(get_image, migration_id=name, index=disk)
    else:
        raise not_found(f"{head.path}: there is nothing here")
    if head.method not in methods:
        detail = f"{head.method}: must be {' or '.join(methods)}"
        raise Problem(HTTPStatus.METHOD_NOT_ALLOWED, "method-not-allowed", detail)
    return handler


def _storage_problem(error: StagingError) -> Problem:
    _log.error("%s", error)
    if isinstance(error, StagingFullError):
        detail = "there is no room left in the site's staging; what was acknowledged is kept"
        return Problem(HTTPStatus.INSUFFICIENT_STORAGE, "staging-full", detail)
    detail = "the site could not read or write its staging; its log says why"
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "staging-failed", detail)


@dataclass(frozen=True, slots=True)
class Application:
    """What a connection is given to."""

    context: Context
    control_socket: Path

    async def handle(self, connection: Connection, peer: Address, local: Address) -> None:
        """Serves the connection until it ends, and closes it."""
        linger = 0.0
        try:
            while (following := await self._request(connection, peer, local)) is _Next.REQUEST:
                pass
            if following is _Next.UNREAD:
                linger = _LINGER_SECONDS
        except ConnectionLostError:
            pass
        except TimeoutError:
            _log.info("%s: no request in time", peer[0])
        except Exception:
            _log.exception("%s: the connection's request failed", peer[0])
            connection.abort()
        await connection.close(linger_seconds=linger)

    async def _request(self, connection: Connection, peer: Address, local: Address) -> _Next:
        """One request, and what comes after it."""
        limits = self.context.limits
        async with asyncio.timeout(limits.keep_alive_seconds):
            await connection.wait_for_bytes()
        head: RequestHead | None = None
        try:
            async with asyncio.timeout(limits.head_seconds):
                raw = await connection.read_head(limits.head_bytes)
            head = parse_head(raw)
            if not head.target.startswith(PREFIX):
                await relay(connection, self.control_socket, proxy_line(peer, local) + raw)
                return _Next.END
            await self._handle(connection, head)
        except HeadTooLargeError:
            detail = f"the head of the request has more than {limits.head_bytes} bytes"
            too_large = Problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", detail)
            return await self._refuse(connection, head, too_large)
        except StagingError as error:
            return await self._refuse(connection, head, _storage_problem(error))
        except Problem as problem:
            return await self._refuse(connection, head, problem)
        return _Next.REQUEST if head.keep_alive else _Next.END

    async def _handle(self, connection: Connection, head: RequestHead) -> None:
        handler = _route(head)
        if head.method != "POST" and head.has_body:
            raise bad_request("bad-request", f"{head.method}: takes no body")
        await handler(self.context, connection, head)

    @staticmethod
    async def _refuse(connection: Connection, head: RequestHead | None, problem: Problem) -> _Next:
        following = _Next.UNREAD  # with it, where the next request would begin is not known
        if head is not None and not head.has_body:
            following = _Next.REQUEST if head.keep_alive else _Next.END
        head_only = head is not None and head.method == "HEAD"
        await connection.write(problem_answer(problem, keep_alive=following is _Next.REQUEST, head_only=head_only))
        return following
