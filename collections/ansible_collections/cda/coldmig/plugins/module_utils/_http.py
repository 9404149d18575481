# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""The one HTTP client of the collection, on ``requests``.

It does what every API client here needs and leaves out what has bitten others: nothing from the environment
(``trust_env`` off, so no netrc replaces the token and no ``REQUESTS_CA_BUNDLE`` replaces the CA), ``verify`` on every
request, no redirects (a token never goes to another host), a limit on everything (time, size, attempts).
"""

from __future__ import annotations

import contextlib
import email.utils
import json as jsonlib
import random
import time
import traceback
import typing as t
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ansible_collections.cda.coldmig.plugins.module_utils._errors import (
    HttpError,
    InputError,
    MissingLibraryError,
    Problem,
    ProtocolError,
    TransportError,
)

REQUESTS_IMPORT_ERROR: str | None = None
try:
    import requests
    from requests import exceptions as requests_errors
except ImportError:
    REQUESTS_IMPORT_ERROR = traceback.format_exc()

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
RETRY_STATUS = frozenset({408, 429, 502, 503, 504})
RETRY_STATUS_UNSENT = frozenset({429, 503})
"""With these the server says that it did not begin, so any method may be sent again."""
LONGEST_WAIT = 60.0
"""Seconds: a longer ``Retry-After`` is cut to this."""
LARGEST_BODY = 32 << 20
"""Bytes: no answer that is read whole is larger."""


@dataclass(frozen=True)
class Response:
    """An answer that was read to its end. ``headers`` finds names in any case."""

    method: str
    url: str
    status: int
    headers: t.Mapping[str, str]
    body: bytes

    def json(self) -> t.Any:
        """The decoded body. Raises ProtocolError when it is not JSON."""
        try:
            return jsonlib.loads(self.body)
        except ValueError as error:
            kind = self.headers.get("Content-Type", "no Content-Type")
            raise ProtocolError(
                f"expected JSON, got {len(self.body)} bytes of {kind}: is this the right URL?",
                method=self.method,
                url=self.url,
            ) from error


class HttpClient:
    """Requests to one server.

    *base_url* is scheme, host, port and perhaps a path. *verify* is what ``requests`` takes: the path of a PEM file
    with the CA, ``True`` for the system's CAs, ``False`` for no check. *timeout* is in seconds, for the connection and
    for each read. *attempts* bounds how often one request is sent, *silences* how many requests in a row may go
    unanswered before the last of them is not sent again. *sleep* is for tests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        verify: bool | str = True,
        headers: t.Mapping[str, str] | None = None,
        timeout: float = 30.0,
        attempts: int = 4,
        silences: int | None = None,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        if REQUESTS_IMPORT_ERROR is not None:
            raise MissingLibraryError("requests", REQUESTS_IMPORT_ERROR)
        self.base_url = base_url.rstrip("/")
        self._verify = verify
        self._timeout = timeout
        self._attempts = attempts
        self._silences = attempts if silences is None else silences
        self.silent = 0
        """How many requests in a row have had no answer."""
        self._sleep = sleep
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.update(headers or {})

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._session.close()

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(self, *_unused: object) -> None:
        self.close()

    def set_header(self, name: str, value: str) -> None:
        """Send this header with every request from now on (a session token got by logging in)."""
        self._session.headers[name] = value

    def request(
        self,
        method: str,
        path: str,
        *,
        params: t.Mapping[str, str] | None = None,
        json: t.Any = None,
        data: bytes | None = None,
        headers: t.Mapping[str, str] | None = None,
        idempotent: bool | None = None,
    ) -> Response:
        """Send a request, again where that is safe, and read the whole answer.

        *path* is appended to the base URL; one that begins with ``http`` is used as it is. *idempotent* overrides what
        the method says. Raises HttpError for every status from 400 on, TransportError when no answer came,
        ProtocolError for a redirect.
        """
        with self._send(
            method, path, params=params, json=json, data=data, headers=headers, idempotent=idempotent
        ) as answer:
            url = _without_query(str(answer.url))
            body = _read_bounded(answer, method, url)
            response = Response(method, url, answer.status_code, answer.headers, body)
        _raise_for_status(response)
        return response

    @contextlib.contextmanager
    def stream(
        self, path: str, *, method: str = "GET", headers: t.Mapping[str, str] | None = None
    ) -> t.Iterator[requests.Response]:
        """Send a request and hand out the answer with its status checked and its body unread."""
        with self._send(method, path, headers=headers) as answer:
            if answer.status_code >= 300:
                url = _without_query(str(answer.url))
                body = _read_bounded(answer, method, url)
                _raise_for_status(Response(method, url, answer.status_code, answer.headers, body))
            yield answer

    @contextlib.contextmanager
    def _send(
        self,
        method: str,
        path: str,
        *,
        params: t.Mapping[str, str] | None = None,
        json: t.Any = None,
        data: bytes | None = None,
        headers: t.Mapping[str, str] | None = None,
        idempotent: bool | None = None,
    ) -> t.Iterator[requests.Response]:
        url = path if path.startswith(("http://", "https://")) else self.base_url + path
        repeatable = method in IDEMPOTENT if idempotent is None else idempotent
        attempt = 1
        while True:
            last = attempt >= self._attempts
            try:
                answer = self._session.request(
                    method,
                    url,
                    params=params,
                    json=json,
                    data=data,
                    headers=headers,
                    timeout=self._timeout,
                    verify=self._verify,
                    allow_redirects=False,
                    stream=True,
                )
            except requests_errors.RequestException as error:
                failure = _transport_error(error, method, url, self._timeout, self._verify)
                hopeless = isinstance(error, requests_errors.SSLError | requests_errors.InvalidURL)
                self.silent = self.silent + 1 if isinstance(error, requests_errors.Timeout) else 0
                hopeless = hopeless or self.silent >= self._silences
                if last or hopeless or (failure.sent and not repeatable):
                    raise failure from error
                wait = backoff(attempt)
            else:
                self.silent = 0
                again = RETRY_STATUS if repeatable else RETRY_STATUS_UNSENT
                if last or answer.status_code not in again:
                    break
                asked = retry_after(answer.headers.get("Retry-After"), now=time.time())
                answer.close()
                wait = backoff(attempt) if asked is None else asked
            self._sleep(wait)
            attempt += 1
        with answer:
            yield answer


def server_url(option: str, value: str, *, path_allowed: bool = False) -> str:
    """Check a URL option; return it without the slash at its end. Raises InputError naming *option*.

    Only https is taken, a plain connection would show the token; user names and queries have no place in it.
    """
    expected = "a URL such as https://gateway.example.com:8443"
    try:
        parts = urlsplit(value)
        port_ok = parts.port is None or parts.port > 0
    except ValueError as error:
        raise InputError(option, value, f"{expected} ({error})") from error
    if parts.scheme != "https" or not parts.hostname or not port_ok:
        raise InputError(option, value, expected)
    if parts.username is not None or parts.password is not None:
        # The value is not repeated: it holds a password.
        raise InputError(option, f"https://…@{parts.hostname}", f"{expected}, without user name and password")
    if parts.query or parts.fragment or (parts.path.strip("/") and not path_allowed):
        raise InputError(option, value, f"{expected}, nothing after the port")
    return value.rstrip("/")


def ca_file(option: str, value: str | None) -> bool | str:
    """What ``verify`` must be for a CA option: the path, or True (the system's CAs) when none was given.

    Raises InputError naming *option* when the file cannot be read or holds no certificate.
    """
    if value is None:
        return True
    try:
        text = Path(value).read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise InputError(option, value, f"the path of a readable PEM file ({error.strerror})") from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise InputError(option, value, "a PEM file with at least one certificate")
    return value


def backoff(attempt: int, *, first: float = 0.5, longest: float = 10.0) -> float:
    """Seconds to wait after an attempt (counted from 1): doubling, bounded, with jitter so that clients spread."""
    spread = random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
    return min(longest, first * 2 ** (attempt - 1)) * spread


def retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, within 0…60; None when there is none or it cannot be read."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except ValueError:
            return None
    return min(LONGEST_WAIT, max(0.0, seconds))


def _without_query(url: str) -> str:
    return url.partition("?")[0]


def body_blocks(answer: requests.Response, size: int, *, method: str) -> t.Iterator[bytes]:
    """The body of an open answer, block by block. Raises TransportError when it breaks off before its end."""
    try:
        yield from answer.iter_content(size)
    except requests_errors.RequestException as error:
        url = _without_query(str(answer.url))
        reason = f"the answer broke off ({root_cause(error)})"
        raise TransportError(reason, method=method, url=url, sent=True) from error


def _read_bounded(answer: requests.Response, method: str, url: str) -> bytes:
    """The whole body; ProtocolError when it is longer than any of ours can be."""
    parts = []
    size = 0
    for part in body_blocks(answer, 1 << 16, method=method):
        size += len(part)
        if size > LARGEST_BODY:
            raise ProtocolError(f"the answer is longer than {LARGEST_BODY} bytes", method=method, url=url)
        parts.append(part)
    return b"".join(parts)


def _raise_for_status(response: Response) -> None:
    if response.status < 300:
        return
    if response.status < 400:
        target = response.headers.get("Location", "an unnamed place")
        raise ProtocolError(
            f"the server redirects to {target}; redirects are not followed, correct the URL",
            method=response.method,
            url=response.url,
        )
    document: t.Any = None
    if "json" in response.headers.get("Content-Type", ""):
        with contextlib.suppress(ValueError):
            document = jsonlib.loads(response.body)
    raise HttpError(
        method=response.method,
        url=response.url,
        status=response.status,
        problem=Problem.parse(document, response.status),
    )


def root_cause(error: BaseException) -> str:
    """The operating system's or the TLS library's own words, which ``requests`` buries under several wrappers."""
    queue: list[BaseException] = [error]
    seen: set[int] = set()
    while queue:
        current = queue.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        verify_message = getattr(current, "verify_message", None)
        if verify_message:
            return f"certificate not accepted: {verify_message}"
        # RequestException is an OSError itself, but one that knows nothing.
        if isinstance(current, OSError) and current.strerror and not type(current).__module__.startswith("requests"):
            return str(current.strerror)
        linked = (*current.args, getattr(current, "reason", None), current.__cause__, current.__context__)
        queue.extend(item for item in linked if isinstance(item, BaseException))
    return str(error) or type(error).__name__


def _transport_error(error: Exception, method: str, url: str, timeout: float, verify: bool | str) -> TransportError:
    """Say in plain words why no answer came, and whether the server may have seen the request."""
    inner = error.args[0] if error.args else None
    reason = getattr(inner, "reason", None)
    unsent = type(reason).__name__ in {"NewConnectionError", "NameResolutionError", "ConnectTimeoutError"}
    if isinstance(error, requests_errors.SSLError):
        trusted = verify if isinstance(verify, str) else "the system's CA certificates"
        return TransportError(
            f"TLS failed: {root_cause(error)} (trusted: {trusted})", method=method, url=url, sent=False
        )
    if isinstance(error, requests_errors.ConnectTimeout):
        return TransportError(f"no connection within {timeout:g} seconds", method=method, url=url, sent=False)
    if isinstance(error, requests_errors.ReadTimeout):
        return TransportError(f"no answer within {timeout:g} seconds", method=method, url=url, sent=True)
    if isinstance(error, requests_errors.ConnectionError):
        text = "cannot connect" if unsent else "the connection broke"
        return TransportError(f"{text}: {root_cause(error)}", method=method, url=url, sent=not unsent)
    return TransportError(str(error), method=method, url=url, sent=False)
