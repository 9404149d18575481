# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Client for the VMware Cloud Director API, versions 36.0 (10.3) to 39.1 (10.6).

XML on ``/api``, JSON on ``/cloudapi``; sessions are opened and closed on ``/cloudapi`` alone, as newer versions have no
other. Knows nothing of AnsibleModule. Every wait has an end. Every request carries an id of ours, with which VCD's own
request id then begins; errors name it, so that they can be found in VCD's logs.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
import typing as t
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_xml as xml
from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError, ProtocolError, TransportError
from ansible_collections.cda.coldmig.plugins.module_utils._http import (
    IDEMPOTENT,
    LARGEST_BODY,
    HttpClient,
    Response,
    backoff,
    body_blocks,
    ca_file,
    server_url,
)
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_errors import (
    BUSY,
    DUPLICATE_NAME,
    DestinationError,
    TaskFailedError,
    VcdError,
    is_uncertain,
)
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_login import SYSTEM, Credentials, header, log_in

if t.TYPE_CHECKING:
    import requests

OLDEST = (36, 0)
NEWEST = (39, 1)
PAGE = 128
POLL_FIRST = 0.5
POLL_LONGEST = 5.0
ATTEMPTS = 6
"""How often a request that may be repeated is sent while the server has trouble of its own."""
SILENCES = 2
"""How many requests in a row may go unanswered: a server that takes them and says nothing is not waited for longer."""
TIMEOUT = 60
"""Seconds within which each connection and each answer has to come, by default."""

__all__ = [
    "BUSY",
    "DUPLICATE_NAME",
    "SYSTEM",
    "DestinationError",
    "Session",
    "TaskFailedError",
    "Vcd",
    "VcdError",
    "is_uncertain",
]

T = t.TypeVar("T")


def entity_id(href: str) -> str:
    """The id at the end of an href or URN, so that /api/vdc/X and /api/admin/vdc/X compare equal."""
    return href.rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1]


def same_entity(one: str | None, other: str | None) -> bool:
    """Whether two hrefs or URNs name the same entity."""
    return one is not None and other is not None and entity_id(one) == entity_id(other)


def choose_version(offered: xml.ApiVersions) -> str:
    """The newest version that both sides know; a deprecated one only where there is no other. Raises VcdError."""
    for versions in (offered.supported, offered.deprecated):
        for version in versions:
            if OLDEST <= xml.version_key(version) <= NEWEST:
                return version
    known = ", ".join(offered.supported) or "none"
    raise VcdError(
        f"VCD offers the API versions {known}; one from {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]} is needed"
    )


def equals(attribute: str, value: str) -> str | None:
    """A filter for ``query``; None, which is no filter, for a value with characters that have a meaning in filters.

    Versions of VCD differ in how those are escaped, so whoever asks compares the records anyway.
    """
    return f"{attribute}=={value}" if re.fullmatch(r"[A-Za-z0-9_.:-]+", value) else None


@dataclass(frozen=True)
class Session:
    """Who is logged in."""

    user: str
    org: str

    @property
    def is_provider(self) -> bool:
        return self.org.lower() == SYSTEM.lower()


class _Transport(HttpClient):
    """Hands out answers of every status: VCD's errors are XML, and their codes decide what is done next."""

    def exchange(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        data: bytes | None,
        params: Mapping[str, str] | None,
        repeatable: bool | None = None,
    ) -> Response:
        with self._send(method, path, params=params, data=data, headers=headers, idempotent=repeatable) as answer:
            url = str(answer.url).partition("?")[0]
            return Response(method, url, answer.status_code, dict(answer.headers), _read(answer, method, url))


def _read(answer: requests.Response, method: str, url: str) -> bytes:
    parts = bytearray()
    for block in body_blocks(answer, 1 << 16, method=method):
        parts += block
        if len(parts) > LARGEST_BODY:
            raise ProtocolError(f"the answer is longer than {LARGEST_BODY} bytes", method=method, url=url)
    return bytes(parts)


class Vcd:
    """A session with Cloud Director; a context manager.

    *busy_timeout* (seconds) bounds how long a request waits for an entity that is busy with something else. *sleep* and
    *clock* are for tests.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        validate_certs: bool = True,
        ca_path: str | None = None,
        timeout: float = TIMEOUT,
        busy_timeout: float = 300.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = server_url("vcd_url", url)
        self._credentials = credentials
        verify: bool | str = ca_file("vcd_ca_path", ca_path) if validate_certs else False
        self._http = _Transport(
            self.url, verify=verify, timeout=timeout, attempts=ATTEMPTS, silences=SILENCES, sleep=sleep
        )
        self._busy_timeout = busy_timeout
        self._sleep = sleep
        self._clock = clock
        self._run = f"coldmig-{uuid.uuid4().hex[:12]}"
        self._requests = 0
        self._token: str | None = None
        self.version = ""

    @classmethod
    def from_options(cls, options: Mapping[str, t.Any], *, busy_timeout: float = 300.0) -> Vcd:
        """From the options of a module (``vcd_options``)."""
        return cls(
            options["vcd_url"],
            Credentials(
                options["vcd_org"],
                user=options["vcd_user"],
                password=options["vcd_password"],
                api_token=options["vcd_api_token"],
                service_account=options["vcd_service_account_path"],
            ),
            validate_certs=options["vcd_validate_certs"],
            ca_path=options["vcd_ca_path"],
            timeout=options.get("vcd_timeout") or TIMEOUT,
            busy_timeout=busy_timeout,
        )

    def __enter__(self) -> Vcd:
        self.login()
        return self

    def __exit__(self, *_unused: object) -> None:
        self.close()

    # -- session

    def login(self) -> None:
        """Agree on a version and open a session. Raises VcdError when the credentials are refused."""
        answer = self._exchange_patiently("GET", "/api/versions", {"Accept": "application/*+xml"})
        self._require_success(answer, "reading the API versions")
        self.version = choose_version(_read_xml(xml.read_versions, answer))
        self._open()

    def _open(self) -> None:
        """A session; one that VCD has ended is replaced. Nothing is done by a login that could be done twice."""
        ask = self._exchange_patiently
        self._token = log_in(ask, self.url, self.version, self._credentials, stale=self._token)
        self._http.set_header("Authorization", f"Bearer {self._token}")

    def _exchange_patiently(
        self, method: str, path: str, headers: Mapping[str, str], data: bytes | None = None
    ) -> Response:
        """For what is done before there is a session: sent again while the server has trouble of its own."""
        attempt = 1
        while True:
            try:
                answer = self._exchange(method, path, headers, data, repeatable=True)
            except TransportError as error:
                raise error.during("logging in") from error
            if answer.status < 500 or attempt == ATTEMPTS:
                return answer
            self._sleep(backoff(attempt))
            attempt += 1

    def session(self) -> Session:
        """Who is logged in."""
        answer = self.cloudapi("GET", "/1.0.0/sessions/current", what="reading the session")
        return Session(str(answer.get("user", {}).get("name", "")), str(answer.get("org", {}).get("name", "")))

    def close(self) -> None:
        """Log out, as far as VCD still listens."""
        if self._token is not None and not self._credentials.shared and not self._http.silent:
            with contextlib.suppress(ColdmigError):
                self._exchange("DELETE", "/cloudapi/1.0.0/sessions/current", {"Accept": self._json})
        self._token = None
        self._http.close()

    # -- requests

    @property
    def _json(self) -> str:
        return f"application/json;version={self.version}"

    def _exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        data: bytes | None = None,
        *,
        params: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
    ) -> Response:
        self._requests += 1
        request_id = f"{self._run}-{self._requests}"
        return self._http.exchange(
            method,
            path,
            headers={**headers, "X-VMWARE-VCLOUD-CLIENT-REQUEST-ID": request_id},
            data=data,
            params=params,
            repeatable=repeatable,
        )

    def _require_success(self, answer: Response, what: str) -> None:
        if answer.status < 300:
            return
        if answer.status < 400:
            raise ProtocolError("the server redirects; correct vcd_url", method=answer.method, url=answer.url)
        info = xml.read_error(answer.body) or _json_error(answer)
        text = str(info) if info is not None else f"status {answer.status}"
        if answer.status == 401:
            text += "; the session is not valid any more"
        raise VcdError(
            f"{what}: {text}",
            status=answer.status,
            minor=info.minor if info is not None else "",
            request_id=_request_id(answer),
            tenant=self._for_tenants(info),
        )

    def _for_tenants(self, info: xml.ErrorInfo | None) -> str | None:
        """What VCD tells the tenant: its text for tenants, or all that it tells a tenant's own session."""
        if info is None:
            return None
        return info.tenant or (None if self._credentials.is_provider else info.message) or None

    def _ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        what: str,
        params: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
    ) -> Response:
        """A request with everything that passes by itself waited for.

        An entity that is busy: VCD answers that with status 400, and has done nothing. A session that has ended: a new
        one is opened, once. Trouble of the server: only where the request may be repeated (GET, PUT, DELETE, or as
        *repeatable* says).
        """
        deadline = self._clock() + self._busy_timeout
        may_repeat = method in IDEMPOTENT if repeatable is None else repeatable
        attempt = troubles = 1
        reopened = False
        while True:
            try:
                answer = self._exchange(method, path, headers, body, params=params, repeatable=repeatable)
            except TransportError as error:
                raise error.during(what) from error
            try:
                self._require_success(answer, what)
            except VcdError as error:
                wait = backoff(attempt)
                attempt += 1
                if error.busy:
                    if self._clock() + wait > deadline:
                        raise
                elif error.status == 401 and self._token is not None and not reopened:
                    self._open()
                    reopened = True
                    continue
                elif error.passing and may_repeat and troubles < ATTEMPTS:
                    troubles += 1
                else:
                    raise
                self._sleep(wait)
            else:
                return answer

    def api(
        self,
        method: str,
        href: str,
        *,
        what: str,
        media: str | None = None,
        body: bytes | None = None,
        repeatable: bool | None = None,
    ) -> bytes:
        """A request on ``/api``; *href* is a path or an address that VCD gave. *what* begins the error's text.

        *repeatable* says of a POST that it may be sent again when it is not known whether it was done.
        """
        headers = {"Accept": f"application/*+xml;version={self.version}"}
        if media is not None:
            headers["Content-Type"] = f"{media};version={self.version}"
        return self._ask(method, self._checked(href), headers, body, what=what, repeatable=repeatable).body

    def _checked(self, href: str) -> str:
        """Only addresses of this VCD: the token must not go anywhere else, whatever an answer says."""
        if href.startswith(("/", f"{self.url}/")):
            return href
        raise VcdError(
            f"VCD {self.url} names {href}, which is another server; use the public address of VCD as vcd_url"
        )

    def cloudapi(
        self, method: str, path: str, *, what: str, params: Mapping[str, str] | None = None
    ) -> dict[str, t.Any]:
        """A request on ``/cloudapi``, decoded."""
        return _read_json(self._ask(method, f"/cloudapi{path}", {"Accept": self._json}, what=what, params=params))

    def read(self, reader: Callable[[bytes], T], href: str, *, what: str) -> T:
        """GET an entity and read it with one of ``_vcd_xml``'s readers."""
        body = self.api("GET", href, what=what)
        try:
            return reader(body)
        except xml.XmlError as error:
            raise ProtocolError(f"{what}: {error}", method="GET", url=href) from error

    def read_or_none(self, reader: Callable[[bytes], T], href: str, *, what: str) -> T | None:
        """As ``read``; None for what does not exist, which VCD does not tell from what may not be seen."""
        try:
            return self.read(reader, href, what=what)
        except VcdError as error:
            if error.status in (403, 404):
                return None
            raise

    def query(self, kind: str, condition: str | None = None, *, what: str) -> Iterator[Mapping[str, str]]:
        """All records of a query, page by page. *condition* is a FIQL filter, see ``equals``."""
        parameters = {"type": kind, "format": "records", "page": "1", "pageSize": str(PAGE)}
        if condition:
            parameters["filter"] = f"({condition})"
        href: str | None = f"/api/query?{urlencode(parameters, safe='=;():')}"
        while href is not None:
            page = self.read(xml.read_records, href, what=what)
            yield from page.records
            href = page.next_page

    def search(self, kind: str, attribute: str, value: str, *, what: str) -> Iterator[Mapping[str, str]]:
        """The records whose attribute has exactly this value, by a filter where VCD takes one."""
        condition = equals(attribute, value)
        try:
            records = list(self.query(kind, condition, what=what))
        except VcdError as error:
            if condition is None or error.status != 400:
                raise
            records = list(self.query(kind, what=what))
        return (record for record in records if record.get(attribute) == value)

    def related(self, kind: str, attribute: str, href: str, *, what: str) -> Iterator[Mapping[str, str]]:
        """The records whose attribute is a reference to this entity, by a filter where VCD takes one."""
        try:
            records = list(self.query(kind, f"{attribute}=={href}", what=what))
        except VcdError as error:
            if error.status != 400:
                raise
            records = list(self.query(kind, what=what))
        return (record for record in records if same_entity(record.get(attribute), href))

    def cloudapi_items(self, path: str, *, what: str, condition: str | None = None) -> Iterator[dict[str, t.Any]]:
        """All items of a ``/cloudapi`` list. *condition* is a FIQL filter, see ``equals``."""
        page, pages = 1, 1
        while page <= pages:
            parameters = {"page": str(page), "pageSize": str(PAGE)}
            if condition is not None:
                parameters["filter"] = condition
            answer = self.cloudapi("GET", path, what=what, params=parameters)
            yield from answer.get("values") or ()
            pages = int(answer.get("pageCount") or 0)
            page += 1

    # -- tasks

    def run(
        self,
        method: str,
        href: str,
        *,
        what: str,
        timeout: float,
        media: str | None = None,
        body: bytes | None = None,
        repeatable: bool | None = None,
    ) -> None:
        """A request that answers with a task, and the task's end.

        Begun again when the task finds something busy that the request did not (a network, for example).
        """
        deadline = self._clock() + self._busy_timeout
        attempt = 1
        while True:
            answer = self.api(method, href, what=what, media=media, body=body, repeatable=repeatable)
            if not answer.strip():
                return
            try:
                task = xml.read_task(answer)
            except xml.XmlError as error:
                raise ProtocolError(f"{what}: {error}", method=method, url=href) from error
            try:
                self.wait_for(task, what=what, timeout=timeout)
            except TaskFailedError as error:
                wait = backoff(attempt)
                if not error.busy or self._clock() + wait > deadline:
                    raise
                self._sleep(wait)
                attempt += 1
            else:
                return

    def wait_for(self, task: xml.Task, *, what: str, timeout: float) -> None:
        """Wait for a task's end. Raises TaskFailedError, or VcdError when it does not end within *timeout* seconds."""
        deadline = self._clock() + timeout
        pause = POLL_FIRST
        while not task.ended:
            if self._clock() > deadline:
                raise VcdError(f"{what}: the task is still '{task.status}' after {timeout:.0f} seconds ({task.href})")
            self._sleep(pause)
            pause = min(POLL_LONGEST, pause * 1.5)
            task = self.read(xml.read_task, task.href, what=f"{what}: waiting")
        if not task.succeeded:
            info = task.error
            raise TaskFailedError(
                f"{what}: {info if info is not None else f'the task was {task.status}'}",
                minor=info.minor if info is not None else "",
                tenant=self._for_tenants(info),
            )


def _request_id(answer: Response) -> str | None:
    return header(answer, "X-VMWARE-VCLOUD-REQUEST-ID")


def _read_xml(reader: Callable[[bytes], T], answer: Response) -> T:
    try:
        return reader(answer.body)
    except xml.XmlError as error:
        raise ProtocolError(
            f"{error}: is this the URL of Cloud Director?", method=answer.method, url=answer.url
        ) from error


def _read_json(answer: Response) -> dict[str, t.Any]:
    document = answer.json()
    if not isinstance(document, dict):
        raise ProtocolError("expected a JSON object", method=answer.method, url=answer.url)
    return document


def _json_error(answer: Response) -> xml.ErrorInfo | None:
    with contextlib.suppress(ValueError):
        document = json.loads(answer.body)
        if isinstance(document, dict) and document.get("message"):
            return xml.ErrorInfo(answer.status, str(document.get("minorErrorCode") or ""), str(document["message"]))
    return None
