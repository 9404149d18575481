# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
from typing import Any

import pytest

from gateway.sitekit import TEMPLATE, SiteKit, machine


def _template(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(TEMPLATE) | changes


def test_a_template_is_given_back_with_its_defaults(site: SiteKit) -> None:
    acme = site.tenant("acme")
    made = acme.ok("POST", "/templates", TEMPLATE)
    assert made["organization"] == "acme"
    assert made["name_pattern"] == "{name}"
    assert made["limits"] == {
        "max_migrations": None,
        "max_disk_bytes": None,
        "max_total_bytes": None,
        "bandwidth_limit": None,
    }
    assert (made["skip_free"], made["mode"], made["system"], made["accept_warnings"]) == ("auto", "migrate", None, [])
    assert set(made["hardware"].values()) == {None}
    assert (made["at_end"], made["collect_logs"]) == ({"success": None, "failure": None}, False)
    network = {"network": "backbone", "ip_mode": "POOL", "ip": None, "keep_mac": False, "connected": True}
    assert made["destination"] == {
        "vdc": "vdc-1",
        "storage_profile": None,
        "import_as": None,
        "vapp": None,
        "description": None,
        "owner": None,
        "metadata": {},
        "disks": [],
        "networks": [{**network, "adapter": None}],
    }
    assert acme.ok("GET", f"/templates/{made['id']}") == made
    assert acme.ok("GET", "/templates?name=linux")["items"] == [made]
    assert acme.ok("GET", "/templates?name=windows")["items"] == []


def test_the_provider_must_name_the_organization_and_a_tenant_cannot_name_another(site: SiteKit) -> None:
    problem = site.provider.problem(422, "validation", "POST", "/templates", TEMPLATE)
    assert problem["errors"][0]["field"] == "organization"
    made = site.provider.ok("POST", "/templates", _template(organization="acme"))
    assert site.tenant("acme").ok("GET", f"/templates/{made['id']}") == made
    site.tenant("acme").problem(403, "forbidden", "POST", "/templates", _template(organization="globex"))


def test_names_are_unique_within_an_organization_only(site: SiteKit) -> None:
    acme, globex = site.tenant("acme"), site.tenant("globex")
    acme.ok("POST", "/templates", TEMPLATE)
    globex.ok("POST", "/templates", TEMPLATE)
    problem = acme.problem(409, "duplicate-name", "POST", "/templates", TEMPLATE)
    assert problem["name"] == "linux"
    other = acme.ok("POST", "/templates", _template(name="other"))
    acme.problem(409, "duplicate-name", "PUT", f"/templates/{other['id']}", TEMPLATE)
    assert acme.ok("GET", f"/templates/{other['id']}") == other


def test_the_name_of_a_deleted_template_is_free_again(site: SiteKit) -> None:
    acme = site.tenant("acme")
    first = acme.ok("POST", "/templates", TEMPLATE)
    acme.ok("DELETE", f"/templates/{first['id']}")
    acme.problem(404, "not-found", "GET", f"/templates/{first['id']}")
    acme.problem(404, "not-found", "DELETE", f"/templates/{first['id']}")
    assert acme.ok("POST", "/templates", TEMPLATE)["id"] != first["id"]


def test_replacing_a_template_with_itself_changes_nothing(site: SiteKit) -> None:
    acme = site.tenant("acme")
    made = acme.ok("POST", "/templates", TEMPLATE)
    path = f"/templates/{made['id']}"
    assert acme.ok("PUT", path, TEMPLATE) == made
    changed = acme.ok("PUT", path, _template(description="new", organization="acme"))
    assert changed["description"] == "new"
    assert changed["updated_at"] > made["updated_at"]
    acme.problem(422, "validation", "PUT", path, _template(organization="globex"))


def test_a_changed_template_leaves_registered_machines_alone(site: SiteKit) -> None:
    site.activate("acme")
    acme = site.tenant("acme")
    template = acme.ok("POST", "/templates", TEMPLATE)
    migration, _ = site.enrol(site.iso(acme, template["id"]))
    acme.ok("PUT", f"/templates/{template['id']}", _template(destination={"vdc": "other"}, power_on=True))
    seen = acme.ok("GET", f"/migrations/{migration}")
    assert (seen["destination"], seen["power_on"]) == (template["destination"], False)


def test_an_iso_of_a_deleted_template_registers_nothing_and_its_migrations_go_on(site: SiteKit) -> None:
    site.activate("acme")
    acme = site.tenant("acme")
    template = acme.ok("POST", "/templates", TEMPLATE)
    iso = site.iso(acme, template["id"])
    migration, _ = site.enrol(iso)
    acme.ok("DELETE", f"/templates/{template['id']}")
    iso.problem(410, "template-deleted", "POST", "/enrolments", machine())
    acme.problem(404, "not-found", "POST", f"/templates/{template['id']}/iso-credentials", {})
    assert acme.ok("POST", f"/migrations/{migration}/confirm")["template"]["name"] == "linux"


@pytest.mark.parametrize(
    "destination",
    [
        {"import_as": "vapp", "vapp": "{name}-vapp"},
        {"import_as": "shared", "vapp": "erp {template}"},
        {"import_as": "existing", "vapp": "erp"},
        {"import_as": "standalone"},
        {"vapp": "kept {as} it was"},
        {"metadata": {"cost center": "4711"}, "owner": "jane", "description": "ERP", "disks": [{}]},
    ],
    ids=str,
)
def test_a_destination_says_how_the_machine_arrives(site: SiteKit, destination: dict[str, Any]) -> None:
    made = site.tenant("acme").ok("POST", "/templates", {**TEMPLATE, "destination": {"vdc": "v", **destination}})
    kept = {**destination, **({"disks": [{"storage_profile": None}]} if "disks" in destination else {})}
    assert {key: made["destination"][key] for key in destination} == kept


BAD_TEMPLATES: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "two words"}, "name"),
    ({"name": "a" * 64}, "name"),
    ({"name": "a\n"}, "name"),
    ({"name": 5}, "name"),
    ({"description": "x" * 1001}, "description"),
    ({"description": "line\nbreak"}, "description"),
    ({"auto_start": "yes"}, "auto_start"),
    ({"power_on": 1}, "power_on"),
    ({"name_pattern": "fixed"}, "name_pattern"),
    ({"name_pattern": "{name.__class__}"}, "name_pattern"),
    ({"name_pattern": "{name!r}"}, "name_pattern"),
    ({"name_pattern": "{name:>99999}"}, "name_pattern"),
    ({"name_pattern": "{other}"}, "name_pattern"),
    ({"name_pattern": "{name"}, "name_pattern"),
    ({"name_pattern": "a b-{name}"}, "name_pattern"),
    ({"limits": {"max_migrations": 0}}, "limits.max_migrations"),
    ({"limits": {"max_disk_bytes": -1}}, "limits.max_disk_bytes"),
    ({"limits": {"max_total_bytes": 1 << 63}}, "limits.max_total_bytes"),
    ({"limits": {"max_total_bytes": 1.5}}, "limits.max_total_bytes"),
    ({"limits": {"bandwidth_limit": 65535}}, "limits.bandwidth_limit"),
    ({"skip_free": "always"}, "skip_free"),
    ({"mode": "look"}, "mode"),
    ({"limits": {"unknown": 1}}, "limits.unknown"),
    ({"destination": {}}, "destination.vdc"),
    ({"destination": {"vdc": ""}}, "destination.vdc"),
    ({"destination": {"vdc": "x" * 129}}, "destination.vdc"),
    ({"destination": {"vdc": "v", "networks": [{"network": "n"}] * 11}}, "destination.networks"),
    ({"destination": {"vdc": "v", "import_as": "template"}}, "destination.import_as"),
    ({"destination": {"vdc": "v", "import_as": "shared"}}, "destination"),
    ({"destination": {"vdc": "v", "import_as": "existing"}}, "destination"),
    ({"destination": {"vdc": "v", "import_as": "standalone", "vapp": "a"}}, "destination"),
    ({"destination": {"vdc": "v", "import_as": "shared", "vapp": "a-{owner}"}}, "destination"),
    ({"destination": {"vdc": "v", "import_as": "vapp", "vapp": "a-{name"}}, "destination"),
    ({"destination": {"vdc": "v", "metadata": {"coldmig.id": "1"}}}, "destination.metadata"),
    ({"destination": {"vdc": "v", "metadata": {"a": 1}}}, "destination.metadata.a"),
    ({"destination": {"vdc": "v", "metadata": {f"k{n}": "" for n in range(21)}}}, "destination.metadata"),
    ({"destination": {"vdc": "v", "description": "x" * 257}}, "destination.description"),
    ({"destination": {"vdc": "v", "disks": [{"storage_profile": ""}]}}, "destination.disks[0].storage_profile"),
    (
        {"destination": {"vdc": "v", "networks": [{"network": "n", "adapter": "virtio"}]}},
        "destination.networks[0].adapter",
    ),
    (
        {"destination": {"vdc": "v", "networks": [{"network": "n", "ip_mode": "STATIC"}]}},
        "destination.networks[0].ip_mode",
    ),
    ({"destination": {"vdc": "v", "networks": [{"network": "n", "ip_mode": "MANUAL"}]}}, "destination.networks[0]"),
    ({"destination": {"vdc": "v", "networks": [{"network": "n", "ip": "10.0.0.1"}]}}, "destination.networks[0]"),
    (
        {"destination": {"vdc": "v", "networks": [{"network": "n", "ip_mode": "MANUAL", "ip": "10.0.0.300"}]}},
        "destination.networks[0].ip",
    ),
]


@pytest.mark.parametrize(("change", "field"), BAD_TEMPLATES, ids=lambda value: str(value)[:50])
def test_a_bad_template_is_refused_by_field_and_leaves_nothing(
    site: SiteKit, change: dict[str, Any], field: str
) -> None:
    acme = site.tenant("acme")
    problem = acme.problem(422, "validation", "POST", "/templates", _template(**change))
    assert [error["field"] for error in problem["errors"]] == [field]
    assert all(error["message"] for error in problem["errors"])
    assert acme.ok("GET", "/templates")["items"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ttl_hours": 0}, "ttl_hours"),
        ({"ttl_hours": 8761}, "ttl_hours"),
        ({"ttl_hours": "1"}, "ttl_hours"),
        ({"max_registrations": 0}, "max_registrations"),
        ({"description": "x" * 201}, "description"),
    ],
)
def test_a_bad_credential_request_is_refused_by_field(site: SiteKit, body: dict[str, Any], field: str) -> None:
    acme = site.tenant("acme")
    path = f"/templates/{acme.ok('POST', '/templates', TEMPLATE)['id']}/iso-credentials"
    problem = acme.problem(422, "validation", "POST", path, body)
    assert problem["errors"][0]["field"] == field
    assert problem["errors"][0]["value"] == (body[field][:200] if isinstance(body[field], str) else body[field])
    assert acme.ok("GET", path)["items"] == []


def test_pages_hold_everything_once_newest_first(site: SiteKit) -> None:
    acme = site.tenant("acme")
    for number in range(5):
        acme.ok("POST", "/templates", _template(name=f"t{number}"))
    names, query = [], "?limit=2"
    while query:
        page = acme.ok("GET", f"/templates{query}")
        names.append([item["name"] for item in page["items"]])
        query = f"?limit=2&after={page['next']}" if page["next"] else ""
    assert names == [["t4", "t3"], ["t2", "t1"], ["t0"]]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=501", "limit=x", "after=nonsense", "after=" + "A" * 300, "after=w"]
)
def test_a_bad_page_request_is_refused(site: SiteKit, query: str) -> None:
    problem = site.provider.problem(422, "validation", "GET", f"/templates?{query}")
    assert problem["errors"][0]["field"] == query.split("=", maxsplit=1)[0]
