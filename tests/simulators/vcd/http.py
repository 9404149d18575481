# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests, answers and the route table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lxml import etree

from simulators.vcd.errors import ApiError, bad_request, no_right
from simulators.vcd.markup import parse
from simulators.vcd.model import Session, Site, User
from simulators.vcd.schemas import Judge, order_errors
from simulators.vcd.views import Views


@dataclass
class Request:
    """A request as a handler sees it."""

    method: str
    path: str
    parameters: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes
    base: str  # https://host:port as the client wrote it
    site: Site
    judge: Judge
    version: tuple[int, int]
    session: Session | None = None

    @property
    def user(self) -> User:
        return self._session.user

    @property
    def _session(self) -> Session:
        assert self.session is not None
        return self.session

    @property
    def views(self) -> Views:
        return Views(self.site, self.base, self._session, self.version)

    def require_system(self, operation: str) -> None:
        """Refuse to a tenant.

        Raises:
            ApiError: 403.
        """
        if not self.user.is_system:
            raise no_right(f"{operation} is restricted to system administrators")

    def document(self, root: str, media: str, extra_order: dict[str, list[str]] | None = None) -> etree._Element:
        """Read and judge the XML body.

        Args:
            root: qualified name that the document element must have.
            media: Content-Type that it must come with.
            extra_order: order of children, for where the schemas are absent.

        Raises:
            ApiError: 415 for another Content-Type, 400 for a document that is not valid.
        """
        given = self.headers.get("content-type", "").partition(";")[0].strip()
        if given.lower() != media.lower():
            raise ApiError(415, "UNSUPPORTED_MEDIA_TYPE", f"Content-Type is {given!r}, needed is {media}")
        try:
            document = parse(self.body)
        except etree.XMLSyntaxError as error:
            raise bad_request(f"The request is not XML: {error}") from None
        if document.tag != root:
            raise bad_request(f"The document element is {document.tag}, needed is {root}")
        if problems := self.judge.errors(document) or order_errors(document, extra_order):
            raise bad_request("Bad request\n - " + "\n - ".join(problems[:5]))
        return document

    def json(self) -> dict[str, Any]:
        """Read a JSON object.

        Raises:
            ApiError: 400.
        """
        try:
            value = json.loads(self.body or b"{}")
        except ValueError as error:
            raise bad_request(f"The request is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise bad_request("The request must be a JSON object")
        return value


@dataclass
class Answer:
    """What a handler gives: an XML element, a JSON value, or nothing."""

    status: int = 200
    body: etree._Element | dict[str, Any] | list[Any] | None = None
    media: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[..., Answer]


@dataclass(frozen=True)
class Route:
    method: str
    pattern: re.Pattern[str]
    handler: Handler
    open: bool
    family: str  # xml or json


class Routes:
    """Maps methods and paths to handlers; `{name}` in a path is one segment."""

    def __init__(self) -> None:
        self._routes: list[Route] = []

    def add(self, method: str, path: str, *, open_: bool = False, family: str = "xml") -> Callable[[Handler], Handler]:
        pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path) + "/?")

        def keep(handler: Handler) -> Handler:
            self._routes.append(Route(method, pattern, handler, open_, family))
            return handler

        return keep

    def extend(self, other: Routes) -> None:
        self._routes.extend(other._routes)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """Find the handler.

        Raises:
            ApiError: 404 or 405.
        """
        other = False
        for route in self._routes:
            match = route.pattern.fullmatch(path)
            if match is None:
                continue
            if route.method == method:
                return route, match.groupdict()
            other = True
        if other:
            raise ApiError(405, "METHOD_NOT_ALLOWED", f"{method} is not supported by {path}")
        raise ApiError(404, "NOT_FOUND", f"No resource {path} (or the simulator does not have it)")
