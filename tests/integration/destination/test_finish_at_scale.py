# SPDX-License-Identifier: GPL-3.0-or-later
"""Many migrations in one run of the playbook ``cda.coldmig.finish``, at a destination that keeps failing."""

from __future__ import annotations

from simulators.run import Site

from .conftest import Gateway, Provider, Stage, assert_same_content, vapps_of, vms_of

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
    for migration in migrations:
        assert gateway.migration(migration.id)["state"] == "finished"
        (vm,) = vms_of(site, migration.id)
        (vapp,) = vapps_of(site, migration.name)
        assert [found["moref"] for found in vapp["vms"]] == [vm["id"]]
        for disk, source in zip(site.vcenter.disks_of(vm["id"]), migration.disks, strict=True):
            assert_same_content(disk, source)
    assert len({vm["id"] for vm in site.vcenter.vms()} - before) == MIGRATIONS
