# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook ``cda.coldmig.finish`` with the inventory plugin, as a provider's CI runs it."""

from __future__ import annotations

from simulators.run import Site

from .conftest import Gateway, Provider, Stage, Staged, assert_same_content, vapps_of, vms_of


def test_due_migration_becomes_a_vm_and_the_second_run_changes_nothing(
    site: Site, gateway: Gateway, stage: Stage, provider: Provider
) -> None:
    migration = stage(sizes=(5, 2), power_on=True)
    first = provider.finish(migration)
    assert first.status == 0, first.text
    assert first.changed == 2, first.text
    assert f"finished  {migration.name}: VM {migration.name}" in first.text
    assert gateway.migration(migration.id)["state"] == "finished"
    (vm,) = vms_of(site, migration.id)
    assert vm["power"] == "poweredOn"
    for disk, source in zip(site.vcenter.disks_of(vm["id"]), migration.disks, strict=True):
        assert_same_content(disk, source)
    leases = len(site.vcenter.events("lease-created"))
    second = provider.finish(migration)
    assert second.status == 0, second.text
    assert second.changed == 0, second.text
    assert "Nothing was due." in second.text
    assert len(site.vcenter.events("lease-created")) == leases


def test_check_mode_writes_nothing(site: Site, gateway: Gateway, stage: Stage, provider: Provider) -> None:
    migration = stage(sizes=(2,))
    audit = gateway.events(migration.id)
    run = provider.finish(migration, arguments=("--check", "--diff"))
    assert run.status == 0, run.text
    assert gateway.events(migration.id) == audit
    assert vms_of(site, migration.id) == []
    assert vapps_of(site, migration.name) == []


def test_error_concerns_its_migration_alone_and_the_run_fails_at_its_end(
    site: Site, gateway: Gateway, stage: Stage, provider: Provider
) -> None:
    wrong, right = stage(destination={"vdc": "acme-prod"}, sizes=(1,)), stage(sizes=(2,))
    run = provider.finish(wrong, right)
    assert run.status != 0
    assert f"FAILED    {wrong.name}" in run.text
    assert "organization 'acme' has no VDC 'acme-prod'; there are 'acme-lab', 'acme-production'" in run.text
    assert gateway.migration(right.id)["state"] == "finished"
    # nothing was begun, so the tenant can still correct it, and the next run goes through
    assert gateway.migration(wrong.id)["state"] == "copied"
    assert vms_of(site, wrong.id) == []
    destination = {"vdc": "acme-production", "networks": []}
    gateway.call("PATCH", f"/migrations/{wrong.id}", {"destination": destination})
    again = provider.finish(wrong, right)
    assert again.status == 0, again.text
    assert gateway.migration(wrong.id)["state"] == "finished"


def test_unreadable_sectors_wait_for_their_owner_and_fail_nothing(
    site: Site, gateway: Gateway, stage: Stage, provider: Provider
) -> None:
    rusty, sound = stage(sizes=(2,), unreadable=(1,)), stage(sizes=(1,))
    first = provider.finish(rusty, sound)
    assert first.status == 0, first.text
    assert f"WAITS     {rusty.name}: sectors of the source could not be read" in first.text
    assert "1 of 2 chunks" in first.text
    assert "accept_unreadable" in first.text
    assert (gateway.migration(rusty.id)["state"], gateway.migration(sound.id)["state"]) == ("copied", "finished")
    assert vms_of(site, rusty.id) == []
    gateway.call("PATCH", f"/migrations/{rusty.id}", {"accept_unreadable": True})
    second = provider.finish(rusty)
    assert second.status == 0, second.text
    assert gateway.migration(rusty.id)["state"] == "finished"


def test_interrupted_import_is_resumed(site: Site, gateway: Gateway, stage: Stage, provider: Provider) -> None:
    migration = stage(sizes=(3,))
    site.vcenter.faults(drop_upload_after=100_000, drop_upload_times=99)
    first = provider.finish(migration)
    site.vcenter.faults()
    assert first.status != 0
    assert gateway.migration(migration.id)["state"] == "importing"
    assert vms_of(site, migration.id) == []
    second = provider.finish(migration)
    assert second.status == 0, second.text
    assert gateway.migration(migration.id)["state"] == "finished"


def test_secrets_are_in_no_output(site: Site, stage: Stage, provider: Provider) -> None:
    migration = stage(sizes=(1,))
    run = provider.finish(migration, arguments=("-vvv", "--diff"))
    assert run.status == 0, run.text
    secrets = [
        provider.environment["COLDMIG_GATEWAY_TOKEN"],
        provider.environment["VMWARE_PASSWORD"],
        provider.environment["VCD_PASSWORD"],
    ]
    assert [secret for secret in secrets if secret in run.text] == []


def test_missing_variable_is_named(stage: Stage, provider: Provider, untouched: Staged) -> None:
    provider.variables.pop("finish_datastore")
    run = provider.finish(untouched)
    assert run.status != 0
    assert "missing required arguments: finish_datastore" in run.text
