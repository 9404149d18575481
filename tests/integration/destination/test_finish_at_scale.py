# SPDX-License-Identifier: GPL-3.0-or-later
"""Many migrations in one run of the playbook ``cda.coldmig.finish``, at a destination that keeps failing."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from simulators.run import Site

from .conftest import Gateway, Provider, Stage, Staged, assert_same_content, vapps_of, vms_of

MIGRATIONS = 20
EVERY_SEVENTH = [{"every": 7, "action": "refuse"}]


def test_twenty_migrations_are_finished_in_one_run_though_every_seventh_call_fails(
    site: Site, gateway: Gateway, stage: Stage, provider: Provider
) -> None:
    migrations = [stage(sizes=(2, 1)) for _ in range(MIGRATIONS)]
    before = {vm["id"] for vm in site.vcenter.vms()}
    site.vcenter.faults(calls=EVERY_SEVENTH)
    site.vcd.faults(calls=EVERY_SEVENTH)
    run = provider.finish(*migrations, arguments=("--forks", "10"))
    refused = [len(service.events("call-fault")) for service in (site.vcenter, site.vcd)]
    site.vcenter.faults()
    site.vcd.faults()
    assert run.status == 0, run.text
    assert min(refused) > MIGRATIONS, refused
    assert_all_there_once(site, gateway, migrations, before)


def assert_all_there_once(site: Site, gateway: Gateway, migrations: list[Staged], before: set[str]) -> None:
    """Each migration has its VM, in both, with its disks; ``before`` are the VMs of others. Nothing is left over."""
    for migration in migrations:
        assert gateway.migration(migration.id)["state"] == "finished"
        (vm,) = vms_of(site, migration.id)
        (vapp,) = vapps_of(site, migration.name)
        assert [found["moref"] for found in vapp["vms"]] == [vm["id"]]
        for disk, source in zip(site.vcenter.disks_of(vm["id"]), migration.disks, strict=True):
            assert_same_content(disk, source)
    assert len({vm["id"] for vm in site.vcenter.vms()} - before) == len(migrations)


@pytest.mark.long
def test_runs_that_are_killed_between_any_calls_are_gone_on_with(
    site: Site, gateway: Gateway, stage: Stage, provider: Provider
) -> None:
    migrations = [stage(sizes=(2, 1)) for _ in range(4)]
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
        wait_until(lambda: len(service.events("call-fault", seen)) >= 3 or run.poll() is not None)  # noqa: B023
        provider.kill(run)
        service.faults()
    last = provider.finish(*migrations, arguments=("--forks", "4"))
    assert last.status == 0, last.text
    assert_all_there_once(site, gateway, migrations, before)


def wait_until(happened: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for a condition, which must come."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.2)


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
