# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors as problem documents (RFC 9457). Every error that leaves the API has this form."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from coldmig_gateway.store import errors
from coldmig_gateway.store.paging import CursorError
from coldmig_gateway.store.states import WrongStateError

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_SECRET_WORDS = ("token", "secret", "password", "credential", "authorization", "key")
_SHOWN = 200  # characters of a refused value that are repeated


class FieldError(BaseModel):
    """One thing that is wrong in a request."""

    field: str = Field(description="For example destination.networks[0].ip")
    value: Any = Field(default=None, description="What was given; left out when it may be a secret")
    message: str = Field(description="What is allowed")


class ProblemDocument(BaseModel):
    """The form of every error. Some kinds carry more members, such as `state` and `allowed`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="urn:coldmig:problem:<kind>; decide by this one")
    title: str
    status: int
    detail: str = Field(description="For people: what happened and what to do")
    errors: list[FieldError] | None = Field(default=None, description="What is wrong in the request (validation only)")


class Problem(Exception):  # noqa: N818 - it is what the caller gets
    """Raise it to answer with a problem document; ``members`` are additional ones."""

    def __init__(self, status: int, slug: str, title: str, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.title = title
        self.members = members

    def response(self) -> JSONResponse:
        """The answer."""
        headers = {"WWW-Authenticate": 'Bearer realm="coldmig"'} if self.status == HTTPStatus.UNAUTHORIZED else None
        document = {
            "type": f"urn:coldmig:problem:{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": str(self),
            **self.members,
        }
        return JSONResponse(document, status_code=self.status, media_type=MEDIA_TYPE, headers=headers)


def forbidden(detail: str) -> Problem:
    """The caller is known and may not do this."""
    return Problem(403, "forbidden", "Not allowed", detail)


def invalid(field: str, value: Any, message: str) -> Problem:
    """One field is wrong in a way that only shows beside other things."""
    return _validation([{"field": field, "value": value, "message": message}])


def of_store_error(error: errors.StoreError) -> Problem:  # noqa: PLR0911, PLR0912 - a table
    """The problem that tells of an error of the store."""
    text = str(error)
    match error:
        case WrongStateError():
            return Problem(409, "wrong-state", "Wrong state", text, state=error.state, allowed=error.allowed)
        case errors.NotFoundError():
            return Problem(404, "not-found", "Not found", text)
        case errors.DuplicateNameError():
            return Problem(409, "duplicate-name", "Name is taken", text, name=error.name)
        case errors.NotActivatedError():
            return Problem(403, "not-activated", "Not activated", text)
        case errors.CredentialError():
            return Problem(401, error.slug, "Not accepted", text)
        case errors.TemplateDeletedError():
            return Problem(410, "template-deleted", "Template deleted", text)
        case errors.LimitReachedError():
            return Problem(409, "limit-reached", "Limit reached", text, limit=error.limit, allowed=error.allowed)
        case errors.DiskTooLargeError():
            members: dict[str, Any] = {"needed_bytes": error.needed, "allowed_bytes": error.allowed}
            return Problem(413, "disk-too-large", "Disk too large", text, **members)
        case errors.StagingFullError():
            members = {"needed_bytes": error.needed, "free_bytes": error.free}
            return Problem(507, "staging-full", "Staging area full", text, **members)
        case errors.UnreadableSectorsError():
            return Problem(409, "unreadable-sectors", "Unreadable sectors", text, disks=error.disks)
        case errors.ClaimedError():
            members = {"run": error.run, "since": error.since.isoformat(), "until": error.until.isoformat()}
            return Problem(409, "claimed", "Claimed by another runner", text, **members)
        case errors.NotStagedError():
            return Problem(409, "not-staged", "Not staged any more", text)
        case errors.BlockedError():
            told = [{"code": item.code, "message": item.message, "action": item.action} for item in error.warnings]
            codes = list(dict.fromkeys(item.code for item in error.warnings))
            return Problem(409, "blocked", "Held back by warnings", text, blocked=codes, warnings=told)
        case CursorError():
            return invalid("after", None, text)
        case _:
            raise error


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says of errors; 401 and 422 are possible nearly everywhere."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted({401, 403, 422, *statuses})
    }


def install(app: FastAPI) -> None:
    """Make the application answer every error with a problem document."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(errors.StoreError, _on_store_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_problem(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)  # noqa: S101 - FastAPI calls it for no other
    return error.response()


async def _on_store_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.StoreError)  # noqa: S101
    return of_store_error(error).response()


async def _on_validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return _malformed().response()
    return _validation([_field_error(item) for item in found]).response()


async def _on_http_exception(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == HTTPStatus.BAD_REQUEST:  # too deep, or with numbers of thousands of digits
        return _malformed().response()
    phrase = HTTPStatus(error.status_code).phrase
    slug = phrase.lower().replace(" ", "-")
    response = Problem(error.status_code, slug, phrase, f"{phrase}.").response()
    response.headers.update(error.headers or {})  # Allow, for one
    return response


async def _on_unexpected(_request: Request, error: Exception) -> JSONResponse:
    # The server logs the exception itself, with its traceback; the caller learns nothing of the inside.
    detail = "An unexpected error happened; nothing was changed. The gateway's log tells more."
    return Problem(500, "internal", "Internal error", detail).response()


def _malformed() -> Problem:
    return Problem(400, "malformed-json", "Malformed JSON", "The body is not a JSON document that can be read.")


def _validation(found: Sequence[dict[str, Any]]) -> Problem:
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in found[:5])
    if len(found) > 5:
        detail += f"; and {len(found) - 5} more"
    return Problem(422, "validation", "Invalid request", detail, errors=list(found[:100]))


def _field_error(item: dict[str, Any]) -> dict[str, Any]:
    parts = item["loc"][1:] if item["loc"][0] in ("body", "query", "path", "header") else item["loc"]
    field = ""
    for part in parts:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    result = {"field": _shown(field) or "body", "message": item["msg"].removeprefix("Value error, ")}
    value = item.get("input")
    # A field that should not be there may be a secret in the wrong place.
    secret = item["type"] == "extra_forbidden" or any(word in field.lower() for word in _SECRET_WORDS)
    if isinstance(value, str | int | float | bool) and not secret:
        result["value"] = _shown(str(value)) if isinstance(value, str | float) else value
    return result


def _shown(text: str) -> str:
    """A text from outside that goes back there: bounded, and without what UTF-8 cannot hold."""
    return text[:_SHOWN].encode("utf-8", "replace").decode()
