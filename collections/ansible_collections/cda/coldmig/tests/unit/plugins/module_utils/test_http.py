# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import socket
import typing as t
from pathlib import Path

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _http
from ansible_collections.cda.coldmig.plugins.module_utils._errors import (
    HttpError,
    InputError,
    ProtocolError,
    TransportError,
)
from ansible_collections.cda.coldmig.plugins.module_utils._http import (
    HttpClient,
    body_blocks,
    ca_file,
    retry_after,
    server_url,
)


class Naps(list[float]):
    """Takes the place of sleep: remembers how long it would have slept."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
def client(http_server: t.Any, naps: Naps) -> t.Iterator[HttpClient]:
    with HttpClient(http_server.url, headers={"Authorization": "Bearer secret"}, timeout=5, sleep=naps) as made:
        yield made


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_sends_json_and_reads_json(http_server: t.Any, client: HttpClient, answer: t.Any) -> None:
    http_server.says(answer(201, {"id": "7"}))
    response = client.request("POST", "/things", json={"name": "x"})
    assert (response.status, response.json()) == (201, {"id": "7"})
    (seen,) = http_server.requests
    assert (seen.method, seen.path, seen.json()) == ("POST", "/things", {"name": "x"})
    assert seen.headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_idempotent_request_is_repeated(
    http_server: t.Any, client: HttpClient, answer: t.Any, naps: Naps, status: int
) -> None:
    http_server.says(answer(status, {}), answer(200, {"ok": True}))
    assert client.request("GET", "/x").json() == {"ok": True}
    assert len(http_server.requests) == 2
    assert len(naps) == 1


def test_gives_up_after_the_last_attempt(http_server: t.Any, client: HttpClient, answer: t.Any, naps: Naps) -> None:
    http_server.default = answer(503, {"title": "Busy"})
    with pytest.raises(HttpError, match="503 Service Unavailable: Busy"):
        client.request("GET", "/x")
    assert len(http_server.requests) == 4
    assert len(naps) == 3
    assert naps == sorted(naps)


@pytest.mark.parametrize("status", [408, 502, 504])
def test_post_that_may_have_been_done_is_not_repeated(
    http_server: t.Any, client: HttpClient, answer: t.Any, status: int
) -> None:
    http_server.says(answer(status, {}), answer(200, {}))
    with pytest.raises(HttpError):
        client.request("POST", "/x", json={})
    assert len(http_server.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_post_that_was_not_begun_is_repeated(
    http_server: t.Any, client: HttpClient, answer: t.Any, status: int
) -> None:
    http_server.says(answer(status, {}), answer(200, {}))
    client.request("POST", "/x", json={})
    assert len(http_server.requests) == 2


def test_post_is_repeated_when_the_caller_says_that_it_is_idempotent(
    http_server: t.Any, client: HttpClient, answer: t.Any
) -> None:
    http_server.says(answer(502, {}), answer(200, {}))
    client.request("POST", "/x", json={}, idempotent=True)
    assert len(http_server.requests) == 2


def test_retry_after_is_obeyed(http_server: t.Any, client: HttpClient, answer: t.Any, naps: Naps) -> None:
    http_server.says(answer(429, {}, headers={"Retry-After": "7"}), answer(200, {}))
    client.request("GET", "/x")
    assert naps == [7.0]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("12", 12.0),
        ("86400", 60.0),
        ("-3", 0.0),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:00:30 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:05 GMT", 0.0),
    ],
)
def test_retry_after_is_read_and_bounded(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, now=10.0) == seconds


def test_error_carries_url_status_and_problem(http_server: t.Any, client: HttpClient, answer: t.Any) -> None:
    problem = {
        "type": "urn:coldmig:problem:wrong-state",
        "title": "Wrong state",
        "status": 409,
        "detail": "It is finished.",
        "state": "finished",
    }
    http_server.says(answer(409, problem))
    with pytest.raises(HttpError) as caught:
        client.request("POST", "/x?token=abc", json={})
    error = caught.value
    assert str(error) == f"POST {http_server.url}/x: 409 Conflict: It is finished."
    assert (error.slug, error.status) == ("wrong-state", 409)
    assert error.details()["problem"] == problem


def test_names_of_headers_may_be_in_any_case(http_server: t.Any, client: HttpClient, answer: t.Any) -> None:
    headers = {"content-type": "application/problem+json", "retry-AFTER": "1"}
    http_server.says(answer(400, {"title": "Bad name"}, headers=headers))
    with pytest.raises(HttpError, match="400 Bad Request: Bad name"):
        client.request("GET", "/x")


def test_error_without_problem_document_still_says_what_happened(
    http_server: t.Any, client: HttpClient, answer: t.Any
) -> None:
    http_server.says(answer(400, body=b"<html>no", headers={"Content-Type": "text/html"}))
    with pytest.raises(HttpError, match=r"GET http://.*/x: 400 Bad Request$"):
        client.request("GET", "/x")


def test_redirect_is_refused_and_the_token_goes_nowhere(http_server: t.Any, client: HttpClient, answer: t.Any) -> None:
    http_server.says(answer(302, headers={"Location": f"{http_server.url}/elsewhere"}))
    with pytest.raises(ProtocolError, match=r"redirects to .*/elsewhere; redirects are not followed"):
        client.request("GET", "/x")
    assert len(http_server.requests) == 1


def test_answer_that_is_no_json_is_named(http_server: t.Any, client: HttpClient, answer: t.Any) -> None:
    http_server.says(answer(200, body=b"<html>", headers={"Content-Type": "text/html"}))
    with pytest.raises(ProtocolError, match="expected JSON, got 6 bytes of text/html"):
        client.request("GET", "/x").json()


def test_too_long_answer_is_refused(
    http_server: t.Any, client: HttpClient, answer: t.Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http, "LARGEST_BODY", 1000)
    http_server.says(answer(200, body=b"x" * 1001))
    with pytest.raises(ProtocolError, match="longer than 1000 bytes"):
        client.request("GET", "/x")


def test_answer_that_breaks_off_is_an_error(http_server: t.Any, client: HttpClient, answer: t.Any) -> None:
    http_server.says(answer(200, body=b"x" * 5000, cut=1000))
    with pytest.raises(TransportError, match="broke off"):
        client.request("GET", "/x")


def test_stream_that_breaks_off_is_an_error(http_server: t.Any, client: HttpClient, answer: t.Any) -> None:
    http_server.says(answer(200, body=b"x" * 5000, cut=1))
    with client.stream("/x") as opened, pytest.raises(TransportError, match="broke off"):
        list(body_blocks(opened, 1000, method="GET"))


def test_refused_stream_raises_before_anything_is_read(http_server: t.Any, client: HttpClient, answer: t.Any) -> None:
    http_server.says(answer(409, {"title": "Wrong state"}))
    with pytest.raises(HttpError, match="409 Conflict: Wrong state"), client.stream("/x"):
        pytest.fail("the body was handed out")


def test_unreachable_server_is_tried_again_even_for_post(naps: Naps) -> None:
    with HttpClient(f"http://127.0.0.1:{unused_port()}", sleep=naps) as client, pytest.raises(TransportError) as caught:
        client.request("POST", "/x", json={})
    assert "cannot connect: Connection refused" in str(caught.value)
    assert not caught.value.sent
    assert len(naps) == 3


def test_unknown_host_is_named(naps: Naps) -> None:
    with HttpClient("http://gateway.invalid", sleep=naps) as client, pytest.raises(TransportError) as caught:
        client.request("GET", "/x")
    assert str(caught.value).startswith("GET http://gateway.invalid/x: cannot connect: ")


def test_certificate_of_the_right_ca_is_accepted(https_server: t.Any, answer: t.Any, pki: t.Any) -> None:
    https_server.says(answer(200, {"ok": True}))
    with HttpClient(https_server.url, verify=str(pki.ca)) as client:
        assert client.request("GET", "/x").json() == {"ok": True}


def test_certificate_of_another_ca_is_refused_at_once(https_server: t.Any, other_pki: t.Any, naps: Naps) -> None:
    client = HttpClient(https_server.url, verify=str(other_pki.ca), sleep=naps)
    with client, pytest.raises(TransportError) as caught:
        client.request("GET", "/x")
    assert "certificate not accepted: " in str(caught.value)
    assert f"(trusted: {other_pki.ca})" in str(caught.value)
    assert naps == []


def test_environment_changes_neither_ca_nor_token(  # noqa: PLR0917 - all fixtures
    https_server: t.Any,
    answer: t.Any,
    pki: t.Any,
    other_pki: t.Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other_pki.ca))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{unused_port()}")
    https_server.says(answer(200, {}))
    with HttpClient(https_server.url, verify=str(pki.ca), headers={"Authorization": "Bearer secret"}) as client:
        client.request("GET", "/x")
    assert https_server.requests[0].headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("url", ["https://gw", "https://gw:8443", "https://gw:8443/", "https://[::1]:443"])
def test_good_url_is_taken_without_the_slash(url: str) -> None:
    assert server_url("gateway_url", url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["http://gw", "gw:8443", "", "https://", "https://gw:0", "https://gw:99999", "https://gw/api", "https://gw?x=1"],
)
def test_bad_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(InputError) as caught:
        server_url("gateway_url", url)
    assert str(caught.value).startswith(f"gateway_url: {url!r} is not valid: a URL such as https://")


def test_password_in_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        server_url("gateway_url", "https://me:hunter2@gw")
    assert "without user name and password" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_ca_file_is_checked_before_anything_is_sent(tmp_path: Path, pki: t.Any) -> None:
    assert ca_file("ca", None) is True
    assert ca_file("ca", str(pki.ca)) == str(pki.ca)
    with pytest.raises(InputError, match="No such file"):
        ca_file("ca", str(tmp_path / "missing.pem"))
    empty = tmp_path / "empty.pem"
    empty.write_text("hello")
    with pytest.raises(InputError, match="at least one certificate"):
        ca_file("ca", str(empty))
