# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._errors import InputError
from ansible_collections.cda.coldmig.plugins.module_utils._http import Response
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_errors import VcdError
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_login import Credentials, log_in

URL = "https://vcd.example.com"


class Door:
    """Takes each token of a service account once, as VCD does."""

    def __init__(self, token: str, lifetime: int = 3600) -> None:
        self.good = token
        self.lifetime = lifetime
        self.logins = 0
        self.paths: list[str] = []

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        assert headers["Content-Type"] == "application/x-www-form-urlencoded"
        self.paths.append(path)
        if body != f"grant_type=refresh_token&refresh_token={self.good}".encode():
            return Response(method, URL + path, 400, {}, b'{"error": "invalid_grant"}')
        self.logins += 1
        self.good = f"next-{self.logins}"
        answer = {"access_token": f"jwt-{self.logins}", "expires_in": self.lifetime, "refresh_token": self.good}
        return Response(method, URL + path, 200, {}, json.dumps(answer).encode())


def account(tmp_path: Path, **content: Any) -> Credentials:
    file = tmp_path / "account.json"
    file.write_text(json.dumps({"refresh_token": "first", **content}))
    return Credentials("System", service_account=str(file))


def test_token_of_a_service_account_is_replaced_before_it_is_used(tmp_path: Path) -> None:
    door, credentials = Door("first"), account(tmp_path)
    assert log_in(door, URL, "38.1", credentials) == "jwt-1"
    kept = json.loads((tmp_path / "account.json").read_text())
    assert (kept["refresh_token"], kept["token_type"]) == ("next-1", "Service Account")
    assert (tmp_path / "account.json").stat().st_mode & 0o777 == 0o600
    assert door.paths == ["/oauth/provider/token"]


def test_session_is_shared_until_it_ends_or_vcd_does_not_take_it(tmp_path: Path) -> None:
    door, credentials = Door("first"), account(tmp_path)
    tokens = [log_in(door, URL, "38.1", credentials) for login in range(3)]
    assert (tokens, door.logins) == (["jwt-1"] * 3, 1)
    assert log_in(door, URL, "38.1", credentials, stale="jwt-1") == "jwt-2"
    # another run, whose session was the same one, finds the new one
    assert log_in(door, URL, "38.1", credentials, stale="jwt-1") == "jwt-2"
    assert door.logins == 2
    short = Door("next-2", lifetime=60)
    short.logins = 2
    assert log_in(short, URL, "38.1", credentials, stale="jwt-2") == "jwt-3"
    assert log_in(short, URL, "38.1", credentials) == "jwt-4"


def test_runs_side_by_side_take_turns(tmp_path: Path) -> None:
    door, credentials = Door("first", lifetime=0), account(tmp_path)

    def slow(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        time.sleep(0.02)
        return door(method, path, headers, body)

    found: list[str] = []
    runs = [threading.Thread(target=lambda: found.append(log_in(slow, URL, "38.1", credentials))) for each in range(6)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert sorted(found) == [f"jwt-{number}" for number in range(1, 7)]


def test_refusal_keeps_the_token_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    credentials = account(tmp_path, refresh_token="spent", note="mine")
    before = (tmp_path / "account.json").read_bytes()
    with pytest.raises(
        VcdError, match="does not accept the service account's token in organization 'System'"
    ) as caught:
        log_in(Door("first"), URL, "38.1", credentials)
    assert "spent" not in str(caught.value)
    assert (tmp_path / "account.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".account.json.lock", "account.json"]


@pytest.mark.parametrize("content", [b"", b"token", b"[]", b'{"refresh_token": 1}', None])
def test_file_that_is_none_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "account.json"
    if content is not None:
        file.write_bytes(content)
    door = Door("first")
    with pytest.raises(InputError, match="vcd_service_account_path"):
        log_in(door, URL, "38.1", Credentials("System", service_account=str(file)))
    assert door.paths == []


def test_token_that_could_not_be_replaced_is_not_spent(tmp_path: Path) -> None:
    door, credentials = Door("first"), account(tmp_path)
    (tmp_path / f".account.json.{os.getpid()}.new").mkdir()
    with pytest.raises(InputError, match="a file that can be replaced"):
        log_in(door, URL, "38.1", credentials)
    assert door.paths == []


@pytest.mark.parametrize(
    ("credentials", "version", "text"),
    [
        (Credentials("System", api_token="t"), "36.0", r"API tokens need API version 36\.1"),
        (Credentials("System", service_account="/nowhere"), "36.3", r"service accounts need API version 37\.0"),
    ],
)
def test_login_that_the_version_does_not_know_is_told(credentials: Credentials, version: str, text: str) -> None:
    with pytest.raises(VcdError, match=text):
        log_in(Door("t"), URL, version, credentials)


def test_one_way_to_log_in_is_needed_and_only_one_taken() -> None:
    for wrong in ({}, {"user": "a"}, {"password": "pw"}, {"api_token": "pw", "service_account": "/f"}):
        with pytest.raises(InputError) as caught:
            Credentials("System", **wrong)  # type: ignore[arg-type]
        assert "pw" not in str(caught.value)
    # a password in the environment is no hindrance
    door = Door("t")
    assert log_in(door, URL, "38.1", Credentials("System", user="a", password="pw", api_token="t")) == "jwt-1"
    assert "secret" not in repr(Credentials("System", user="a", password="secret"))


def test_tenant_s_token_is_exchanged_at_his_own_door() -> None:
    door = Door("t")
    log_in(door, URL, "38.1", Credentials("a c/me", api_token="t"))
    assert door.paths == ["/oauth/tenant/a%20c%2Fme/token"]
