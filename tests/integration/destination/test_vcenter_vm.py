# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from simulators.run import Site

from .conftest import Destination, Gateway, Stage, Staged, assert_same_content, vms_of


def events(site: Site, kind: str) -> int:
    return len(site.vcenter.events(kind))


def test_vm_has_the_source_s_disks_and_hardware_it_can_drive(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage(sizes=(6, 3))
    result = destination.vcenter(migration.id)
    assert result["changed"] is True
    (vm,) = vms_of(site, migration.id)
    assert result["vm"]["moid"] == vm["id"]
    assert (vm["firmware"], vm["guest_id"], vm["cpus"], vm["cores_per_socket"], vm["memory_mb"]) == (
        "efi",
        "debian12_64Guest",
        4,
        2,
        1024,
    )
    assert vm["resource_pool"] == "coldmig-staging"
    assert vm["power"] == "poweredOff"
    assert vm["nics"] == []
    received = site.vcenter.disks_of(vm["id"])
    assert [disk["controller"] for disk in received] == ["ParaVirtualSCSIController"] * 2
    for disk, source in zip(received, migration.disks, strict=True):
        assert_same_content(disk, source)
    kept = gateway.migration(migration.id)
    assert (kept["state"], kept["refs"]["vcenter_vm"]) == ("importing", vm["id"])
    assert [disk["vmdk_bytes"] for disk in kept["disks"]] == [disk["size"] for disk in received]


def test_second_run_changes_nothing(site: Site, gateway: Gateway, stage: Stage, destination: Destination) -> None:
    migration = stage()
    first = destination.vcenter(migration.id)
    leases, audit = events(site, "lease-created"), gateway.events(migration.id)
    second = destination.vcenter(migration.id)
    assert second["changed"] is False
    assert second["vm"] == first["vm"]
    assert second["diff"]["before"] == second["diff"]["after"]
    assert events(site, "lease-created") == leases
    assert gateway.events(migration.id) == audit


def test_check_mode_plans_and_writes_nothing(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage()
    leases, audit = events(site, "lease-created"), gateway.events(migration.id)
    planned = destination.vcenter(migration.id, check=True)
    assert planned["changed"] is True
    assert events(site, "lease-created") == leases
    assert gateway.events(migration.id) == audit
    assert gateway.migration(migration.id)["state"] == "copied"
    made = destination.vcenter(migration.id)
    assert {key: made["vm"][key] for key in planned["vm"] if key not in ("disks", "nics")} == {
        key: value for key, value in planned["vm"].items() if key not in ("disks", "nics")
    }


def test_disks_can_be_sent_at_the_same_time(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage(sizes=(5, 4, 3))
    destination.vcenter(migration.id, parallel_disks=3)
    (vm,) = vms_of(site, migration.id)
    for disk, source in zip(site.vcenter.disks_of(vm["id"]), migration.disks, strict=True):
        assert_same_content(disk, source)


def test_lease_is_kept_alive_while_a_slow_upload_runs(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage(sizes=(10,))
    site.vcenter.settings(lease_timeout_seconds=4)
    site.vcenter.faults(upload_bytes_per_second=500_000)
    before = events(site, "lease-progress")
    result = destination.vcenter(migration.id)
    assert result["changed"] is True, result
    assert events(site, "lease-progress") - before >= 2


def test_host_that_writes_a_star_for_itself_is_found(site: Site, stage: Stage, destination: Destination) -> None:
    site.vcenter.settings(device_url_host="*")
    migration = stage()
    assert destination.vcenter(migration.id)["changed"] is True


def test_guest_without_a_fast_driver_gets_a_controller_it_can_drive(
    site: Site, stage: Stage, destination: Destination
) -> None:
    migration = stage(guest={"drivers": ["ahci", "e1000"]}, firmware="bios")
    result = destination.vcenter(migration.id, network="VM Network")
    assert (result["vm"]["controller"], result["vm"]["firmware"]) == ("ahci", "bios")
    assert [nic["type"] for nic in result["vm"]["nics"]] == ["e1000", "e1000"]


def test_dropped_upload_leaves_no_vm_and_the_next_run_succeeds(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage()
    site.vcenter.faults(drop_upload_after=1_000_000, drop_upload_times=1)
    failed = destination.vcenter(migration.id)
    assert failed["failed"] is True
    assert "disk 0" in failed["msg"]
    # A small image may lie wholly in the sockets' buffers when the other end goes.
    assert "broke off after" in failed["msg"] or "no answer after all" in failed["msg"]
    assert vms_of(site, migration.id) == []
    assert gateway.migration(migration.id)["state"] == "importing"
    assert destination.vcenter(migration.id)["changed"] is True
    (vm,) = vms_of(site, migration.id)
    assert_same_content(site.vcenter.disks_of(vm["id"])[0], migration.disks[0])


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ({"upload_status": 503}, "503"),
        ({"refuse_import": "not enough room on esx-01"}, "not enough room on esx-01"),
        ({"complete_fails": "the disk chain is broken"}, "the disk chain is broken"),
        ({"unreachable": True}, "vCenter 127.0.0.1"),
    ],
)
def test_refusal_of_vcenter_is_named_and_leaves_nothing(
    site: Site, stage: Stage, destination: Destination, fault: dict[str, Any], text: str
) -> None:
    migration = stage()
    site.vcenter.faults(**fault)
    failed = destination.vcenter(migration.id)
    assert failed["failed"] is True
    assert text in failed["msg"]
    site.vcenter.faults()
    assert vms_of(site, migration.id) == []


def test_lease_that_vcenter_ends_is_named(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage(sizes=(10,))
    site.vcenter.settings(lease_timeout_seconds=3)
    site.vcenter.faults(ignore_progress=True, upload_bytes_per_second=200_000)
    failed = destination.vcenter(migration.id)
    assert "vCenter ended the import lease" in failed["msg"]
    assert "no progress" in failed["msg"]
    assert vms_of(site, migration.id) == []


def test_vm_of_a_killed_run_is_replaced(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage(sizes=(10,))
    site.vcenter.settings(lease_timeout_seconds=6)
    site.vcenter.faults(upload_bytes_per_second=200_000)
    killed = destination.start("vcenter_vm", migration.id)
    deadline = time.monotonic() + 30
    while not vms_of(site, migration.id):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    site.vcenter.faults()
    (left,) = vms_of(site, migration.id)
    assert left["leased"] is True
    result = destination.vcenter(migration.id)
    assert result["changed"] is True, result
    (vm,) = vms_of(site, migration.id)
    assert vm["id"] != left["id"]
    assert_same_content(site.vcenter.disks_of(vm["id"])[0], migration.disks[0])


def test_vm_whose_reference_was_lost_is_found_by_its_id(
    gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage()
    made = destination.vcenter(migration.id)
    gateway.call("PATCH", f"/migrations/{migration.id}/destination-refs", {"vcenter_vm": None})
    again = destination.vcenter(migration.id)
    assert again["changed"] is False
    assert again["vm"]["moid"] == made["vm"]["moid"]
    assert gateway.migration(migration.id)["refs"]["vcenter_vm"] == made["vm"]["moid"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"datacenter": "dc-south"}, "datacenter: there is no 'dc-south' in vCenter 127.0.0.1; there is 'dc-north'"),
        ({"datastore": "fast"}, "datastore: there is no 'fast' in datacenter 'dc-north'; there is 'datastore-1'"),
        ({"cluster": "c9"}, "cluster: there is no 'c9' in datacenter 'dc-north'; there is 'cluster-1'"),
        ({"resource_pool": "x"}, "resource_pool: there is no 'x' in cluster 'cluster-1'; there are 'acme-lab'"),
        ({"folder": "coldmig-staging/deep"}, "folder: there is no 'deep' in folder 'coldmig-staging'; there are none"),
        ({"network": "pg-x"}, "network: there is no 'pg-x' in datacenter 'dc-north'; there are"),
        ({"guest_id": "debian99_64Guest"}, "guest_id: the host does not offer 'debian99_64Guest'"),
        ({"parallel_disks": 0}, "parallel_disks: 0 is not valid"),
        ({"password": "wrong"}, "the user name or the password is not accepted"),
        ({"port": 1}, "vCenter 127.0.0.1:1: Connection refused"),
        ({"ca_path": None}, "certificate not accepted"),
        ({"ca_path": "/nonexistent.pem"}, "ca_path: '/nonexistent.pem' is not valid"),
        ({"migration": "erp-db-01"}, "migration: 'erp-db-01' is not valid: the id of a migration"),
        ({"migration": "8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11"}, "the gateway has no migration 8a9df7ab"),
    ],
)
def test_wrong_option_is_named_before_anything_is_changed(
    site: Site, gateway: Gateway, untouched: Staged, destination: Destination, *, options: dict[str, Any], text: str
) -> None:
    migration_id = options.get("migration", untouched.id)
    failed = destination.vcenter(migration_id, **{k: v for k, v in options.items() if k != "migration"})
    assert failed["failed"] is True
    assert text in failed["msg"]
    assert gateway.migration(untouched.id)["state"] == "copied"
    assert vms_of(site, untouched.id) == []


def test_migration_that_is_not_copied_is_refused(stage: Stage, destination: Destination) -> None:
    migration = stage(copied=False)
    failed = destination.vcenter(migration.id)
    assert "is 'confirmed'; a VM is made from one that is 'copied'" in failed["msg"]


def test_canceled_migration_is_refused_with_its_reason(
    gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage(copied=False)
    gateway.call("POST", f"/migrations/{migration.id}/cancel", {"reason": "wrong machine"})
    assert "wrong machine" in destination.vcenter(migration.id)["msg"]


def test_absent_removes_the_vm_once(site: Site, gateway: Gateway, stage: Stage, destination: Destination) -> None:
    migration = stage()
    destination.vcenter(migration.id)
    planned = destination.vcenter(migration.id, state="absent", check=True)
    assert planned["changed"] is True
    assert len(vms_of(site, migration.id)) == 1
    assert destination.vcenter(migration.id, state="absent")["changed"] is True
    assert vms_of(site, migration.id) == []
    assert gateway.migration(migration.id)["refs"]["vcenter_vm"] is None
    assert destination.vcenter(migration.id, state="absent")["changed"] is False
