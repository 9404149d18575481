# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from gateway.sitekit import TEMPLATE, SiteKit, machine


def test_a_token_is_shown_once_and_stored_as_a_digest(site: SiteKit, tmp_path: Path) -> None:
    made = site.provider.ok("POST", "/tokens", {"organization": "acme", "description": "CI"})
    listed = site.provider.ok("GET", "/tokens")["items"]
    assert [item["organization"] for item in listed] == ["acme", None]
    assert all("token" not in item for item in listed)
    state = b"".join(path.read_bytes() for path in (tmp_path / "state").glob("gateway.db*"))
    assert made["id"].encode() in state
    assert made["token"].encode() not in state


def test_a_revoked_token_is_refused_at_once(site: SiteKit) -> None:
    made = site.provider.ok("POST", "/tokens", {"organization": "acme"})
    acme = site.caller(made["token"])
    acme.ok("GET", "/templates")
    site.provider.ok("DELETE", f"/tokens/{made['id']}")
    site.provider.ok("DELETE", f"/tokens/{made['id']}")
    acme.problem(401, "token-revoked", "GET", "/templates")


def test_an_unknown_token_cannot_be_revoked(site: SiteKit) -> None:
    site.provider.problem(404, "not-found", "DELETE", "/tokens/nonsense")


@pytest.mark.parametrize(
    ("token", "slug"),
    [
        ("cm1_pro_" + "A" * 43, "token-unknown"),
        ("cm1_org_" + "A" * 43, "token-unknown"),
        ("cm1_iso_" + "A" * 43, "credential-unknown"),
        ("cm1_ses_" + "A" * 43, "session-unknown"),
        ("cm1_pro_short", "token-unknown"),
        ("'; DROP TABLE tokens; --", "token-unknown"),
        ("x" * 5000, "token-unknown"),
    ],
)
def test_an_unknown_token_is_refused(site: SiteKit, token: str, slug: str) -> None:
    problem = site.caller(token).problem(401, slug, "GET", "/site")
    assert token not in str(problem)


def test_the_kind_written_into_a_token_cannot_be_changed(site: SiteKit) -> None:
    acme = site.tenant("acme").token
    assert acme is not None
    site.caller(acme.replace("cm1_org_", "cm1_pro_")).problem(401, "token-unknown", "GET", "/tokens")


def test_an_answer_of_401_says_how_to_authenticate(site: SiteKit) -> None:
    answer = site.nobody.request("GET", "/site")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_credential_knows_its_uses_and_its_fingerprint(site: SiteKit) -> None:
    site.activate("acme")
    acme = site.tenant("acme")
    path = f"/templates/{acme.ok('POST', '/templates', TEMPLATE)['id']}/iso-credentials"
    made = acme.ok("POST", path, {"ttl_hours": 2, "max_registrations": 5, "description": "rack 7"})
    iso = site.caller(made.pop("credential"))
    assert len(made["fingerprint"]) == 16
    assert (made["uses"], made["last_used_at"]) == (0, None)
    site.enrol(iso)
    site.enrol(iso)
    seen = acme.ok("GET", f"{path}/{made['id']}")
    assert (seen["uses"], seen["fingerprint"]) == (2, made["fingerprint"])
    assert acme.ok("GET", path)["items"] == [seen]
    assert "credential" not in seen


def test_a_revoked_credential_registers_nothing_but_its_migrations_go_on(site: SiteKit) -> None:
    site.activate("acme")
    acme = site.tenant("acme")
    path = f"/templates/{acme.ok('POST', '/templates', TEMPLATE)['id']}/iso-credentials"
    made = acme.ok("POST", path, {})
    iso = site.caller(made["credential"])
    migration, agent = site.enrol(iso)
    acme.ok("DELETE", f"{path}/{made['id']}")
    iso.problem(401, "credential-revoked", "POST", "/enrolments", machine())
    assert agent.ok("GET", "/session")["migration_id"] == migration


def test_an_expired_credential_registers_nothing_and_says_when_it_expired(
    site: SiteKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    from coldmig_gateway.store import principals

    site.activate("acme")
    acme = site.tenant("acme")
    iso = site.iso(acme, acme.ok("POST", "/templates", TEMPLATE)["id"], ttl_hours=1)
    real = principals.now
    monkeypatch.setattr(principals, "now", lambda: real() + timedelta(minutes=59))
    site.enrol(iso)
    monkeypatch.setattr(principals, "now", lambda: real() + timedelta(minutes=61))
    problem = iso.problem(401, "credential-expired", "POST", "/enrolments", machine())
    assert "expired at" in problem["detail"]
