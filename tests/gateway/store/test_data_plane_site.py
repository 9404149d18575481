# SPDX-License-Identifier: GPL-3.0-or-later
"""The store as the data plane uses it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest

from coldmig_gateway.dataplane.site import DiskPlan, Principal, Role, Site, UnknownMigrationError, WrongStateError
from coldmig_gateway.principal import Role as StoredRole
from gateway.sitekit import MACHINE, TEMPLATE, Caller, SiteKit

UNKNOWN = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def acme(site: SiteKit) -> Caller:
    site.activate("acme")
    return site.tenant("acme")


@pytest.fixture
def iso(site: SiteKit, acme: Caller) -> Caller:
    return site.iso(acme, acme.ok("POST", "/templates", TEMPLATE | {"auto_start": True})["id"])


def test_each_kind_of_token_is_recognised(site: SiteKit, acme: Caller, iso: Caller) -> None:
    migration, agent = site.enrol(iso)
    plane: Site = site.data_plane
    assert plane.authenticate(site.provider.token or "") == Principal("provider")
    assert plane.authenticate(acme.token or "") == Principal("organization", "acme")
    assert plane.authenticate(iso.token or "") == Principal("iso", "acme")
    assert plane.authenticate(agent.token or "") == Principal("session", "acme", migration)
    assert plane.authenticate("nonsense") is None
    assert set(get_args(Role)) == {role.value for role in StoredRole}


def test_the_plan_names_state_disks_and_place(site: SiteKit, iso: Caller) -> None:
    migration, _ = site.enrol(iso)
    plan = site.data_plane.copy_plan(migration)
    assert plan.state == "confirmed"
    sizes = [disk["size_bytes"] for disk in MACHINE["disks"]]
    assert list(plan.disks) == [DiskPlan(0, sizes[0], 1537), DiskPlan(1, sizes[1], 1)]
    assert plan.staging_dir == site.context.settings.staging


def test_what_does_not_exist_is_unknown(site: SiteKit) -> None:
    plane = site.data_plane
    for call in (plane.copy_plan, plane.begin_copying, plane.copied):
        with pytest.raises(UnknownMigrationError):
            call(UNKNOWN)
    with pytest.raises(UnknownMigrationError):
        plane.record(UNKNOWN, "event", "text")


def test_many_connections_begin_one_copy(site: SiteKit, acme: Caller, iso: Caller) -> None:
    migration, _ = site.enrol(iso)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _number: site.data_plane.begin_copying(migration), range(4)))
    trail = acme.ok("GET", f"/migrations/{migration}/audit")["items"]
    assert [entry["event"] for entry in trail].count("begin-copying") == 1


def test_an_unconfirmed_or_canceled_migration_is_not_copied(site: SiteKit, acme: Caller) -> None:
    waiting, _ = site.enrol(site.iso(acme, acme.ok("POST", "/templates", TEMPLATE)["id"]))
    with pytest.raises(WrongStateError) as caught:
        site.data_plane.begin_copying(waiting)
    assert caught.value.state == "waiting"
    acme.ok("POST", f"/migrations/{waiting}/cancel", {})
    with pytest.raises(WrongStateError):
        site.data_plane.begin_copying(waiting)
    with pytest.raises(WrongStateError):
        site.data_plane.disk_verified(waiting, 0, "00" * 32, 1, 1, 1, 0)


def test_a_migration_is_copied_only_when_every_disk_is_verified(site: SiteKit, acme: Caller, iso: Caller) -> None:
    migration, _ = site.enrol(iso)
    plane = site.data_plane
    plane.begin_copying(migration)
    plane.disk_verified(migration, 0, "12" * 32, 9000, 7, 8000, 0)
    with pytest.raises(ValueError, match=r"disks \[1\] are not verified"):
        plane.copied(migration)
    assert plane.copy_plan(migration).state == "copying"
    with pytest.raises(LookupError, match="no disk 2"):
        plane.disk_verified(migration, 2, "12" * 32, 1, 1, 1, 0)
    plane.disk_verified(migration, 1, "34" * 32, 9000, 0, 8000, 0)
    plane.copied(migration)
    seen = acme.ok("GET", f"/migrations/{migration}")
    assert seen["state"] == "copied"
    disk = seen["disks"][0]
    assert (disk["merkle_root"], disk["vmdk_bytes"], disk["data_chunks"], disk["stored_bytes"]) == (
        "12" * 32,
        9000,
        7,
        8000,
    )


def test_events_of_the_data_plane_are_audited(site: SiteKit, acme: Caller, iso: Caller) -> None:
    migration, _ = site.enrol(iso)
    site.data_plane.record(migration, "chunk-damaged", "disk 0, chunk 7")
    last = acme.ok("GET", f"/migrations/{migration}/audit")["items"][-1]
    assert (last["actor"], last["event"], last["detail"]) == (
        "gateway",
        "chunk-damaged",
        {"message": "disk 0, chunk 7"},
    )


@pytest.mark.parametrize("importing", [False, True])
def test_a_copy_that_is_damaged_afterwards_fails_and_says_what_to_do(
    site: SiteKit, acme: Caller, iso: Caller, importing: bool
) -> None:
    migration, _ = site.enrol(iso)
    site.copy(migration)
    if importing:
        site.provider.ok("POST", f"/migrations/{migration}/import", {"run": "1"})
    site.data_plane.image_damaged(migration, 1, "chunk 7: its payload has changed")
    seen = acme.ok("GET", f"/migrations/{migration}")
    assert (seen["state"], seen["reason"]) == ("failed", "staging-damaged")
    assert "disk 1: chunk 7" in seen["detail"]
    assert "Boot the source from its ISO again" in seen["detail"]
    trail = acme.ok("GET", f"/migrations/{migration}/audit")["items"]
    assert [entry["event"] for entry in trail[-2:]] == ["image-damaged", "fail"]


def test_a_copy_that_is_damaged_when_it_is_a_vm_already_is_only_noted(site: SiteKit, acme: Caller, iso: Caller) -> None:
    migration, _ = site.enrol(iso)
    site.copy(migration)
    site.provider.ok("POST", f"/migrations/{migration}/import", {"run": "1"})
    site.provider.ok("POST", f"/migrations/{migration}/finish", {"vcenter": {"vm": "vm-1", "name": "x"}})
    site.data_plane.image_damaged(migration, 0, "chunk 7")
    assert acme.ok("GET", f"/migrations/{migration}")["state"] == "finished"


def test_copies_under_way_are_named_for_the_front_s_start(site: SiteKit, iso: Caller) -> None:
    machines = [site.enrol(iso)[0] for _ in range(3)]
    site.data_plane.begin_copying(machines[0])
    site.copy(machines[1])
    assert site.data_plane.copying() == (machines[0],)


def test_the_plan_names_template_and_organization(site: SiteKit, acme: Caller, iso: Caller) -> None:
    plan = site.data_plane.copy_plan(site.enrol(iso)[0])
    template = acme.ok("GET", "/templates")["items"][0]["id"]
    assert (plan.template_id, plan.organization) == (template, "acme")
