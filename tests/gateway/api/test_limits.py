# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits of the site and the queue of copies."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select, update

from coldmig_gateway.clock import now
from coldmig_gateway.dataplane.site import QueuedError, Rates
from coldmig_gateway.store.models import AuditEntry, Migration
from coldmig_gateway.store.site import DatabaseSite
from gateway.sitekit import TEMPLATE, Caller, SiteKit

LIMITS = "/site/limits"


@pytest.fixture
def acme(site: SiteKit) -> Caller:
    site.activate("acme")
    return site.tenant("acme")


@pytest.fixture
def iso(site: SiteKit, acme: Caller) -> Caller:
    return site.iso(acme, acme.ok("POST", "/templates", TEMPLATE | {"auto_start": True})["id"])


@pytest.fixture
def grown_up(site: SiteKit) -> DatabaseSite:
    """The data plane of a service that has run long enough to know who is silent."""
    started = now() - timedelta(hours=1)
    return DatabaseSite(site.context.database, site.context.settings.staging, started=started)


@pytest.fixture
def last_seen(site: SiteKit) -> Callable[[str, timedelta], None]:
    """Says when the agent of a migration was last heard of."""

    def note(migration_id: str, ago: timedelta) -> None:
        with site.context.database.write() as session:
            values = {"last_seen_at": now() - ago}
            session.execute(update(Migration).where(Migration.id == migration_id).values(**values))

    return note


LastSeen = Callable[[str, timedelta], None]


def test_a_new_site_has_no_limits_and_a_change_keeps_what_it_does_not_name(site: SiteKit) -> None:
    assert site.provider.ok("GET", LIMITS) == {
        "bandwidth_limit": None,
        "max_concurrent_copies": None,
        "changed_at": None,
        "changed_by": None,
    }
    site.provider.ok("PATCH", LIMITS, {"bandwidth_limit": 1 << 20})
    seen = site.provider.ok("PATCH", LIMITS, {"max_concurrent_copies": 3})
    assert (seen["bandwidth_limit"], seen["max_concurrent_copies"]) == (1 << 20, 3)
    assert datetime.fromisoformat(seen["changed_at"])
    assert seen["changed_by"].startswith("provider")
    again = site.provider.ok("PATCH", LIMITS, {"max_concurrent_copies": 3})
    assert again == seen
    assert site.provider.ok("PATCH", LIMITS, {"bandwidth_limit": None})["bandwidth_limit"] is None
    with site.context.database.read() as session:
        entries = session.scalars(select(AuditEntry).where(AuditEntry.subject_kind == "limits")).all()
    assert [entry.detail for entry in entries] == [
        {"bandwidth_limit": 1 << 20},
        {"max_concurrent_copies": 3},
        {"bandwidth_limit": None},
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"bandwidth_limit": 65535}, "bandwidth_limit"),
        ({"bandwidth_limit": "1 MB"}, "bandwidth_limit"),
        ({"max_concurrent_copies": 0}, "max_concurrent_copies"),
        ({"max_copies": 1}, "max_copies"),
    ],
)
def test_a_bad_limit_is_refused(site: SiteKit, body: dict[str, object], field: str) -> None:
    assert site.provider.problem(422, "validation", "PATCH", LIMITS, body)["errors"][0]["field"] == field


def test_the_data_plane_sees_the_limits_of_site_and_templates_at_once(site: SiteKit, acme: Caller) -> None:
    assert site.data_plane.rates() == Rates(None, {})
    site.provider.ok("PATCH", LIMITS, {"bandwidth_limit": 5 << 20})
    limited = TEMPLATE | {"name": "slow", "limits": {"bandwidth_limit": 65536}}
    template = acme.ok("POST", "/templates", limited)["id"]
    acme.ok("POST", "/templates", TEMPLATE)
    assert site.data_plane.rates() == Rates(5 << 20, {template: 65536})
    acme.ok("DELETE", f"/templates/{template}")  # its migrations go on, and so does its limit
    assert site.data_plane.rates().templates == {template: 65536}


def _place(agent: Caller) -> tuple[int, int] | None:
    queue = agent.ok("GET", "/session")["queue"]
    return queue and (queue["place"], queue["waiting"])


def _begins(plane: DatabaseSite, migration_id: str) -> tuple[int, int] | None:
    try:
        plane.begin_copying(migration_id)
    except QueuedError as error:
        return error.place, error.waiting
    return None


def test_without_a_limit_nobody_waits(site: SiteKit, iso: Caller) -> None:
    for _ in range(3):
        migration, agent = site.enrol(iso)
        assert _place(agent) is None
        assert _begins(site.data_plane, migration) is None


def test_copies_begin_in_the_order_of_their_confirmation(site: SiteKit, acme: Caller, iso: Caller) -> None:
    site.provider.ok("PATCH", LIMITS, {"max_concurrent_copies": 1})
    by_hand = site.iso(acme, acme.ok("POST", "/templates", TEMPLATE | {"name": "by-hand"})["id"])
    registered_first, patient = site.enrol(by_hand)
    first, _ = site.enrol(iso)
    second, eager = site.enrol(iso)
    acme.ok("POST", f"/migrations/{registered_first}/confirm")
    plane = site.data_plane
    assert _begins(plane, second) == (1, 2)  # the free slot is the first one's, though it has not come yet
    assert _begins(plane, first) is None
    assert (_begins(plane, second), _place(eager)) == ((1, 2), (1, 2))
    assert (_begins(plane, registered_first), _place(patient)) == ((2, 2), (2, 2))
    assert _begins(plane, first) is None  # another connection of the same copy
    acme.ok("POST", f"/migrations/{first}/cancel", {})
    assert _begins(plane, registered_first) == (1, 1)
    assert _begins(plane, second) is None


def test_a_change_of_the_limit_holds_at_once_and_stops_nobody(site: SiteKit, acme: Caller, iso: Caller) -> None:
    machines = [site.enrol(iso)[0] for _ in range(4)]
    plane = site.data_plane
    for migration in machines[:2]:
        plane.begin_copying(migration)
    site.provider.ok("PATCH", LIMITS, {"max_concurrent_copies": 1})
    assert _begins(plane, machines[2]) == (1, 2)
    assert [acme.ok("GET", f"/migrations/{name}")["state"] for name in machines[:2]] == ["copying", "copying"]
    assert _begins(plane, machines[0]) is None
    site.provider.ok("PATCH", LIMITS, {"max_concurrent_copies": 3})
    assert _begins(plane, machines[2]) is None
    assert _begins(plane, machines[3]) == (1, 1)
    site.provider.ok("PATCH", LIMITS, {"max_concurrent_copies": None})
    assert _begins(plane, machines[3]) is None


def test_silent_agents_take_no_slot_and_hold_up_nobody(
    site: SiteKit, iso: Caller, grown_up: DatabaseSite, last_seen: LastSeen
) -> None:
    site.provider.ok("PATCH", LIMITS, {"max_concurrent_copies": 1})
    running, gone, alive = (site.enrol(iso)[0] for _ in range(3))
    grown_up.begin_copying(running)
    last_seen(gone, timedelta(minutes=3))
    last_seen(running, timedelta(seconds=100))
    assert _begins(grown_up, alive) == (1, 1)
    assert _begins(grown_up, gone) == (1, 2)  # it is back, at its old place
    last_seen(running, timedelta(minutes=3))
    assert _begins(grown_up, alive) is None
    assert _begins(grown_up, running) is None  # it is back; nobody is stopped


def test_after_a_restart_nobody_is_silent_before_all_could_be_heard(
    site: SiteKit, iso: Caller, last_seen: LastSeen
) -> None:
    site.provider.ok("PATCH", LIMITS, {"max_concurrent_copies": 1})
    running, other = (site.enrol(iso)[0] for _ in range(2))
    site.data_plane.begin_copying(running)
    last_seen(running, timedelta(hours=5))
    assert _begins(site.data_plane, other) == (1, 1)


def test_two_that_come_at_once_do_not_get_one_slot(site: SiteKit, iso: Caller) -> None:
    site.provider.ok("PATCH", LIMITS, {"max_concurrent_copies": 2})
    machines = [site.enrol(iso)[0] for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda name: _begins(site.data_plane, name), machines))
    assert [result is None for result in results] == [True, True, False, False, False, False]


def test_an_agent_learns_what_the_site_wants(site: SiteKit, acme: Caller) -> None:
    template = acme.ok("POST", "/templates", TEMPLATE | {"skip_free": "never"})["id"]
    migration, agent = site.enrol(site.iso(acme, template))
    acme.ok("PUT", f"/templates/{template}", TEMPLATE)
    seen = agent.ok("GET", "/session")
    assert (seen["skip_free"], seen["codecs"], seen["queue"]) == ("never", ["grains", "zstd"], None)
    assert acme.ok("GET", f"/migrations/{migration}")["skip_free"] == "never"


def test_agents_ask_more_seldom_when_there_are_many(site: SiteKit, acme: Caller) -> None:
    _, agent = site.enrol(site.iso(acme, acme.ok("POST", "/templates", TEMPLATE)["id"]))
    assert agent.ok("GET", "/session")["poll_seconds"] == 5
    for number in range(999):
        site.context.presence.note(str(number))
    assert agent.ok("GET", "/session")["poll_seconds"] == 20
    for number in range(100_000):
        site.context.presence.note(str(number))
    assert agent.ok("GET", "/session")["poll_seconds"] == 30  # a quarter of the time after which it counts as gone
