# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of the data plane as problem documents (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 - it is what the caller gets
    """Raise it to answer with a problem document of type ``urn:coldmig:problem:<slug>``; ``members`` are added."""

    def __init__(self, status: HTTPStatus, slug: str, detail: str, **members: str | int) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self._members = members

    def document(self) -> bytes:
        """The body of the answer."""
        return json.dumps(
            {
                "type": f"urn:coldmig:problem:{self.slug}",
                "title": self.status.phrase,
                "status": int(self.status),
                "detail": str(self),
                **self._members,
            }
        ).encode()


def bad_request(slug: str, detail: str) -> Problem:
    """400: the request cannot be understood."""
    return Problem(HTTPStatus.BAD_REQUEST, slug, detail)


def wrong_state(state: str, allowed: str) -> Problem:
    """409: not in this state."""
    return Problem(HTTPStatus.CONFLICT, "wrong-state", f"the migration is {state}, must be {allowed}", state=state)


def not_found(detail: str) -> Problem:
    """404."""
    return Problem(HTTPStatus.NOT_FOUND, "not-found", detail)
