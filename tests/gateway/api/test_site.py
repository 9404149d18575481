# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from cryptography import x509

from gateway.sitekit import TEMPLATE, SiteKit, machine


def test_a_new_site_is_healthy_and_not_activated(site: SiteKit) -> None:
    assert site.nobody.ok("GET", "/health") == {"status": "ok", "version": "0.1.0", "activated": False}


def test_the_site_tells_an_iso_its_address_and_ca(site: SiteKit) -> None:
    answer = site.provider.ok("GET", "/site")
    assert answer["url"] == "https://site.example:443"
    ca = x509.load_pem_x509_certificate(answer["ca_pem"].encode())
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert "PRIVATE KEY" not in answer["ca_pem"]


def test_activation_remembers_who_switched_and_keeps_the_organizations(site: SiteKit) -> None:
    first = site.provider.ok("PUT", "/activation", {"active": True, "organizations": ["globex", "acme", "acme"]})
    assert (first["active"], first["organizations"]) == (True, ["acme", "globex"])
    assert first["changed_by"].startswith("provider")
    off = site.provider.ok("PUT", "/activation", {"active": False, "organizations": None})
    assert (off["active"], off["organizations"]) == (False, ["acme", "globex"])
    assert off["changed_at"] > first["changed_at"]


def test_setting_activation_to_what_it_is_changes_nothing(site: SiteKit) -> None:
    first = site.provider.ok("PUT", "/activation", {"active": True, "organizations": ["acme"]})
    assert site.provider.ok("PUT", "/activation", {"active": True, "organizations": ["acme"]}) == first


def test_a_tenant_sees_only_itself_in_the_activation(site: SiteKit) -> None:
    site.activate("acme", "globex")
    answer = site.tenant("acme").ok("GET", "/activation")
    assert (answer["active"], answer["organizations"], answer["changed_by"]) == (True, ["acme"], None)


@pytest.mark.parametrize(
    ("active", "organizations"),
    [(False, ["acme"]), (True, []), (True, ["globex"])],
    ids=["off", "on for nobody", "on for another organization"],
)
def test_nothing_registers_where_it_is_not_activated(site: SiteKit, active: bool, organizations: list[str]) -> None:
    site.activate("acme")
    acme = site.tenant("acme")
    iso = site.iso(acme, acme.ok("POST", "/templates", TEMPLATE)["id"])
    site.provider.ok("PUT", "/activation", {"active": active, "organizations": organizations})
    problem = iso.problem(403, "not-activated", "POST", "/enrolments", machine())
    assert "globex" not in problem["detail"]
    assert acme.ok("GET", "/migrations")["items"] == []


def test_an_unexpected_error_is_a_problem_document_that_tells_nothing(
    site: SiteKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: object) -> None:
        raise RuntimeError("postgresql://user:hunter2@db")

    monkeypatch.setattr(type(site.context.database), "read", broken)
    problem = site.nobody.problem(500, "internal", "GET", "/health")
    assert "hunter2" not in str(problem)


def test_requests_of_the_data_plane_are_sent_to_another_connection(site: SiteKit) -> None:
    answer = site._client.post("/data/v1/frames")
    assert (answer.status_code, answer.json()["type"]) == (421, "urn:coldmig:problem:misdirected-request")
