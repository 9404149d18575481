# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Typed errors, and the one place that turns them into arguments of ``fail_json``.

Nothing below the modules knows AnsibleModule. Clients and logic raise a :class:`ColdmigError`; ``str(error)`` is the
sentence for a person, :meth:`ColdmigError.details` the same facts for a machine.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field
from http import HTTPStatus

PROBLEM_PREFIX = "urn:coldmig:problem:"


@dataclass(frozen=True)
class FieldError:
    """One entry of a problem document's ``errors``: which field, what it held, what would be right."""

    field: str
    message: str
    value: t.Any = None

    def __str__(self) -> str:
        shown = "" if self.value is None else f" ({self.value!r})"
        return f"{self.field}{shown}: {self.message}"


@dataclass(frozen=True)
class Problem:
    """A problem document (RFC 9457) as the gateway sends it."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    extensions: t.Mapping[str, t.Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """Short name of the problem, for example ``wrong-state``; empty when the type is not one of the gateway's."""
        return self.type.removeprefix(PROBLEM_PREFIX) if self.type.startswith(PROBLEM_PREFIX) else ""

    @classmethod
    def parse(cls, document: t.Any, status: int) -> Problem:
        """Read a decoded JSON value. What is not a problem document gives one that knows its status only."""
        if not isinstance(document, dict):
            return cls(status=status)
        known = {"type", "title", "status", "detail", "errors"}
        entries = document.get("errors")
        errors = tuple(
            FieldError(
                field=str(entry.get("field", "")), message=str(entry.get("message", "")), value=entry.get("value")
            )
            for entry in (entries if isinstance(entries, list) else [])
            if isinstance(entry, dict)
        )
        return cls(
            type=str(document.get("type") or "about:blank"),
            title=str(document.get("title") or ""),
            status=status,
            detail=str(document.get("detail") or ""),
            errors=errors,
            extensions={key: value for key, value in document.items() if key not in known},
        )

    def as_dict(self) -> dict[str, t.Any]:
        """The document again, in its own shape."""
        document: dict[str, t.Any] = {
            "type": self.type,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = [{"field": e.field, "value": e.value, "message": e.message} for e in self.errors]
        return {**document, **self.extensions}


class ColdmigError(Exception):
    """Base of every failure that this collection expects."""

    def details(self) -> dict[str, t.Any]:
        """What a playbook may look at, as return values beside ``msg``."""
        return {}


class InputError(ColdmigError):
    """A value that was given to us is wrong: which one, what it was, what would be right."""

    def __init__(self, field: str, value: t.Any, expected: str) -> None:
        super().__init__(f"{field}: {value!r} is not valid: {expected}")
        self.field = field
        self.value = value
        self.expected = expected

    def details(self) -> dict[str, t.Any]:
        return {"field": self.field}


class StateError(ColdmigError):
    """What was asked for is not possible in the state in which the thing is now."""


class MissingLibraryError(ColdmigError):
    """A Python library is not installed for the interpreter that runs the module."""

    def __init__(self, library: str, trace: str) -> None:
        super().__init__(f"the Python library {library} is required")
        self.library = library
        self.trace = trace


class RequestError(ColdmigError):
    """A request failed; knows which one."""

    def __init__(self, message: str, *, method: str, url: str) -> None:
        super().__init__(message)
        self.method = method
        self.url = url

    def details(self) -> dict[str, t.Any]:
        return {"http_method": self.method, "http_url": self.url}


class TransportError(RequestError):
    """No answer came: not reachable, not trusted, or too late."""

    unreachable = True

    def __init__(self, reason: str, *, method: str, url: str, sent: bool, step: str = "") -> None:
        super().__init__(f"{step}{': ' if step else ''}{method} {url}: {reason}", method=method, url=url)
        self.reason = reason
        self.sent = sent
        """Whether the server may have seen the request."""

    def during(self, step: str) -> TransportError:
        """The same error, with what was being done at the beginning of its text."""
        return TransportError(self.reason, method=self.method, url=self.url, sent=self.sent, step=step)


class ProtocolError(RequestError):
    """An answer came that the protocol does not allow (no JSON, a redirect, too long, a field missing)."""

    def __init__(self, reason: str, *, method: str, url: str) -> None:
        super().__init__(f"{method} {url}: {reason}", method=method, url=url)


class HttpError(RequestError):
    """The server refused; carries the status and the problem document."""

    def __init__(self, *, method: str, url: str, status: int, problem: Problem) -> None:
        self.status = status
        self.problem = problem
        try:
            phrase = f" {HTTPStatus(status).phrase}"
        except ValueError:
            phrase = ""
        # The detail says more than the title wherever there is one.
        parts = [problem.detail or problem.title, "; ".join(str(error) for error in problem.errors)]
        text = ": ".join(part for part in parts if part)
        super().__init__(f"{method} {url}: {status}{phrase}" + (f": {text}" if text else ""), method=method, url=url)

    @property
    def slug(self) -> str:
        """Short name of the gateway's problem, for example ``duplicate-name``; empty if it sent none."""
        return self.problem.slug

    def details(self) -> dict[str, t.Any]:
        return {**super().details(), "http_status": self.status, "problem": self.problem.as_dict()}


def fail_arguments(error: ColdmigError) -> dict[str, t.Any]:
    """Keyword arguments of ``AnsibleModule.fail_json`` for an error."""
    return {"msg": str(error), **error.details()}
