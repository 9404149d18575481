# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules ``template`` and ``template_info`` against a real gateway."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow

DESTINATION = {"vdc": "vdc-1", "networks": [{"network": "lan", "ip_mode": "MANUAL", "ip": "192.0.2.5"}]}


def test_life_of_a_template(site: Any, modules: Any, organization: Any) -> None:
    def run(**options: Any) -> dict[str, Any]:
        result: dict[str, Any] = modules("template", token=organization.token, name="erp", **options)
        assert not result.get("failed"), result
        return result

    created = run(destination=DESTINATION, description="the ERP")
    assert created["changed"]
    assert created["template"]["organization"] == organization.name
    assert created["diff"]["before"] == {}

    again = run(destination=DESTINATION, description="the ERP")
    assert not again["changed"]
    assert again["template"] == created["template"]

    changed = run(auto_start=True, limits={"max_migrations": 3})
    assert changed["diff"] == {
        "before": {"auto_start": False, "limits": created["template"]["limits"]},
        "after": {
            "auto_start": True,
            "limits": dict.fromkeys(created["template"]["limits"]) | {"max_migrations": 3},
        },
    }
    assert changed["template"]["description"] == "the ERP"
    assert not run(auto_start=True, limits={"max_migrations": 3})["changed"]

    ends = {"success": "poweroff", "failure": None}
    changed = run(at_end={"success": "poweroff"}, collect_logs=True)
    assert changed["diff"] == {
        "before": {"at_end": {"success": None, "failure": None}, "collect_logs": False},
        "after": {"at_end": ends, "collect_logs": True},
    }
    assert not run(at_end={"success": "poweroff"}, collect_logs=True)["changed"]
    (listed,) = modules("template_info", token=organization.token)["templates"]
    assert (listed["at_end"], listed["collect_logs"]) == (ends, True)

    assert run(state="absent")["changed"]
    assert not run(state="absent")["changed"]
    assert list(site.call("GET", f"/templates?organization={organization.name}")["items"]) == []


@pytest.mark.parametrize(
    "options", [{"destination": DESTINATION}, {"name": "", "power_on": True}, {"name": "", "state": "absent"}]
)
def test_check_mode_tells_and_writes_nothing(
    site: Any, modules: Any, organization: Any, template: Any, options: dict[str, Any]
) -> None:
    options = {"name": "fresh", **options}
    options["name"] = options["name"] or template["name"]
    before = site.content()
    predicted = modules("template", token=organization.token, check=True, **options)
    assert site.content() == before
    done = modules("template", token=organization.token, **options)
    assert predicted["changed"]
    assert predicted["diff"] == done["diff"] or options["name"] == "fresh"


def test_provider_must_name_the_organization(modules: Any) -> None:
    result = modules("template", name="erp-of-nobody", destination=DESTINATION)
    assert result["failed"]
    assert result["http_status"] == 422
    assert "organization" in result["msg"]


def test_tenant_cannot_make_a_template_of_another_organization(
    site: Any, modules: Any, organization: Any, other_organization: Any
) -> None:
    before = site.content()
    result = modules(
        "template",
        token=organization.token,
        name="erp",
        organization=other_organization.name,
        destination=DESTINATION,
    )
    assert result["failed"]
    assert result["http_status"] == 403
    assert site.content() == before


def test_tenant_neither_sees_nor_deletes_that_of_another(
    site: Any, modules: Any, other_organization: Any, template: Any
) -> None:
    before = site.content()
    removed = modules("template", token=other_organization.token, name=template["name"], state="absent")
    assert not removed["changed"]
    for options in ({}, {"template": template["name"]}, {"template": template["id"]}):
        assert modules("template_info", token=other_organization.token, **options)["templates"] == []
    assert site.content() == before


def test_name_in_two_organizations_must_be_told_apart(
    modules: Any, organization: Any, other_organization: Any, template: Any
) -> None:
    modules("template", name=template["name"], organization=other_organization.name, destination=DESTINATION)
    result = modules("template", name=template["name"], auto_start=True)
    assert result["failed"]
    assert result["field"] == "organization"
    assert organization.name in result["msg"]
    assert other_organization.name in result["msg"]
    one = modules("template", name=template["name"], organization=organization.name, auto_start=True)
    assert one["changed"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"destination": {"vdc": ""}}, "destination.vdc"),
        (
            {"destination": {"vdc": "v", "networks": [{"network": "n", "ip": "192.0.2.1"}]}},
            "destination.networks[0].ip",
        ),
        ({"destination": DESTINATION, "name_pattern": "x"}, "name_pattern"),
        ({"destination": DESTINATION, "limits": {"max_disk_bytes": 0}}, "limits.max_disk_bytes"),
        ({}, "destination"),
    ],
)
def test_bad_field_is_named_and_nothing_is_made(
    site: Any, modules: Any, organization: Any, options: dict[str, Any], field: str
) -> None:
    before = site.content()
    result = modules("template", token=organization.token, name="bad", **options)
    assert result["failed"]
    assert result["field"] == field
    assert site.content() == before


def test_field_that_only_the_gateway_refuses_is_named_too(modules: Any, organization: Any) -> None:
    result = modules("template", token=organization.token, name="long", description="x" * 1001, destination=DESTINATION)
    assert result["failed"]
    assert result["http_status"] == 422
    assert result["problem"]["errors"][0]["field"] == "description"


def test_info_finds_by_name_and_by_id_and_adds_credentials(
    modules: Any, organization: Any, template: Any, enrol: Any
) -> None:
    enrol("some-machine")
    for wanted in (template["name"], template["id"]):
        result = modules("template_info", token=organization.token, template=wanted, iso_credentials=True)
        (found,) = result["templates"]
        assert found["id"] == template["id"]
        (credential,) = found["iso_credentials"]
        assert credential["uses"] == 1
        assert "credential" not in credential


def test_revoked_token_is_refused(site: Any, modules: Any, organization: Any) -> None:
    known = site.call("GET", "/tokens?limit=500")["items"]
    (own,) = [item for item in known if item["organization"] == organization.name]
    site.call("DELETE", f"/tokens/{own['id']}")
    result = modules("template_info", token=organization.token)
    assert result["failed"]
    assert result["http_status"] == 401
    assert organization.token not in str(result)


def test_mode_system_warnings_and_hardware_are_kept_and_taken_away(site: Any, modules: Any, organization: Any) -> None:
    def run(check: bool = False, **options: Any) -> dict[str, Any]:
        result: dict[str, Any] = modules(
            "template", token=organization.token, check=check, name="odd", destination=DESTINATION, **options
        )
        return result

    options = {
        "mode": "assess",
        "system": "windows*",
        "accept_warnings": ["tpm-sealed", "disk-4k-sectors"],
        "hardware": {"disk_controller": "lsilogic-sas", "cpus": 4, "cores_per_socket": 2},
    }
    made = run(**options)
    assert made["template"]["hardware"]["disk_controller"] == "lsilogic-sas"
    assert not run(**options)["changed"]
    assert not run()["changed"]
    before = site.content()
    wanted = {"mode": "migrate", "system": "", "accept_warnings": [], "hardware": {}}
    predicted = run(check=True, **wanted)
    assert site.content() == before
    done = run(**wanted)
    assert predicted["diff"] == done["diff"]
    assert (done["template"]["mode"], done["template"]["system"], done["template"]["accept_warnings"]) == (
        "migrate",
        None,
        [],
    )
    assert set(done["template"]["hardware"].values()) == {None}
    assert not run(**wanted)["changed"]
    (listed,) = modules("template_info", token=organization.token, template="odd")["templates"]
    assert listed == done["template"]
    for bad in ({"mode": "look"}, {"hardware": {"floppy": 1}}, {"hardware": {"cpus": 3, "cores_per_socket": 2}}):
        assert run(**bad)["failed"]
