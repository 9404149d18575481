# SPDX-License-Identifier: GPL-3.0-or-later
"""Sectors that the source could not read: reported, shown, and imported only when somebody accepts that."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.sitekit import MACHINE, TEMPLATE, Caller, SiteKit

RUN = {"run": "job 1"}
SIZE = MACHINE["disks"][0]["size_bytes"]
REPORT = {"disks": [{"index": 0, "bytes": 1024, "ranges": [[4096, 512], [8192, 512]]}]}


@pytest.fixture
def acme(site: SiteKit) -> Caller:
    site.activate("acme")
    return site.tenant("acme")


@pytest.fixture
def iso(site: SiteKit, acme: Caller) -> Caller:
    return site.iso(acme, acme.ok("POST", "/templates", TEMPLATE | {"auto_start": True})["id"])


def _report(agent: Caller, report: Any = REPORT) -> None:
    agent.ok("POST", "/session/unreadable", report)


def _copied(site: SiteKit, migration: str, unreadable_chunks: int) -> None:
    plane = site.data_plane
    plane.begin_copying(migration)
    plane.disk_verified(migration, 0, "ab" * 32, 70_000, 1, 1, unreadable_chunks)
    plane.disk_verified(migration, 1, "ab" * 32, 70_000, 1, 1, 0)
    plane.copied(migration)


def test_what_is_missing_is_shown_and_stops_the_import_until_it_is_accepted(
    site: SiteKit, acme: Caller, iso: Caller
) -> None:
    migration, agent = site.enrol(iso)
    path = f"/migrations/{migration}"
    _report(agent)
    _copied(site, migration, 1)
    disk = acme.ok("GET", path)["disks"][0]
    assert disk["unreadable"] == {"bytes": 1024, "chunks": 1, "ranges": [[4096, 512], [8192, 512]]}
    problem = site.provider.problem(409, "unreadable-sectors", "POST", f"{path}/import", RUN)
    assert problem["disks"] == [{"index": 0, "bytes": 1024, "chunks": 1}]
    assert "accept_unreadable" in problem["detail"]
    assert acme.ok("GET", path)["state"] == "copied"
    assert acme.ok("PATCH", path, {"accept_unreadable": True})["accept_unreadable"] is True
    assert site.provider.ok("POST", f"{path}/import", RUN)["state"] == "importing"
    assert site.provider.ok("POST", f"{path}/import", RUN)["state"] == "importing"
    events = [entry["event"] for entry in acme.ok("GET", f"{path}/audit")["items"]]
    assert events.index("unreadable") < events.index("change") < events.index("import")


def test_unreadable_chunks_in_staging_count_although_the_agent_reported_nothing(
    site: SiteKit, acme: Caller, iso: Caller
) -> None:
    migration, _ = site.enrol(iso)
    acme.ok("PATCH", f"/migrations/{migration}", {"accept_unreadable": True})  # before anybody knew
    _copied(site, migration, 2)
    problem = site.provider.problem(409, "unreadable-sectors", "POST", f"/migrations/{migration}/import", RUN)
    assert problem["disks"] == [{"index": 0, "bytes": 0, "chunks": 2}]


def test_an_acceptance_is_for_what_was_known(site: SiteKit, acme: Caller, iso: Caller) -> None:
    migration, agent = site.enrol(iso)
    path = f"/migrations/{migration}"
    _report(agent)
    acme.ok("PATCH", path, {"accept_unreadable": True})
    _report(agent)
    assert acme.ok("GET", path)["accept_unreadable"] is True
    _report(agent, {"disks": [{"index": 0, "bytes": 1536, "ranges": [[4096, 1536]]}]})
    seen = acme.ok("GET", path)
    assert (seen["accept_unreadable"], seen["disks"][0]["unreadable"]["bytes"]) == (False, 1536)
    last = acme.ok("GET", f"{path}/audit")["items"][-1]
    assert (last["event"], last["detail"]["accept_unreadable"]) == ("change", False)


def test_a_report_replaces_that_of_the_same_disk_only(site: SiteKit, acme: Caller, iso: Caller) -> None:
    migration, agent = site.enrol(iso)
    _report(agent)
    _report(agent, {"disks": [{"index": 1, "bytes": 4096, "ranges": [[0, 4096]]}]})
    _report(agent, {"disks": [{"index": 0, "bytes": 0, "ranges": []}]})
    disks = acme.ok("GET", f"/migrations/{migration}")["disks"]
    assert [disk["unreadable"]["bytes"] for disk in disks] == [0, 4096]


def test_nothing_is_reported_after_the_import_has_begun(site: SiteKit, acme: Caller, iso: Caller) -> None:
    migration, agent = site.enrol(iso)
    site.copy(migration)
    site.provider.ok("POST", f"/migrations/{migration}/import", RUN)
    agent.problem(409, "wrong-state", "POST", "/session/unreadable", REPORT)
    acme.problem(409, "wrong-state", "PATCH", f"/migrations/{migration}", {"accept_unreadable": True})


@pytest.mark.parametrize(
    ("disks", "field"),
    [
        ([], "disks"),
        ([{"index": 0, "bytes": 1}] * 2, "disks"),
        ([{"index": 2, "bytes": 1}], "disks"),
        ([{"index": 0, "bytes": -1}], "disks[0].bytes"),
        ([{"index": 0, "bytes": SIZE + 1}], "disks[0]"),
        ([{"index": 0, "bytes": 512, "ranges": [[SIZE, 512]]}], "disks[0]"),
        ([{"index": 0, "bytes": 512, "ranges": [[0, 1024]]}], "disks[0]"),
        ([{"index": 0, "bytes": 2048, "ranges": [[0, 1024], [512, 512]]}], "disks[0]"),
        ([{"index": 0, "bytes": 512, "ranges": [[0, 0]]}], "disks[0].ranges[0][1]"),
        ([{"index": 0, "bytes": 512, "ranges": [[0]]}], "disks[0].ranges[0][1]"),
        ([{"index": 0, "bytes": 512, "ranges": ["x"]}], "disks[0].ranges[0]"),
        ([{"index": 0, "bytes": 1 << 20, "ranges": [[n * 1024, 1] for n in range(1001)]}], "disks[0].ranges"),
    ],
)
def test_a_report_that_cannot_be_is_refused(site: SiteKit, iso: Caller, disks: Any, field: str) -> None:
    _, agent = site.enrol(iso)
    problem = agent.problem(422, "validation", "POST", "/session/unreadable", {"disks": disks})
    assert problem["errors"][0]["field"] == field
