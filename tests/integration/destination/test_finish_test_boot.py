# SPDX-License-Identifier: GPL-3.0-or-later
"""``finish`` with a test boot, end to end: before the cut-over it is known whether the system starts."""

from __future__ import annotations

import time
from typing import Any

import pytest

from simulators.run import Site

from .conftest import Destination, Gateway, Provider, Stage, assert_same_content, vapps_of, vms_of

QUICK: dict[str, Any] = {
    "finish_test_boot": True,
    "finish_test_boot_timeout": 4,
    "finish_test_boot_without_tools": 3,
    "finish_network": "VM Network",
}


def power(site: Site, vm: dict[str, Any]) -> list[dict[str, Any]]:
    return [event["detail"] for event in site.vcenter.events("power") if event["vm"] == vm["id"]]


def undo(provider: Provider, *names: str) -> tuple[int | None, str]:
    run = provider.start(playbook="undo", coldmig_undo=list(names))
    output, _ = run.communicate(timeout=200)
    return run.returncode, output


def test_vm_that_starts_is_finished_and_can_still_be_undone(
    site: Site, gateway: Gateway, stage: Stage, provider: Provider
) -> None:
    site.vcenter.settings(boots={"heartbeat_seconds": 0.5})
    migration = stage(sizes=(3,))
    run = provider.finish(migration, finish_test_boot_screenshots=str(provider.folder), **QUICK)
    assert run.status == 0, run.text
    assert f"finished  {migration.name}: VM {migration.name}" in run.text
    assert "; test boot: heartbeat; in Cloud Director" in run.text
    assert (provider.folder / f"{migration.id}.png").read_bytes().startswith(b"\x89PNG")
    noted = gateway.migration(migration.id)["checks"]["test-boot"]
    assert noted["passed"]
    assert noted["detail"].startswith("VMware Tools answered after")
    (vm,) = vms_of(site, migration.id)
    # on once, with no NIC connected, and off again before Cloud Director took it over
    assert [event["state"] for event in power(site, vm)][:2] == ["on", "off"]
    assert [event["connected"] for event in power(site, vm) if event["state"] == "on"] == [0]
    assert (vm["power"], vm["snapshots"], vm["written"]) == ("poweredOff", 0, False)
    (disk,) = site.vcenter.disks_of(vm["id"])
    assert_same_content(disk, migration.disks[0])
    # the next run finds nothing to do and boots nothing
    assert provider.finish(migration, **QUICK).changed == 0
    assert len([event for event in power(site, vm) if event["state"] == "on"]) == 1

    status, output = undo(provider, migration.name)
    assert status == 0, output
    assert f"undone    {migration.name}" in output, output
    assert vms_of(site, migration.id) == vapps_of(site, migration.name) == []


def test_vm_that_does_not_start_stays_in_vcenter_until_somebody_decides(
    site: Site, gateway: Gateway, stage: Stage, provider: Provider
) -> None:
    site.vcenter.settings(boots={"powers_off_seconds": 0.5})
    migration, other = stage(sizes=(1,)), stage(sizes=(1,))
    run = provider.finish(migration, other, **QUICK)
    assert run.status != 0
    assert f"FAILED    {migration.name}" in run.text, run.text
    assert "the test boot showed no sign of life: the VM powered itself off within" in run.text
    for one in (migration, other):
        seen = gateway.migration(one.id)
        assert (seen["state"], seen["checks"]["test-boot"]["passed"]) == ("importing", False)
        assert vapps_of(site, one.name) == []
    # one is taken as it is, the other given up
    assert provider.finish(migration, **{**QUICK, "finish_test_boot_required": False}).status == 0
    assert gateway.migration(migration.id)["state"] == "finished"
    status, output = undo(provider, other.name)
    assert status == 0, output
    assert (vms_of(site, other.id), gateway.migration(other.id)["state"]) == ([], "canceled")


@pytest.mark.long
def test_run_killed_in_a_test_boot_is_undone_or_gone_on_with(
    site: Site, gateway: Gateway, stage: Stage, provider: Provider, destination: Destination
) -> None:
    provider.variables.update(QUICK, finish_claim_seconds=2)
    undone, used = stage(sizes=(1,)), stage(sizes=(1,))
    for migration in (undone, used):
        before = len(site.vcenter.events())
        run = provider.start(migration, finish_test_boot_timeout=100, finish_test_boot_without_tools=100)
        site.vcenter.wait_for_event("power", after=before, timeout=120)
        provider.kill(run)
        (vm,) = vms_of(site, migration.id)
        assert (vm["power"], vm["snapshots"]) == ("poweredOn", 1)
    time.sleep(2.5)  # until the gateway lets go of them
    assert destination("undo", undone.id, check=True)["changed"] is True
    status, output = undo(provider, undone.name)
    assert status == 0, output
    assert vms_of(site, undone.id) == []

    # without another test boot the VM is put back all the same
    assert provider.finish(used, finish_test_boot=False).status == 0
    (vm,) = vms_of(site, used.id)
    assert (vm["power"], vm["snapshots"], vm["written"]) == ("poweredOff", 0, False)
    assert destination("undo", used.id, check=True)["changed"] is True
    # somebody who uses it is told from the test boot
    site.vcenter.call("POST", f"vms/{vm['id']}/power", {"state": "on"})
    site.vcenter.call("POST", f"vms/{vm['id']}/power", {"state": "off"})
    assert "was powered on (20" in destination("undo", used.id)["msg"]
