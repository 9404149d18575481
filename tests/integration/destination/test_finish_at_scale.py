# SPDX-License-Identifier: GPL-3.0-or-later
"""Many migrations in one run of the playbook ``cda.coldmig.finish``, at a destination that keeps failing."""

from __future__ import annotations

import time
from typing import Any

import pytest

from simulators.run import Site
from support.processes import wait_until

from .conftest import Gateway, Provider, Stage, Staged, assert_same_content, vms_of

MIGRATIONS = 20
FAULTS = ("refuse", "drop", "lose")
MOST_CALLS = 100_000


def every_seventh(*actions: str) -> list[dict[str, Any]]:
    """Rules by which the seventh call meets the first of these, the fourteenth the second, and so on, in turns."""
    turn = 7 * len(actions)
    return [
        {"at": list(range(7 * number, MOST_CALLS, turn)), "action": action} for number, action in enumerate(actions, 1)
    ]


@pytest.mark.parametrize(
    "actions", [FAULTS, *(pytest.param((action,), marks=pytest.mark.long) for action in FAULTS)], ids="-".join
)
def test_twenty_migrations_are_finished_in_one_run_though_every_seventh_call_fails(
    gateway: Gateway, stage: Stage, provider: Provider, site: Site, *, actions: tuple[str, ...]
) -> None:
    migrations = [stage(sizes=(2, 1)) for _ in range(MIGRATIONS)]
    before = {vm["id"] for vm in site.vcenter.vms()}
    # a lease whose answer is lost has to end by itself
    site.vcenter.settings(lease_timeout_seconds=15)
    seen = [len(service.events("call-fault")) for service in (site.vcenter, site.vcd)]
    for service in (site.vcenter, site.vcd):
        service.faults(calls=every_seventh(*actions))
    run = provider.finish(*migrations, arguments=("--forks", "10"))
    failed = [
        service.events("call-fault")[count:] for service, count in zip((site.vcenter, site.vcd), seen, strict=True)
    ]
    site.vcenter.faults()
    site.vcd.faults()
    assert run.status == 0, run.text
    for events in failed:
        assert len(events) > MIGRATIONS
        assert {event["detail"]["action"] for event in events} == set(actions)
    assert_all_there_once(site, gateway, migrations, before)


def assert_all_there_once(site: Site, gateway: Gateway, migrations: list[Staged], before: set[str]) -> None:
    """Each migration has its VM, in both, with its disks; ``before`` are the VMs of others. Nothing is left over."""
    in_vcd = [found for vapp in site.vcd.call("GET", "vapps") for found in vapp["vms"]]
    for migration in migrations:
        seen = gateway.migration(migration.id)
        assert (seen["state"], seen["claim"]) == ("finished", None)
        (vm,) = vms_of(site, migration.id)
        in_vcd = [
            found for vapp in site.vcd.call("GET", "vapps") for found in vapp["vms"] if found["moref"] == vm["id"]
        ]
        assert [found["name"] for found in in_vcd] == [migration.name]
        assert vm["snapshots"] == 0
        for disk, source in zip(site.vcenter.disks_of(vm["id"]), migration.disks, strict=True):
            assert_same_content(disk, source)
    assert len({vm["id"] for vm in site.vcenter.vms()} - before) == len(migrations)
    assert [vapp["name"] for vapp in site.vcd.call("GET", "vapps") if not vapp["vms"]] == []


@pytest.mark.long
@pytest.mark.parametrize("arrive", ["vapp", "shared", "existing", "standalone"])
def test_runs_that_are_killed_between_any_calls_are_gone_on_with(
    gateway: Gateway, stage: Stage, provider: Provider, site: Site, *, arrive: str
) -> None:
    wanted: dict[str, Any] = {"import_as": arrive}
    if arrive == "existing":
        host = stage(sizes=(1,))
        assert provider.finish(host).status == 0
        wanted["vapp"] = host.name
    elif arrive == "shared":
        wanted["vapp"] = "killed-together"
    migrations = [stage(sizes=(2, 1), destination=wanted) for _ in range(4)]
    before = {vm["id"] for vm in site.vcenter.vms()}
    site.vcenter.settings(lease_timeout_seconds=5)
    provider.variables["finish_claim_seconds"] = 2
    # From call to call an answer is withheld, done or not; when some wait for theirs, everything is killed.
    for service, every, action in (
        (site.vcenter, 31, "hang-after"),
        (site.vcenter, 23, "hang"),
        (site.vcd, 41, "hang-after"),
        (site.vcd, 37, "hang"),
        (site.vcd, 53, "hang-after"),
    ):
        seen = len(service.events())
        service.faults(calls=[{"every": every, "action": action}])
        run = provider.start(*migrations, arguments=("--forks", "4"))
        wait_until(lambda: service.events("call-fault", seen) or run.poll() is not None, "a fault", 120)  # noqa: B023
        # Then as many as may hang at once: those that share a vApp wait for one another, and so do all for a call that
        # one makes for them.
        hanging, deadline = 1 if arrive in ("shared", "existing") else 3, time.monotonic() + 30
        while len(service.events("call-fault", seen)) < hanging and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        provider.kill(run)
        service.faults()
    last = provider.finish(*migrations, arguments=("--forks", "4"))
    assert last.status == 0, last.text
    assert_all_there_once(site, gateway, migrations, before)


def test_migration_is_left_to_the_run_that_works_on_it(
    site: Site, gateway: Gateway, stage: Stage, provider: Provider
) -> None:
    taken, free = stage(sizes=(1,)), stage(sizes=(1,))
    claim = {"run": "https://ci.example/job/7", "holder": "somebody-else", "seconds": 3600}
    gateway.call("POST", f"/migrations/{taken.id}/claim", claim)
    run = provider.finish(taken, free)
    assert run.status == 0, run.text
    assert f"WAITS     {taken.name}: another run works on it: https://ci.example/job/7, since 20" in run.text
    assert (gateway.migration(taken.id)["state"], gateway.migration(free.id)["state"]) == ("copied", "finished")
    assert vms_of(site, taken.id) == []
    gateway.call("POST", f"/migrations/{taken.id}/release", {"holder": "somebody-else"})
    assert provider.finish(taken).status == 0
    assert gateway.migration(taken.id)["claim"] is None


def test_two_runs_at_once_make_each_vm_once(site: Site, gateway: Gateway, stage: Stage, provider: Provider) -> None:
    migrations = [stage(sizes=(2,)) for _ in range(2)]
    before = {vm["id"] for vm in site.vcenter.vms()}
    both = [provider.start(*migrations) for _ in range(2)]
    outputs = [run.communicate(timeout=200)[0] for run in both]
    assert [run.returncode for run in both] == [0, 0], outputs
    last = provider.finish(*migrations)  # what one left to the other, and the other had not yet begun
    assert last.status == 0, last.text
    assert_all_there_once(site, gateway, migrations, before)


def test_staging_is_kept_as_long_as_the_provider_wants(gateway: Gateway, stage: Stage, provider: Provider) -> None:
    kept, default = stage(sizes=(1,)), stage(sizes=(1,))
    assert provider.finish(kept, finish_keep_staging_hours=0).status == 0
    assert provider.finish(default).status == 0
    assert gateway.migration(kept.id)["keep_staging_until"] is not None
    assert gateway.migration(default.id)["keep_staging_until"] is None
