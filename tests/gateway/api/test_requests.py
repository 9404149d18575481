# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests that are wrong before their content matters, and random ones."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coldmig_gateway.api.app import PREFIX
from coldmig_gateway.api.body import BodyGuard
from gateway.api.test_roles import OPERATIONS
from gateway.sitekit import SiteKit


@pytest.mark.parametrize(
    ("content", "media_type", "status", "slug"),
    [
        (b"{", "application/json", 400, "malformed-json"),
        (b"\xff\xfe", "application/json", 400, "malformed-json"),
        (b'{"organization": "a"}', "text/plain", 415, "unsupported-media-type"),
        (b"organization=a", "application/x-www-form-urlencoded", 415, "unsupported-media-type"),
        (b" " * ((1 << 20) + 1), "application/json", 413, "body-too-large"),
        (b"[]", "application/json", 422, "validation"),
        (b"null", "application/json", 422, "validation"),
        (b"", "application/json", 422, "validation"),
        (b'{"organization": "\\ud800"}', "application/json", 422, "validation"),
        (b"[" * 100_000, "application/json", 400, "malformed-json"),
    ],
    ids=["cut", "not text", "text", "form", "too large", "list", "null", "nothing", "lone surrogate", "deep"],
)
def test_a_body_that_is_no_good_json(site: SiteKit, content: bytes, media_type: str, status: int, slug: str) -> None:
    headers = {"Authorization": f"Bearer {site.provider.token}", "Content-Type": media_type}
    answer = site._client.post(f"{PREFIX}/tokens", content=content, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:coldmig:problem:{slug}")


def test_a_body_of_undeclared_length_is_bounded_too(site: SiteKit) -> None:
    headers = {"Authorization": f"Bearer {site.provider.token}", "Content-Type": "application/json"}
    answer = site._client.post(f"{PREFIX}/tokens", content=iter([b" " * 65536] * 20), headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:coldmig:problem:body-too-large")


def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    async def application(*_: Any) -> None:
        pytest.fail("the request must not get this far")

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(3600)
        return {}

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    guard = BodyGuard(application, seconds=0.05)
    asyncio.run(guard({"type": "http", "headers": [(b"content-length", b"5")]}, receive, send))
    assert sent[0]["status"] == 408


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("DELETE", "/health", 405)])
def test_paths_and_methods_that_do_not_exist(site: SiteKit, method: str, path: str, status: int) -> None:
    answer = site.provider.request(method, path)
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_address_that_is_not_the_peer_cannot_be_claimed(site: SiteKit) -> None:
    from gateway.sitekit import TEMPLATE, machine

    site.activate("acme")
    acme = site.tenant("acme")
    iso = site.iso(acme, acme.ok("POST", "/templates", TEMPLATE)["id"])
    made = iso.ok("POST", "/enrolments", machine(), headers={"X-Forwarded-For": "192.0.2.1"})
    assert acme.ok("GET", f"/migrations/{made['migration_id']}")["source_ip"] != "192.0.2.1"


def test_the_document_describes_every_operation_and_its_errors(site: SiteKit) -> None:
    document = site.nobody.ok("GET", "/openapi.json")
    assert "HTTPValidationError" not in json.dumps(document)
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["description"], f"{method} {path}"
            errors = {status for status in operation["responses"] if status >= "400"}
            assert path.endswith("/health") or {"401", "403", "422"} <= errors, f"{method} {path}"
            for status in errors:
                assert "application/problem+json" in operation["responses"][status]["content"], (
                    f"{method} {path} {status}"
                )


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_documents = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def _damaged(draw: st.DrawFn, document: Any) -> Any:
    """A good body with one value in it replaced by anything, or one key added."""
    if isinstance(document, dict) and document and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(document)))
        return document | {key: draw(_damaged(document[key]))}
    if isinstance(document, list) and document and draw(st.booleans()):
        return [draw(_damaged(document[0])), *document[1:]]
    if isinstance(document, dict) and draw(st.booleans()):
        return document | {draw(st.text(max_size=8)): draw(_scalars)}
    return draw(_documents)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_request_makes_the_service_fail(site: SiteKit, data: st.DataObject) -> None:
    operation = data.draw(st.sampled_from([name for name, (_, body) in OPERATIONS.items() if body is not None]))
    roles, good = OPERATIONS[operation]
    body = data.draw(_damaged(good))
    callers = _callers(site)
    method, path = operation.split(" ")
    for name in ("template_id", "migration_id", "credential_id", "token_id"):
        path = path.replace("{" + name + "}", callers[name])
    content = json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {callers[sorted(roles)[0]]}", "Content-Type": "application/json"}
    answer = site._client.request(method, PREFIX + path, content=content, headers=headers)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"


def _callers(site: SiteKit) -> dict[str, str]:
    """Tokens and ids to use, made once per site."""
    known: dict[str, str] | None = getattr(site, "known", None)
    if known is None:
        from gateway.sitekit import TEMPLATE

        site.activate("acme")
        acme = site.tenant("acme")
        template = acme.ok("POST", "/templates", TEMPLATE)["id"]
        credential = acme.ok("POST", f"/templates/{template}/iso-credentials", {})
        migration, agent = site.enrol(site.caller(credential["credential"]))
        known = {
            "organization": acme.token or "",
            "provider": site.provider.token or "",
            "iso": credential["credential"],
            "session": agent.token or "",
            "template_id": template,
            "credential_id": credential["id"],
            "migration_id": migration,
            "token_id": "unknown",
        }
        site.known = known  # type: ignore[attr-defined]
    return known
