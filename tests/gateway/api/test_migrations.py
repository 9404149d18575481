# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway.sitekit import TEMPLATE, Caller, SiteKit, machine, running_site

FINISH = {
    "vcenter": {"vm": "vm-42", "name": "erp-db-01"},
    "vcd": {"vapp_href": "https://vcd/1", "vm_href": "https://vcd/2"},
}


@pytest.fixture
def acme(site: SiteKit) -> Caller:
    site.activate("acme")
    return site.tenant("acme")


@pytest.fixture
def iso(site: SiteKit, acme: Caller) -> Caller:
    return site.iso(acme, acme.ok("POST", "/templates", TEMPLATE)["id"])


@pytest.fixture
def in_state(site: SiteKit, acme: Caller, iso: Caller) -> Callable[[str], tuple[str, Caller]]:
    """Makes a migration and brings it, by the ordinary ways, to a state."""

    def make(state: str) -> tuple[str, Caller]:
        if state == "assessed":
            template = acme.ok("POST", "/templates", TEMPLATE | {"name": "look", "mode": "assess"})
            return site.enrol(site.iso(acme, template["id"]))
        migration, agent = site.enrol(iso)
        path = f"/migrations/{migration}"
        if state == "canceled":
            acme.ok("POST", f"{path}/cancel", {"reason": "wrong machine"})
        if state == "failed":
            agent.ok("POST", "/session/failure", {"reason": "read-error", "detail": "sda"})
        if state in ("waiting", "canceled", "failed"):
            return migration, agent
        acme.ok("POST", f"{path}/confirm")
        if state == "copying":
            site.data_plane.begin_copying(migration)
        if state in ("copied", "importing", "finished"):
            site.copy(migration)
        if state in ("importing", "finished"):
            site.provider.ok("POST", f"{path}/import", {"run": "job 1"})
        if state == "finished":
            site.provider.ok("POST", f"{path}/finish", FINISH)
        assert acme.ok("GET", path)["state"] == state
        return migration, agent

    return make


InState = Callable[[str], tuple[str, Caller]]

STATES = ["waiting", "confirmed", "copying", "copied", "importing", "finished", "failed", "canceled", "assessed"]
ACTIVE = STATES[:5]
REQUESTS: dict[str, tuple[str, Any, list[str], str | None]] = {
    # what: (method and path, body, states it is possible in, state it leads to)
    "confirm": ("POST confirm", None, ["waiting"], "confirmed"),
    "cancel": ("POST cancel", {"reason": ""}, ACTIVE, "canceled"),
    "import": ("POST import", {"run": "job 2"}, ["copied", "importing"], "importing"),
    "finish": ("POST finish", FINISH, ["importing"], "finished"),
    "fail": ("POST fail", {"reason": "no-space", "detail": "datastore"}, ACTIVE, "failed"),
    "change": ("PATCH ", {"name": "other"}, STATES[:4], None),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("what", REQUESTS)
def test_what_is_possible_in_which_state(site: SiteKit, in_state: InState, what: str, state: str) -> None:
    request, body, allowed, target = REQUESTS[what]
    method, verb = request.split(" ")
    migration, _ = in_state(state)
    path = f"/migrations/{migration}"
    if state in allowed:
        answer = site.provider.ok(method, f"{path}/{verb}".rstrip("/"), body)
        assert answer["state"] == (target or state)
    else:
        before = site.provider.ok("GET", path)
        problem = site.provider.problem(409, "wrong-state", method, f"{path}/{verb}".rstrip("/"), body)
        assert (problem["state"], problem["allowed"]) == (state, allowed)
        assert site.provider.ok("GET", path) == before


@pytest.mark.parametrize("state", STATES)
def test_only_ended_migrations_can_be_removed_and_their_staging_goes_too(
    site: SiteKit, acme: Caller, in_state: InState, state: str
) -> None:
    migration, agent = in_state(state)
    staged = site.context.settings.staging / migration
    staged.mkdir()
    (staged / "disk-0.pack").write_bytes(b"x")
    path = f"/migrations/{migration}"
    if state in ("finished", "failed", "canceled", "assessed"):
        acme.ok("DELETE", path)
        acme.problem(404, "not-found", "GET", path)
        acme.problem(404, "not-found", "DELETE", path)
        agent.problem(401, "session-unknown", "GET", "/session")
        assert not staged.exists()
    else:
        acme.problem(409, "wrong-state", "DELETE", path)
        assert staged.exists()


@pytest.mark.parametrize("state", STATES)
def test_an_agent_reports_until_the_migration_has_ended_and_may_always_look(in_state: InState, state: str) -> None:
    _, agent = in_state(state)
    report = {"phase": "copying", "disks": []}
    if state in ACTIVE:
        agent.ok("POST", "/session/progress", report)
    else:
        agent.problem(409, "wrong-state", "POST", "/session/progress", report)
        agent.problem(409, "wrong-state", "POST", "/session/failure", {"reason": "late", "detail": ""})
    assert agent.ok("GET", "/session")["state"] == state


def test_a_whole_life_is_in_the_audit_trail(site: SiteKit, acme: Caller, in_state: InState) -> None:
    migration, _ = in_state("finished")
    seen = acme.ok("GET", f"/migrations/{migration}")
    assert seen["refs"] == {"vcenter_vm": "vm-42", "vcd_vapp": "https://vcd/1", "vcd_vm": "https://vcd/2"}
    disk = seen["disks"][0]
    assert (disk["verified"], disk["have_chunks"], disk["data_chunks"], disk["merkle_root"]) == (
        True,
        1537,
        1536,
        "ab" * 32,
    )
    trail = acme.ok("GET", f"/migrations/{migration}/audit")["items"]
    assert [(entry["event"], entry["from"], entry["to"]) for entry in trail if entry["to"]] == [
        ("enrol", None, "waiting"),
        ("confirm", "waiting", "confirmed"),
        ("begin-copying", "confirmed", "copying"),
        ("copied", "copying", "copied"),
        ("import", "copied", "importing"),
        ("finish", "importing", "finished"),
    ]
    assert [entry["at"] for entry in trail] == sorted(entry["at"] for entry in trail)
    who = {entry["event"]: entry["actor"].split(" ")[0] for entry in trail}
    assert (who["enrol"], who["confirm"], who["copied"], who["import"]) == (
        "ISO",
        "organization",
        "gateway",
        "provider",
    )


def test_the_audit_trail_comes_in_pages(acme: Caller, in_state: InState) -> None:
    migration, _ = in_state("finished")
    path = f"/migrations/{migration}/audit"
    whole = acme.ok("GET", path)["items"]
    first = acme.ok("GET", f"{path}?limit=5")
    rest = acme.ok("GET", f"{path}?after={first['next']}")
    assert first["items"] + rest["items"] == whole
    assert rest["next"] is None
    acme.problem(422, "validation", "GET", f"{path}?after=-1")


def test_a_reason_stays_with_a_migration_that_was_given_up(site: SiteKit, acme: Caller, in_state: InState) -> None:
    failed, _ = in_state("failed")
    seen = acme.ok("GET", f"/migrations/{failed}")
    assert (seen["reason"], seen["detail"]) == ("read-error", "sda")
    canceled, agent = in_state("canceled")
    assert acme.ok("GET", f"/migrations/{canceled}")["reason"] == "wrong machine"
    assert agent.ok("GET", "/session")["reason"] == "wrong machine"


def test_the_latest_progress_is_shown(acme: Caller, in_state: InState) -> None:
    migration, agent = in_state("copying")
    disk = {
        "index": 0,
        "read_bytes": 5 << 20,
        "sent_bytes": 2 << 20,
        "done_chunks": 5,
        "bytes_per_second": 1e8,
        "seconds_left": 15,
        "kernel_writes": {"ios": 0, "sectors": 0},
        "skipped_bytes": 3 << 20,
        "reused_chunks": 2,
        "unreadable_bytes": None,
    }
    agent.ok(
        "POST", "/session/progress", {"phase": "copying", "message": "disk 0", "disks": [disk | {"done_chunks": 1}]}
    )
    agent.ok("POST", "/session/progress", {"phase": "copying", "message": "disk 0", "disks": [disk]})
    seen = acme.ok("GET", f"/migrations/{migration}")
    assert seen["progress"]["disks"] == [disk]
    assert seen["progress"]["at"].endswith("Z")
    assert seen["disks"][0]["have_chunks"] == 5
    assert agent.ok("GET", "/session")["disks"][0]["have_chunks"] == 5


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"phase": ""}, "phase"),
        ({"disks": [{"index": 7}]}, "disks[0].read_bytes"),
        ({"disks": [{"index": 64}]}, "disks[0].index"),
        ({"extra": 1}, "extra"),
        ({"message": "x" * 2001}, "message"),
        ({"limited_by": "mood"}, "limited_by"),
        ({"connections": 5000}, "connections"),
        ({"sample": {"checked": 1}}, "sample.mismatched"),
    ],
)
def test_a_bad_report_is_refused(in_state: InState, change: dict[str, Any], field: str) -> None:
    _, agent = in_state("copying")
    problem = agent.problem(422, "validation", "POST", "/session/progress", {"phase": "copying"} | change)
    assert field in [error["field"] for error in problem["errors"]]


def test_a_report_of_a_disk_that_does_not_exist_is_refused(in_state: InState) -> None:
    _, agent = in_state("copying")
    disk = {"index": 2, "read_bytes": 0, "sent_bytes": 0, "done_chunks": 0, "bytes_per_second": 0}
    problem = agent.problem(422, "validation", "POST", "/session/progress", {"phase": "copying", "disks": [disk]})
    assert (problem["errors"][0]["field"], problem["errors"][0]["value"]) == ("disks", 2)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "with space"}, "name"),
        ({"name": "a/../b"}, "name"),
        ({"name": "-x"}, "name"),
        ({"name": "x" * 81}, "name"),
        ({"power_on": "yes"}, "power_on"),
        ({"destination": {"networks": []}}, "destination.vdc"),
        ({"state": "finished"}, "state"),
    ],
)
def test_a_bad_change_is_refused_and_changes_nothing(
    acme: Caller, in_state: InState, body: dict[str, Any], field: str
) -> None:
    migration, _ = in_state("waiting")
    before = acme.ok("GET", f"/migrations/{migration}")
    problem = acme.problem(422, "validation", "PATCH", f"/migrations/{migration}", body)
    assert problem["errors"][0]["field"] == field
    assert acme.ok("GET", f"/migrations/{migration}") == before


def test_a_change_keeps_what_it_does_not_name(acme: Caller, in_state: InState) -> None:
    migration, _ = in_state("waiting")
    before = acme.ok("GET", f"/migrations/{migration}")
    after = acme.ok("PATCH", f"/migrations/{migration}", {"power_on": True, "name": None})
    assert after == before | {"power_on": True, "updated_at": after["updated_at"]}
    again = acme.ok("PATCH", f"/migrations/{migration}", {"power_on": True})
    assert again == after


def test_references_can_be_noted_and_forgotten_one_by_one(site: SiteKit, in_state: InState) -> None:
    migration, _ = in_state("importing")
    path = f"/migrations/{migration}/destination-refs"
    site.provider.ok("PATCH", path, {"vcenter_vm": "vm-1"})
    noted = site.provider.ok("PATCH", path, {"vcd_vapp": "vapp-1"})
    assert noted["refs"] == {"vcenter_vm": "vm-1", "vcd_vapp": "vapp-1", "vcd_vm": None}
    assert site.provider.ok("PATCH", path, {"vcenter_vm": None})["refs"]["vcenter_vm"] is None


def test_lists_can_be_filtered(site: SiteKit, acme: Caller, iso: Caller, in_state: InState) -> None:
    canceled, _ = in_state("canceled")
    waiting = iso.ok("POST", "/enrolments", machine(name="web_100%"))["migration_id"]
    template = acme.ok("GET", "/templates")["items"][0]

    def listed(query: str) -> list[str]:
        return [item["id"] for item in site.provider.ok("GET", f"/migrations?{query}")["items"]]

    assert listed("") == [waiting, canceled]
    assert listed("state=canceled") == [canceled]
    assert listed("state=canceled&state=waiting") == [waiting, canceled]
    assert listed("state=finished") == []
    assert listed("template=linux") == listed(f"template={template['id']}") == [waiting, canceled]
    assert listed("template=other") == []
    assert listed("organization=acme&q=ERP") == [canceled]
    assert listed("organization=globex") == []
    assert listed("q=testclient") == [waiting, canceled]
    assert listed("q=%25") == []
    problem = site.provider.problem(422, "validation", "GET", "/migrations?state=done")
    assert problem["errors"][0]["field"].startswith("state")


@pytest.mark.parametrize("identifier", ["nonsense", "00000000-0000-0000-0000-000000000000", "%2e%2e", "a%00b", "é"])
def test_an_unknown_migration_is_not_found(site: SiteKit, identifier: str) -> None:
    site.provider.problem(404, "not-found", "GET", f"/migrations/{identifier}")


def test_of_two_confirmations_at_once_one_wins(acme: Caller, in_state: InState) -> None:
    for _ in range(5):
        migration, _ = in_state("waiting")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _, m=migration: acme.request("POST", f"/migrations/{m}/confirm"), range(8)))
        assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
        trail = acme.ok("GET", f"/migrations/{migration}/audit")["items"]
        assert [entry["event"] for entry in trail].count("confirm") == 1


def test_of_many_boots_at_once_no_more_register_than_the_limit_allows(site: SiteKit, acme: Caller) -> None:
    template = acme.ok("POST", "/templates", copy.deepcopy(TEMPLATE) | {"name": "few", "limits": {"max_migrations": 3}})
    iso = site.iso(acme, template["id"])
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: iso.request("POST", "/enrolments", machine()), range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 5


def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        site.activate("acme")
        acme_token = site.tenant("acme").token
        acme = site.caller(acme_token)
        migration, agent = site.enrol(site.iso(acme, acme.ok("POST", "/templates", TEMPLATE)["id"]))
        acme.ok("POST", f"/migrations/{migration}/confirm")
        before = [acme.ok("GET", path) for path in ("/templates", "/migrations", "/activation")]
    with running_site(tmp_path) as site:
        acme = site.caller(acme_token)
        assert [acme.ok("GET", path) for path in ("/templates", "/migrations", "/activation")] == before
        assert site.caller(agent.token).ok("GET", "/session")["state"] == "confirmed"
