# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Logging in to VMware Cloud Director: password, API token, service account.

All on ``/cloudapi`` and ``/oauth``: the logins below ``/api`` are gone since API 38.0.

The token of a service account is good for one use: every answer brings the next one, and one that is lost has to be
granted anew by an administrator. So it lives in a file that is locked while it is used, and replaced before anything
else is done. The access token is kept beside it as long as it is good, so that runs side by side share one session. The
file has the form that other tools for Cloud Director use: a JSON object with ``refresh_token``.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import time
import typing as t
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_xml as xml
from ansible_collections.cda.coldmig.plugins.module_utils._errors import InputError, ProtocolError
from ansible_collections.cda.coldmig.plugins.module_utils._http import Response
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_errors import VcdError

SYSTEM = "System"
OLDEST_WITH_API_TOKENS = (36, 1)
OLDEST_WITH_SERVICE_ACCOUNTS = (37, 0)
SPARE_SECONDS = 300.0
"""An access token that is good for less than this is not begun with."""

Ask = Callable[[str, str, Mapping[str, str], bytes], Response]
"""Method, path, headers and body to the answer, whatever its status."""


@dataclass(frozen=True)
class Credentials:
    """How to log in: *user* and *password*; in place of these *api_token* or *service_account* (path of its file)."""

    org: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    api_token: str | None = field(default=None, repr=False)
    service_account: str | None = None

    def __post_init__(self) -> None:
        tokens = (self.api_token, self.service_account)
        if None not in tokens:
            raise InputError("vcd_api_token", "(hidden)", "only one of vcd_api_token and vcd_service_account_path")
        if tokens == (None, None) and (self.user is None or self.password is None):
            raise InputError(
                "vcd_user",
                self.user,
                "needed together with vcd_password, unless vcd_api_token or vcd_service_account_path is given",
            )

    @property
    def is_provider(self) -> bool:
        return self.org.lower() == SYSTEM.lower()

    @property
    def shared(self) -> bool:
        """Whether other runs use the same session, so that it must not be closed."""
        return self.service_account is not None


def log_in(ask: Ask, server: str, version: str, credentials: Credentials, *, stale: str | None = None) -> str:
    """An access token. *stale* is one that VCD does not take any more. Raises VcdError when VCD refuses."""
    if credentials.service_account is not None:
        _require_version(version, OLDEST_WITH_SERVICE_ACCOUNTS, "service accounts")
        return _with_service_account(ask, server, version, credentials, stale)
    if credentials.api_token is not None:
        _require_version(version, OLDEST_WITH_API_TOKENS, "API tokens")
        return str(_exchange_token(ask, server, version, credentials, credentials.api_token)["access_token"])
    return _with_password(ask, server, version, credentials)


def _require_version(version: str, oldest: tuple[int, int], what: str) -> None:
    if xml.version_key(version) < oldest:
        raise VcdError(
            f"{what} need API version {oldest[0]}.{oldest[1]}, and this Cloud Director offers {version} at most; "
            "use vcd_user and vcd_password"
        )


def _accept(version: str) -> str:
    return f"application/json;version={version}"


def _with_password(ask: Ask, server: str, version: str, credentials: Credentials) -> str:
    path = "/cloudapi/1.0.0/sessions" + ("/provider" if credentials.is_provider else "")
    login = f"{credentials.user}@{credentials.org}:{credentials.password}"
    secret = base64.b64encode(login.encode()).decode()
    answer = ask("POST", path, {"Accept": _accept(version), "Authorization": f"Basic {secret}"}, b"")
    _require_success(answer, server, credentials, f"user {credentials.user!r} with this password")
    token = header(answer, "X-VMWARE-VCLOUD-ACCESS-TOKEN")
    if not token:
        raise ProtocolError("the answer to the login has no access token", method="POST", url=answer.url)
    return token


def _exchange_token(ask: Ask, server: str, version: str, credentials: Credentials, token: str) -> dict[str, t.Any]:
    scope = "provider" if credentials.is_provider else f"tenant/{quote(credentials.org, safe='')}"
    form = urlencode({"grant_type": "refresh_token", "refresh_token": token}).encode()
    headers = {"Accept": _accept(version), "Content-Type": "application/x-www-form-urlencoded"}
    answer = ask("POST", f"/oauth/{scope}/token", headers, form)
    what = "the API token" if credentials.service_account is None else "the service account's token"
    _require_success(answer, server, credentials, what)
    document = answer.json()
    if not isinstance(document, dict) or not document.get("access_token"):
        raise ProtocolError("the answer to the login has no access token", method="POST", url=answer.url)
    return document


def _require_success(answer: Response, server: str, credentials: Credentials, what: str) -> None:
    if answer.status < 300:
        return
    request_id = header(answer, "X-VMWARE-VCLOUD-REQUEST-ID")
    if answer.status in (400, 401, 403):
        hint = "; each of its tokens is good for one login, a used one must be granted anew"
        raise VcdError(
            f"VCD {server} does not accept {what} in organization {credentials.org!r}"
            + (hint if credentials.service_account is not None else ""),
            status=answer.status,
            request_id=request_id,
        )
    raise VcdError(f"logging in: status {answer.status}", status=answer.status, request_id=request_id)


def header(answer: Response, name: str) -> str | None:
    """A header of an answer, its name in any case."""
    return next((value for key, value in answer.headers.items() if key.lower() == name.lower()), None)


# --- service accounts ---------------------------------------------------------------------------------------------


def _with_service_account(ask: Ask, server: str, version: str, credentials: Credentials, stale: str | None) -> str:
    path = Path(t.cast(str, credentials.service_account))
    with _locked(path):
        kept = _read_token(path)
        access, expires = kept.get("access_token"), kept.get("access_expires")
        usable = isinstance(expires, int | float) and expires - time.time() > SPARE_SECONDS
        if access and access != stale and usable:
            return str(access)
        # room for the next token is made sure of before the present one is spent
        fresh = _prepare(path)
        try:
            answer = _exchange_token(ask, server, version, credentials, str(kept["refresh_token"]))
            lifetime = answer.get("expires_in")
            _replace(
                fresh,
                path,
                {
                    "access_token": answer["access_token"],
                    "access_expires": int(time.time() + lifetime) if isinstance(lifetime, int | float) else 0,
                    "token_type": "Service Account",
                    "refresh_token": answer.get("refresh_token") or kept["refresh_token"],
                    "updated_by": "cda.coldmig",
                    "updated_on": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                },
            )
        finally:
            fresh.unlink(missing_ok=True)
        return str(answer["access_token"])


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone with the file: its token is good for one use. The lock is beside it, as the file itself is replaced."""
    try:
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputError(
            "vcd_service_account_path",
            str(path),
            f"a file in a folder that can be written: each use of the token brings the next one ({error.strerror})",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_token(path: Path) -> dict[str, t.Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError("vcd_service_account_path", str(path), f"a readable file ({error.strerror})") from error
    except ValueError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("refresh_token"), str):
        raise InputError(
            "vcd_service_account_path", str(path), "a JSON object with the service account's refresh_token"
        )
    return document


def _prepare(path: Path) -> Path:
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(bytes(16384))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            "vcd_service_account_path", str(path), f"a file that can be replaced ({error.strerror})"
        ) from error
    return fresh


def _replace(fresh: Path, path: Path, document: Mapping[str, t.Any]) -> None:
    with fresh.open("r+b") as file:
        file.write(json.dumps(document, indent=1).encode() + b"\n")
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
