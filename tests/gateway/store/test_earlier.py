# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine is known again: what it has in staging is offered, and the attempt of its former boot is superseded."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from coldmig_gateway.clock import now
from coldmig_gateway.dataplane.site import EarlierDisk
from coldmig_gateway.store import superseding
from coldmig_gateway.store.models import Migration
from gateway.sitekit import MACHINE, TEMPLATE, Caller, SiteKit

UUID = MACHINE["smbios_uuid"]


@pytest.fixture
def acme(site: SiteKit) -> Caller:
    site.activate("acme", "globex")
    return site.tenant("acme")


@pytest.fixture
def iso(site: SiteKit, acme: Caller) -> Caller:
    return site.iso(acme, acme.ok("POST", "/templates", TEMPLATE)["id"])


def _disk(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(MACHINE["disks"][0]) | changes


def _stage(site: SiteKit, migration: str, *disks: int) -> None:
    """What the data plane leaves behind."""
    for disk in disks:
        pack = site.context.settings.staging / migration / f"disk-{disk}.pack"
        pack.parent.mkdir(exist_ok=True)
        pack.write_bytes(b"x")


def _earlier(site: SiteKit, migration: str) -> list[list[EarlierDisk]]:
    return [list(disk.earlier) for disk in site.data_plane.copy_plan(migration).disks]


def _silent(site: SiteKit, migration: str) -> None:
    with site.context.database.write() as session:
        values = {"last_seen_at": now() - timedelta(minutes=5)}
        session.execute(update(Migration).where(Migration.id == migration).values(**values))


def _supersede(site: SiteKit) -> list[str]:
    with site.context.database.write() as session:
        return superseding.run(session, now() - timedelta(minutes=2))


def test_a_second_boot_is_offered_what_the_first_left(site: SiteKit, iso: Caller) -> None:
    first, _ = site.enrol(iso)
    _stage(site, first, 0, 1)
    second, _ = site.enrol(iso, smbios_uuid=UUID.upper())
    assert _earlier(site, second) == [[EarlierDisk(first, 0)], [EarlierDisk(first, 1)]]
    assert _earlier(site, first) == [[], []]


def test_the_newest_four_attempts_that_have_something_staged_are_offered(site: SiteKit, iso: Caller) -> None:
    attempts = [site.enrol(iso)[0] for _ in range(7)]
    for attempt in attempts:
        if attempt != attempts[5]:
            _stage(site, attempt, 0)
    last, _ = site.enrol(iso)
    newest = [attempts[6], attempts[4], attempts[3], attempts[2]]
    assert _earlier(site, last) == [[EarlierDisk(attempt, 0) for attempt in newest], []]


def test_an_attempt_in_any_state_is_offered(site: SiteKit, acme: Caller) -> None:
    iso = site.iso(acme, acme.ok("POST", "/templates", TEMPLATE | {"name": "auto", "auto_start": True})["id"])
    finished, canceled = site.enrol(iso)[0], site.enrol(iso)[0]
    for attempt in (finished, canceled):
        _stage(site, attempt, 0)
    site.copy(finished)
    acme.ok("POST", f"/migrations/{canceled}/cancel", {})
    again, _ = site.enrol(iso)
    assert _earlier(site, again)[0] == [EarlierDisk(canceled, 0), EarlierDisk(finished, 0)]


def test_disks_are_known_by_size_and_serial_number(site: SiteKit, iso: Caller) -> None:
    disks = [
        _disk(index=0, serial="A"),
        _disk(index=1, serial="B"),
        _disk(index=2, serial=None),
        _disk(index=3, serial="same"),
        _disk(index=4, serial="same"),
    ]
    first, _ = site.enrol(iso, disks=disks)
    _stage(site, first, *range(5))
    moved = [
        _disk(index=0, serial="B"),
        _disk(index=1, serial="A", size_bytes=1 << 30),  # another size: another disk
        _disk(index=2, serial=None),
        _disk(index=3, serial="same"),
        _disk(index=4, serial="same"),
        _disk(index=5, serial=None),  # without a serial number the place decides
        _disk(index=6, serial="same"),  # which of the two?
    ]
    second, _ = site.enrol(iso, disks=moved)
    found = [[disk.index for disk in places] for places in _earlier(site, second)]
    assert found == [[1], [], [2], [3], [4], [], []]


@pytest.mark.parametrize("uuid", [None, "00000000-0000-0000-0000-000000000000", "03000200-0400-0500-0006-000700080009"])
def test_a_machine_without_an_identity_is_nobody_s_second_boot(site: SiteKit, iso: Caller, uuid: str | None) -> None:
    first, _ = site.enrol(iso, smbios_uuid=uuid)
    _stage(site, first, 0, 1)
    second, _ = site.enrol(iso, smbios_uuid=uuid)
    assert _earlier(site, second) == [[], []]


def test_nothing_is_offered_across_machines_templates_and_organizations(
    site: SiteKit, acme: Caller, iso: Caller
) -> None:
    first, _ = site.enrol(iso)
    _stage(site, first, 0, 1)
    globex = site.tenant("globex")
    others = [
        site.enrol(iso, smbios_uuid="4c4c4544-0042-3510-8051-b4c04f4a4e32")[0],
        site.enrol(site.iso(acme, acme.ok("POST", "/templates", TEMPLATE | {"name": "other"})["id"]))[0],
        site.enrol(site.iso(globex, globex.ok("POST", "/templates", TEMPLATE)["id"]))[0],
    ]
    assert [_earlier(site, other) for other in others] == [[[], []]] * 3


def test_what_was_staged_while_a_machine_waited_is_offered_at_its_confirmation(
    site: SiteKit, acme: Caller, iso: Caller
) -> None:
    first, second = site.enrol(iso)[0], site.enrol(iso)[0]
    _stage(site, first, 0)
    assert _earlier(site, second) == [[], []]
    acme.ok("POST", f"/migrations/{second}/confirm")
    assert _earlier(site, second) == [[EarlierDisk(first, 0)], []]


def test_a_silent_attempt_is_superseded_by_the_next_boot(site: SiteKit, acme: Caller, iso: Caller) -> None:
    first, agent = site.enrol(iso)
    second, _ = site.enrol(iso)
    assert _supersede(site) == []  # both are heard of
    _silent(site, first)
    assert _supersede(site) == [first]
    assert _supersede(site) == []
    seen = acme.ok("GET", f"/migrations/{first}")
    assert (seen["state"], seen["reason"], seen["superseded_by"]) == ("canceled", "superseded", second)
    assert second in seen["detail"]
    assert agent.ok("GET", "/session")["reason"] == "superseded"
    last = acme.ok("GET", f"/migrations/{first}/audit")["items"][-1]
    assert (last["actor"], last["event"], last["to"]) == ("gateway", "cancel", "canceled")


def test_an_assessment_takes_no_part_in_what_boots_leave_to_each_other(
    site: SiteKit, acme: Caller, iso: Caller
) -> None:
    first, _ = site.enrol(iso)
    _stage(site, first, 0)
    (template,) = acme.ok("GET", "/templates")["items"]
    path = f"/templates/{template['id']}"
    acme.ok("PUT", path, TEMPLATE | {"mode": "assess"})
    _silent(site, first)
    site.context.presence.started = now() - timedelta(hours=1)
    looks = [site.enrol(iso)[0] for _ in range(33)]  # more than attempts are looked at
    assert _supersede(site) == []
    assert [_earlier(site, look) for look in looks] == [[[], []]] * len(looks)
    for look in looks[:2]:
        _stage(site, look, 0)
    acme.ok("PUT", path, TEMPLATE)
    second, _ = site.enrol(iso)
    assert _earlier(site, second) == [[EarlierDisk(first, 0)], []]
    assert acme.ok("GET", f"/migrations/{first}")["superseded_by"] == second


def test_what_goes_on_is_the_boot_that_copies_and_not_a_later_look(site: SiteKit, acme: Caller, iso: Caller) -> None:
    first, second = site.enrol(iso)[0], site.enrol(iso)[0]
    (template,) = acme.ok("GET", "/templates")["items"]
    acme.ok("PUT", f"/templates/{template['id']}", TEMPLATE | {"mode": "assess"})
    site.enrol(iso)
    _silent(site, first)
    _silent(site, second)
    assert _supersede(site) == [first]
    assert acme.ok("GET", f"/migrations/{first}")["superseded_by"] == second


def test_a_machine_that_was_not_booted_again_stays_however_silent(site: SiteKit, acme: Caller, iso: Caller) -> None:
    alone, _ = site.enrol(iso)
    other_disks, _ = site.enrol(iso, disks=[_disk(serial="other", size_bytes=1 << 30)])
    for migration in (alone, other_disks):
        _silent(site, migration)
    assert _supersede(site) == []
    assert acme.ok("GET", f"/migrations/{alone}")["state"] == "waiting"


def test_a_copy_that_is_complete_is_never_superseded(site: SiteKit, acme: Caller) -> None:
    iso = site.iso(acme, acme.ok("POST", "/templates", TEMPLATE | {"name": "auto", "auto_start": True})["id"])
    first, _ = site.enrol(iso)
    site.copy(first)
    site.enrol(iso)
    _silent(site, first)
    assert _supersede(site) == []


def test_a_boot_frees_the_place_of_a_silent_one_in_the_template(site: SiteKit, acme: Caller) -> None:
    one = TEMPLATE | {"name": "one", "limits": {"max_migrations": 1}}
    iso = site.iso(acme, acme.ok("POST", "/templates", one)["id"])
    first, _ = site.enrol(iso)
    iso.problem(409, "limit-reached", "POST", "/enrolments", MACHINE)  # it may be alive
    _silent(site, first)
    iso.problem(409, "limit-reached", "POST", "/enrolments", MACHINE)  # the service has just started
    site.context.presence.started = now() - timedelta(hours=1)
    second, _ = site.enrol(iso)
    assert acme.ok("GET", f"/migrations/{first}")["superseded_by"] == second
