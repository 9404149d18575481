# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that are only looked at; warnings that hold a migration back; which system is meant, on what hardware."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from coldmig_gateway import space
from coldmig_gateway.space import Space
from gateway.sitekit import DEBIAN, GIB, MACHINE, TEMPLATE, WINDOWS, Caller, SiteKit, machine

SEALED = {"code": "tpm-sealed", "message": "the key is sealed", "severity": "block", "action": "Add another key."}
FOUR_K = {"code": "disk-4k-sectors", "message": "disk 1 has 4096-byte sectors", "severity": "block", "action": None}
KNOWN = MACHINE["warnings"][0]
NO_HARDWARE = dict.fromkeys(
    ("guest_id", "firmware", "secure_boot", "disk_controller", "nic_type", "cpus", "cores_per_socket", "memory_mb")
)


@pytest.fixture
def acme(site: SiteKit) -> Caller:
    site.activate("acme")
    return site.tenant("acme")


def _template(acme: Caller, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = acme.ok("POST", "/templates", copy.deepcopy(TEMPLATE) | changes)
    return made


def _iso(site: SiteKit, acme: Caller, **template: Any) -> Caller:
    return site.iso(acme, _template(acme, **template)["id"])


def _trail(acme: Caller, migration: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = acme.ok("GET", f"/migrations/{migration}/audit")["items"]
    return entries


# --- assessments


def test_a_machine_under_an_assessing_template_ends_with_its_report(
    site: SiteKit, acme: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is promised in staging, and none is needed.
    monkeypatch.setattr(space, "measure", lambda *_: Space(total=8 * GIB, free=0))
    iso = _iso(site, acme, mode="assess", auto_start=True)
    answer = iso.ok("POST", "/enrolments", machine(warnings=[SEALED, KNOWN]))
    assert (answer["mode"], answer["state"], answer["blocked"]) == ("assess", "assessed", ["tpm-sealed"])
    path = f"/migrations/{answer['migration_id']}"
    seen = acme.ok("GET", path)
    assert (seen["mode"], seen["state"], seen["reserved_bytes"], seen["reason"]) == ("assess", "assessed", None, None)
    assert [warning["code"] for warning in seen["warnings"]] == ["tpm-sealed", "several-systems"]
    assert seen["machine"]["inspection"] == MACHINE["inspection"]
    agent = site.caller(answer["session_token"])
    told = agent.ok("GET", "/session")
    assert (told["mode"], told["state"], told["blocked"], told["message"]) == (
        "assess",
        "assessed",
        ["tpm-sealed"],
        None,
    )
    (entry,) = _trail(acme, answer["migration_id"])
    assert (entry["event"], entry["from"], entry["to"], entry["detail"]) == (
        "enrol",
        None,
        "assessed",
        {"blocked": ["tpm-sealed"]},
    )


def test_an_assessment_can_be_listed_and_removed_and_nothing_else(site: SiteKit, acme: Caller) -> None:
    migration, agent = site.enrol(_iso(site, acme, mode="assess"))
    path = f"/migrations/{migration}"
    assert [item["id"] for item in acme.ok("GET", "/migrations?state=assessed")["items"]] == [migration]
    under_way = ["waiting", "confirmed", "copying", "copied", "importing"]
    for method, verb, body, allowed in (
        ("POST", "/confirm", None, ["waiting"]),
        ("POST", "/confirm", {"accept_warnings": ["x"]}, ["waiting"]),
        ("POST", "/cancel", {}, under_way),
        ("PATCH", "", {"name": "other"}, under_way[:4]),
    ):
        problem = acme.problem(409, "wrong-state", method, path + verb, body)
        assert (problem["state"], problem["allowed"]) == ("assessed", allowed)
    agent.problem(409, "wrong-state", "POST", "/session/progress", {"phase": "x"})
    agent.problem(409, "wrong-state", "POST", "/session/failure", {"reason": "x", "detail": ""})
    acme.ok("DELETE", path)
    acme.problem(404, "not-found", "GET", path)


def test_an_assessment_says_what_a_migration_would_be_refused_for(
    site: SiteKit, acme: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration, agent = site.enrol(_iso(site, acme, mode="assess", limits={"max_disk_bytes": 1 << 20}))
    seen = acme.ok("GET", f"/migrations/{migration}")
    assert (seen["state"], seen["reason"]) == ("assessed", "disk-too-large")
    assert "the template allows at most 1048576 bytes" in seen["detail"]
    assert agent.ok("GET", "/session")["message"] == seen["detail"]
    other = _iso(site, acme, name="b", mode="assess", limits={"max_total_bytes": 1 << 20, "max_migrations": 1})
    assert acme.ok("GET", f"/migrations/{site.enrol(other)[0]}")["reason"] == "limit-reached"
    site.enrol(other)  # one after the other, as many as the ISO may
    monkeypatch.setattr(space, "measure", lambda *_: Space(total=1 << 20, free=1 << 20))
    seen = acme.ok("GET", f"/migrations/{site.enrol(_iso(site, acme, name='c', mode='assess'))[0]}")
    assert (seen["state"], seen["reason"]) == ("assessed", "disk-too-large")
    assert "whole staging area" in seen["detail"]


def test_assessments_count_against_the_iso_and_need_the_site_to_be_activated(site: SiteKit, acme: Caller) -> None:
    iso = site.iso(acme, _template(acme, mode="assess")["id"], max_registrations=1)
    site.activate()
    iso.problem(403, "not-activated", "POST", "/enrolments", MACHINE)
    site.activate("acme")
    site.enrol(iso)
    iso.problem(409, "limit-reached", "POST", "/enrolments", MACHINE)


def test_repeating_the_registration_of_an_assessment_gives_the_same_one(site: SiteKit, acme: Caller) -> None:
    iso = _iso(site, acme, mode="assess")
    key = {"Idempotency-Key": "boot-0001"}
    first, second = (iso.ok("POST", "/enrolments", MACHINE, headers=key) for _ in range(2))
    assert second["migration_id"] == first["migration_id"]
    assert (second["state"], second["mode"]) == ("assessed", "assess")


def test_the_mode_of_the_template_holds_at_the_next_boot_of_isos_that_were_made_before(
    site: SiteKit, acme: Caller
) -> None:
    template = _template(acme, mode="assess")
    iso = site.iso(acme, template["id"])
    assessed, _ = site.enrol(iso)
    acme.ok("PUT", f"/templates/{template['id']}", TEMPLATE | {"mode": "migrate"})
    migrated, _ = site.enrol(iso)
    assert [acme.ok("GET", f"/migrations/{found}")["state"] for found in (assessed, migrated)] == [
        "assessed",
        "waiting",
    ]


# --- warnings that block


def test_a_block_refuses_the_confirmation_until_its_code_is_accepted(site: SiteKit, acme: Caller) -> None:
    migration, agent = site.enrol(_iso(site, acme), warnings=[SEALED, KNOWN, FOUR_K, SEALED])
    path = f"/migrations/{migration}"
    seen = acme.ok("GET", path)
    assert seen["blocked"] == ["tpm-sealed", "disk-4k-sectors"]
    assert seen["warnings"][0] == SEALED | {"accepted": False}
    assert agent.ok("GET", "/session")["blocked"] == seen["blocked"]

    problem = acme.problem(409, "blocked", "POST", f"{path}/confirm")
    assert problem["blocked"] == ["tpm-sealed", "disk-4k-sectors"]
    assert problem["warnings"][1] == {name: FOUR_K[name] for name in ("code", "message", "action")}
    assert "tpm-sealed: the key is sealed. Add another key" in problem["detail"]
    assert acme.ok("GET", path) == seen

    acme.ok("PATCH", path, {"accept_warnings": ["tpm-sealed"]})
    problem = acme.problem(409, "blocked", "POST", f"{path}/confirm", {})
    assert problem["blocked"] == ["disk-4k-sectors"]
    done = acme.ok("POST", f"{path}/confirm", {"accept_warnings": ["disk-4k-sectors"]})
    assert (done["state"], done["blocked"]) == ("confirmed", [])
    assert done["accept_warnings"] == ["disk-4k-sectors", "tpm-sealed"]
    assert [warning["accepted"] for warning in done["warnings"]] == [True, False, True, True]
    assert agent.ok("GET", "/session")["blocked"] == []
    trail = _trail(acme, migration)
    assert [entry["detail"] for entry in trail if entry["event"] == "change"] == [
        {"accept_warnings": ["tpm-sealed"]},
        {"accept_warnings": ["disk-4k-sectors", "tpm-sealed"]},
    ]
    assert trail[-1]["detail"]["accepted_warnings"] == ["tpm-sealed", "disk-4k-sectors"]


def test_a_confirmation_that_is_refused_accepts_nothing(site: SiteKit, acme: Caller) -> None:
    migration, _ = site.enrol(_iso(site, acme), warnings=[SEALED, FOUR_K])
    path = f"/migrations/{migration}"
    before = acme.ok("GET", path), _trail(acme, migration)
    acme.problem(409, "blocked", "POST", f"{path}/confirm", {"accept_warnings": ["tpm-sealed"]})
    assert (acme.ok("GET", path), _trail(acme, migration)) == before


def test_a_warning_that_does_not_block_needs_nobody(site: SiteKit, acme: Caller) -> None:
    old = {"code": "old-agent", "message": "without a severity"}
    migration, _ = site.enrol(_iso(site, acme), warnings=[KNOWN, old, KNOWN | {"severity": "info"}])
    seen = acme.ok("POST", f"/migrations/{migration}/confirm")
    assert [warning["severity"] for warning in seen["warnings"]] == ["warning", "warning", "info"]
    assert "accepted_warnings" not in _trail(acme, migration)[-1]["detail"]


def test_an_auto_start_that_is_blocked_waits_and_says_why(site: SiteKit, acme: Caller) -> None:
    iso = _iso(site, acme, auto_start=True)
    answer = iso.ok("POST", "/enrolments", machine(warnings=[SEALED]))
    assert (answer["state"], answer["blocked"]) == ("waiting", ["tpm-sealed"])
    last = _trail(acme, answer["migration_id"])[-1]
    assert (last["event"], last["actor"], last["detail"]["blocked"]) == (
        "held-back",
        "auto-start of the template",
        ["tpm-sealed"],
    )
    confirm = f"/migrations/{answer['migration_id']}/confirm"
    assert acme.ok("POST", confirm, {"accept_warnings": ["tpm-sealed"]})["state"] == "confirmed"


def test_a_template_accepts_for_all_its_machines(site: SiteKit, acme: Caller) -> None:
    iso = _iso(site, acme, auto_start=True, accept_warnings=["tpm-sealed", "disk-4k-sectors", "tpm-sealed"])
    migration, agent = site.enrol(iso, warnings=[SEALED])
    assert agent.ok("GET", "/session")["state"] == "confirmed"
    seen = acme.ok("GET", f"/migrations/{migration}")
    assert (seen["warnings"][0]["accepted"], seen["blocked"]) == (True, [])
    assert seen["accept_warnings"] == ["disk-4k-sectors", "tpm-sealed"]
    assert _trail(acme, migration)[-1]["detail"]["accepted_warnings"] == ["tpm-sealed"]


def test_an_acceptance_can_be_taken_back_before_the_confirmation(site: SiteKit, acme: Caller) -> None:
    migration, _ = site.enrol(_iso(site, acme, accept_warnings=["tpm-sealed"]), warnings=[SEALED])
    assert acme.ok("PATCH", f"/migrations/{migration}", {"accept_warnings": []})["blocked"] == ["tpm-sealed"]
    acme.problem(409, "blocked", "POST", f"/migrations/{migration}/confirm")


# --- the system that is meant


def test_without_a_choice_the_first_system_is_meant(site: SiteKit, acme: Caller) -> None:
    migration, _ = site.enrol(_iso(site, acme))
    seen = acme.ok("GET", f"/migrations/{migration}")
    assert (seen["system"], seen["guest"], seen["guests"]) == (None, DEBIAN, [DEBIAN, WINDOWS])


def test_an_agent_that_tells_of_one_system_only_is_taken_as_well(site: SiteKit, acme: Caller) -> None:
    document = machine()
    for name in ("guests", "tpm", "inspection"):
        del document[name]
    answer = _iso(site, acme).ok("POST", "/enrolments", document)
    seen = acme.ok("GET", f"/migrations/{answer['migration_id']}")
    assert (seen["guest"], seen["guests"]) == (DEBIAN, [DEBIAN])


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("disk0/3", WINDOWS),
        ("DISK0/3", WINDOWS),
        ("windows*", WINDOWS),
        ("*2022*", WINDOWS),
        ("erp-app", WINDOWS),
        ("debian", DEBIAN),
        ("disk 0, partition ?", DEBIAN),
    ],
)
def test_the_template_says_which_system_is_meant(
    site: SiteKit, acme: Caller, system: str, expected: dict[str, Any]
) -> None:
    migration, _ = site.enrol(_iso(site, acme, system=system, auto_start=True))
    seen = acme.ok("GET", f"/migrations/{migration}")
    assert (seen["system"], seen["guest"], seen["state"]) == (system, expected, "confirmed")


def test_a_machine_without_the_system_that_is_meant_is_held_back(site: SiteKit, acme: Caller) -> None:
    migration, _ = site.enrol(_iso(site, acme, system="freebsd*", auto_start=True))
    path = f"/migrations/{migration}"
    seen = acme.ok("GET", path)
    assert (seen["state"], seen["guest"], seen["blocked"]) == ("waiting", DEBIAN, ["system-not-found"])
    assert "Windows Server 2022 Standard (disk0/3)" in seen["warnings"][0]["message"]
    acme.problem(409, "blocked", "POST", f"{path}/confirm")

    problem = acme.problem(422, "validation", "PATCH", path, {"system": "macos"})
    assert (problem["errors"][0]["field"], problem["errors"][0]["value"]) == ("system", "macos")
    assert "disk0/1" in problem["errors"][0]["message"]

    chosen = acme.ok("PATCH", path, {"system": "disk0/3"})
    assert (chosen["guest"], chosen["blocked"]) == (WINDOWS, [])
    assert [warning["code"] for warning in chosen["warnings"]] == ["several-systems"]
    assert acme.ok("POST", f"{path}/confirm")["state"] == "confirmed"
    assert {"system": "disk0/3"} in [entry["detail"] for entry in _trail(acme, migration)]


def test_going_on_with_another_system_can_be_accepted(site: SiteKit, acme: Caller) -> None:
    migration, _ = site.enrol(_iso(site, acme, system="freebsd*", accept_warnings=["system-not-found"]))
    seen = acme.ok("POST", f"/migrations/{migration}/confirm")
    assert (seen["state"], seen["guest"]) == ("confirmed", DEBIAN)


# --- hardware


def test_the_hardware_of_the_template_is_kept_with_the_migration(site: SiteKit, acme: Caller) -> None:
    wanted = {"firmware": "efi", "secure_boot": False, "disk_controller": "lsilogic-sas", "memory_mb": 8192}
    template = _template(acme, hardware=wanted)
    assert template["hardware"] == NO_HARDWARE | wanted
    migration, _ = site.enrol(site.iso(acme, template["id"]))
    path = f"/templates/{template['id']}"
    assert acme.ok("PUT", path, TEMPLATE | {"hardware": wanted}) == template  # the same again is no change
    assert acme.ok("PUT", path, TEMPLATE)["hardware"] == NO_HARDWARE
    assert acme.ok("GET", f"/migrations/{migration}")["hardware"] == NO_HARDWARE | wanted


def test_hardware_is_replaced_as_a_whole(site: SiteKit, acme: Caller) -> None:
    migration, _ = site.enrol(_iso(site, acme, hardware={"cpus": 4, "nic_type": "e1000e"}))
    path = f"/migrations/{migration}"
    changed = acme.ok("PATCH", path, {"hardware": {"cpus": 8, "cores_per_socket": 4, "firmware": None}})
    assert changed["hardware"] == NO_HARDWARE | {"cpus": 8, "cores_per_socket": 4}
    assert acme.ok("PATCH", path, {"hardware": {"cpus": 8, "cores_per_socket": 4}}) == changed
    assert acme.ok("PATCH", path, {"hardware": {}})["hardware"] == NO_HARDWARE


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"system": ""}, "system"),
        ({"system": "x" * 257}, "system"),
        ({"system": "a\nb"}, "system"),
        ({"accept_warnings": ["Not A Code"]}, "accept_warnings[0]"),
        ({"accept_warnings": ["a"] * 101}, "accept_warnings"),
        ({"accept_warnings": "tpm-sealed"}, "accept_warnings"),
        ({"hardware": {"guest_id": "windows 11"}}, "hardware.guest_id"),
        ({"hardware": {"firmware": "uefi"}}, "hardware.firmware"),
        ({"hardware": {"firmware": "bios", "secure_boot": True}}, "hardware"),
        ({"hardware": {"disk_controller": "floppy"}}, "hardware.disk_controller"),
        ({"hardware": {"nic_type": "e100"}}, "hardware.nic_type"),
        ({"hardware": {"cpus": 0}}, "hardware.cpus"),
        ({"hardware": {"cpus": 769}}, "hardware.cpus"),
        ({"hardware": {"cpus": 6, "cores_per_socket": 4}}, "hardware"),
        ({"hardware": {"memory_mb": 4098}}, "hardware.memory_mb"),
        ({"hardware": {"memory_mb": 1 << 40}}, "hardware.memory_mb"),
        ({"hardware": {"tpm": True}}, "hardware.tpm"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_bad_wish_is_refused_of_templates_and_migrations(
    site: SiteKit, acme: Caller, body: dict[str, Any], field: str
) -> None:
    template = _template(acme)
    migration, _ = site.enrol(site.iso(acme, template["id"]))
    before = acme.ok("GET", f"/migrations/{migration}")
    for method, path, sent in (
        ("PUT", f"/templates/{template['id']}", TEMPLATE | body),
        ("PATCH", f"/migrations/{migration}", body),
    ):
        problem = acme.problem(422, "validation", method, path, sent)
        assert [error["field"] for error in problem["errors"]] == [field]
    assert acme.ok("GET", f"/templates/{template['id']}") == template
    assert acme.ok("GET", f"/migrations/{migration}") == before
