# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules ``migration`` and ``migration_info`` against a real gateway."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Enrol = Callable[..., str]


def test_confirmation_happens_once(site: Any, modules: Any, organization: Any, enrol: Enrol) -> None:
    migration = enrol("erp-db-01")
    before = site.content()
    predicted = modules("migration", token=organization.token, check=True, migration=migration, state="confirmed")
    assert predicted["changed"]
    assert predicted["migration"]["state"] == "confirmed"
    assert site.content() == before

    first = modules("migration", token=organization.token, migration=migration, state="confirmed")
    assert first["diff"] == {"before": {"state": "waiting"}, "after": {"state": "confirmed"}}
    second = modules("migration", token=organization.token, migration=migration, state="confirmed")
    assert not second["changed"]
    assert second["migration"]["state"] == "confirmed"


def test_settings_and_confirmation_in_one_step(modules: Any, organization: Any, enrol: Enrol) -> None:
    migration = enrol("erp-db-02")
    destination = {"vdc": "vdc-2", "networks": [{"network": "dmz"}]}
    options = {
        "migration": migration,
        "state": "confirmed",
        "name": "erp-db",
        "power_on": True,
        "destination": destination,
    }
    first = modules("migration", token=organization.token, **options)
    assert set(first["diff"]["after"]) == {"name", "power_on", "destination", "state"}
    assert first["migration"]["destination"]["vdc"] == "vdc-2"
    assert first["migration"]["power_on"]
    options["migration"] = migration
    assert not modules("migration", token=organization.token, **options)["changed"]


def test_canceling_removing_and_removing_again(site: Any, modules: Any, organization: Any, enrol: Enrol) -> None:
    migration = enrol("erp-db-03")

    def run(state: str, **options: Any) -> dict[str, Any]:
        result: dict[str, Any] = modules(
            "migration", token=organization.token, migration=migration, state=state, **options
        )
        return result

    refused = run("absent")
    assert refused["failed"]
    assert "is waiting; cancel it before it is removed" in refused["msg"]

    canceled = run("canceled", reason="the window is over")
    assert canceled["changed"]
    assert canceled["migration"]["reason"] == "the window is over"
    assert not run("canceled")["changed"]

    late = run("confirmed")
    assert late["failed"]
    assert "was canceled (the window is over)" in late["msg"]

    before = site.content()
    assert run("absent", _ansible_check_mode=True)["changed"]
    assert site.content() == before
    assert run("absent")["changed"]
    assert not run("absent")["changed"]


def test_failed_one_is_neither_confirmed_nor_canceled(site: Any, modules: Any, organization: Any, enrol: Enrol) -> None:
    migration = enrol("erp-db-04")
    site.call("POST", f"/migrations/{migration}/fail", {"reason": "no-network", "detail": "the cable is out"})
    for state in ("confirmed", "canceled"):
        result = modules("migration", token=organization.token, migration=migration, state=state)
        assert result["failed"]
        assert "(no-network)" in result["msg"]
    late = modules("migration", token=organization.token, migration=migration, power_on=True)
    assert late["failed"]
    assert "power_on can be changed only before the import" in late["msg"]


def test_that_of_another_organization_does_not_exist(
    site: Any, modules: Any, other_organization: Any, enrol: Enrol
) -> None:
    migration = enrol("erp-db-05")
    before = site.content()
    for state in ("present", "confirmed", "canceled"):
        result = modules("migration", token=other_organization.token, migration=migration, state=state)
        assert result["failed"]
        assert result["field"] == "migration"
    assert not modules("migration", token=other_organization.token, migration=migration, state="absent")["changed"]
    assert modules("migration_info", token=other_organization.token)["migrations"] == []
    assert modules("migration_info", token=other_organization.token, migration=migration)["migrations"] == []
    assert site.content() == before


def test_name_of_two_migrations_is_refused_with_their_ids(modules: Any, organization: Any, enrol: Enrol) -> None:
    first, second = enrol("twin"), enrol("twin")
    result = modules("migration", token=organization.token, migration="twin", state="confirmed")
    assert result["failed"]
    assert first in result["msg"]
    assert second in result["msg"]
    listed = modules("migration_info", token=organization.token, migration="twin")["migrations"]
    assert {item["id"] for item in listed} == {first, second}


def test_name_of_one_migration_is_enough(modules: Any, organization: Any, enrol: Enrol) -> None:
    enrol("single")
    enrol("single-but-longer")
    assert modules("migration", token=organization.token, migration="single", state="confirmed")["changed"]


@pytest.mark.parametrize("by_id", [True, False])
def test_info_filters(modules: Any, organization: Any, template: Any, enrol: Enrol, by_id: bool) -> None:
    migration = enrol("filtered")

    def found(**options: Any) -> list[str]:
        wanted = {"migration": migration} if by_id else {}
        result = modules("migration_info", token=organization.token, **wanted, **options)
        return [item["id"] for item in result["migrations"]]

    assert found() == [migration]
    assert found(states=["waiting", "failed"], template=template["name"], organization=organization.name) == [migration]
    assert found(template=template["id"]) == [migration]
    assert found(states=["copied"]) == []
    assert found(template="another") == []
    assert found(organization="another") == []


def test_info_adds_the_audit_trail(modules: Any, organization: Any, enrol: Enrol) -> None:
    migration = enrol("audited")
    modules("migration", token=organization.token, migration=migration, state="confirmed")
    (found,) = modules("migration_info", token=organization.token, migration=migration, audit=True)["migrations"]
    assert [entry["to"] for entry in found["audit"] if entry["to"]] == ["waiting", "confirmed"]


def test_info_adds_the_logs_that_an_agent_has_sent(site: Any, modules: Any, organization: Any, machine: Any) -> None:
    body = {"name": "talkative", "destination": {"vdc": "vdc-1"}, "collect_logs": True}
    template = site.call("POST", "/templates", body, token=organization.token)["id"]
    issued = site.call("POST", f"/templates/{template}/iso-credentials", {}, token=organization.token)
    agent = site.call("POST", "/enrolments", machine("erp-db-09"), token=issued["credential"])

    def logs() -> Any:
        asked = {"migration": agent["migration_id"], "logs": True}
        (found,) = modules("migration_info", token=organization.token, **asked)["migrations"]
        return found["logs"]

    assert logs() is None
    sent = {"gzip": base64.b64encode(gzip.compress(b"the last word")).decode()}
    site.call("PUT", "/session/logs", sent, token=agent["session_token"])
    assert logs()["text"] == "the last word"


def test_unreadable_sectors_are_accepted_once(site: Any, modules: Any, organization: Any, enrol: Enrol) -> None:
    migration = enrol("rusty")
    before = site.content()
    predicted = modules("migration", token=organization.token, check=True, migration=migration, accept_unreadable=True)
    assert predicted["diff"]["after"] == {"accept_unreadable": True}
    assert site.content() == before
    first = modules("migration", token=organization.token, migration=migration, accept_unreadable=True)
    assert first["migration"]["accept_unreadable"] is True
    again = modules("migration", token=organization.token, migration=migration, accept_unreadable=True)
    assert not again["changed"]


SEALED = {"code": "tpm-sealed", "message": "a key is sealed", "severity": "block", "action": "Add another key."}
SYSTEMS = [
    {"os_type": "linux", "id": "debian", "pretty_name": "Debian 12", "key": "disk0/1", "place": "disk 0, partition 1"},
    {"os_type": "windows", "id": "windows", "pretty_name": "Windows 10", "key": "disk0/2", "hostname": "WS-1"},
]


def test_a_block_is_told_and_can_be_accepted_with_the_confirmation(
    site: Any, modules: Any, organization: Any, enrol: Enrol
) -> None:
    migration = enrol("sealed", warnings=[SEALED])
    before = site.content()
    for check in (True, False):
        refused = modules("migration", token=organization.token, check=check, migration=migration, state="confirmed")
        assert refused["failed"]
        assert "- tpm-sealed: a key is sealed. Add another key" in refused["msg"]
        assert refused["blocked"] == ["tpm-sealed"]
        assert refused["held_back_by"] == [{name: SEALED[name] for name in ("code", "message", "action")}]
    assert site.content() == before

    options = {"migration": migration, "state": "confirmed", "accept_warnings": ["tpm-sealed"]}
    predicted = modules("migration", token=organization.token, check=True, **options)
    assert site.content() == before
    done = modules("migration", token=organization.token, **options)
    assert predicted["diff"] == done["diff"]
    assert done["diff"]["after"] == {"accept_warnings": ["tpm-sealed"], "state": "confirmed"}
    for result in (predicted, done):
        assert (result["migration"]["blocked"], result["migration"]["warnings"][0]["accepted"]) == ([], True)
    assert not modules("migration", token=organization.token, **options)["changed"]


def test_the_system_that_is_meant_can_be_chosen(site: Any, modules: Any, organization: Any, enrol: Enrol) -> None:
    migration = enrol("two-systems", guest=SYSTEMS[0], guests=SYSTEMS)
    (listed,) = modules("migration_info", token=organization.token, migration=migration)["migrations"]
    assert (listed["guest"]["key"], [guest["key"] for guest in listed["guests"]]) == ("disk0/1", ["disk0/1", "disk0/2"])
    before = site.content()
    unknown = modules("migration", token=organization.token, migration=migration, system="disk7/1")
    assert (unknown["failed"], unknown["field"]) == (True, "system")
    assert "disk0/1, disk0/2" in unknown["msg"]
    options = {"migration": migration, "system": "disk0/2", "hardware": {"firmware": "efi", "memory_mb": 2048}}
    predicted = modules("migration", token=organization.token, check=True, **options)
    assert site.content() == before
    done = modules("migration", token=organization.token, **options)
    assert predicted["diff"] == done["diff"]
    for result in (predicted, done):
        assert result["migration"]["guest"]["key"] == "disk0/2"
        assert result["migration"]["hardware"]["memory_mb"] == 2048
    assert not modules("migration", token=organization.token, **options)["changed"]


def test_an_assessment_is_listed_and_removed_and_nothing_else(site: Any, modules: Any, organization: Any) -> None:
    made = modules("template", token=organization.token, name="survey", destination={"vdc": "vdc-1"}, mode="assess")[
        "template"
    ]
    issued = site.call("POST", f"/templates/{made['id']}/iso-credentials", {"ttl_hours": 1})
    migration = site.enrol(issued["credential"], "looked-at", warnings=[SEALED])
    (listed,) = modules("migration_info", token=organization.token, states=["assessed"])["migrations"]
    assert (listed["id"], listed["mode"], listed["blocked"]) == (migration, "assess", ["tpm-sealed"])
    for state, words in (("confirmed", "was an assessment and cannot be confirmed"), ("canceled", "nothing to cancel")):
        refused = modules("migration", token=organization.token, migration=migration, state=state)
        assert refused["failed"]
        assert words in refused["msg"]
    assert modules("migration", token=organization.token, migration=migration, state="absent")["changed"]
    assert modules("migration_info", token=organization.token, states=["assessed"])["migrations"] == []
