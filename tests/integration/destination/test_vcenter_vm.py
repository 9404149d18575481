# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
import json
import signal
import ssl
import time
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_upload import (
    DeviceUrl,
    UploadError,
    open_connection,
)

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
    assert gateway.events(migration.id) == [*audit, "claim"]


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
    assert result.get("changed") is True, result
    assert events(site, "lease-progress") - before >= 2


def test_host_is_trusted_by_the_thumbprint_that_the_lease_names(site: Site) -> None:
    host, port = site.state["vcenter"]["host"], site.state["vcenter"]["port"]
    der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, port)))
    trusting_nobody = ssl.create_default_context(cafile=str(site.ca))

    def connect(thumbprint: str) -> None:
        target = DeviceUrl("/vm-1/scsi0:0", f"https://{host}:{port}/nfc/1/disk-0.vmdk", thumbprint)
        open_connection(target, "vcenter.example.com", trusting_nobody, 10).close()

    sha1 = hashlib.sha1(der).hexdigest().upper()  # noqa: S324 - what vCenter names
    connect(":".join(sha1[index : index + 2] for index in range(0, 40, 2)))
    connect(hashlib.sha256(der).hexdigest())
    for wrong in ("00" * 20, "00" * 32, "no thumbprint"):
        with pytest.raises(UploadError, match="its certificate has the thumbprint"):
            connect(wrong)


def test_host_that_writes_a_star_for_itself_is_found(site: Site, stage: Stage, destination: Destination) -> None:
    site.vcenter.settings(device_url_host="*")
    migration = stage()
    result = destination.vcenter(migration.id)
    assert result.get("changed") is True, result


def test_guest_without_a_fast_driver_gets_a_controller_it_can_drive(
    site: Site, stage: Stage, destination: Destination
) -> None:
    migration = stage(guest={"drivers": ["ahci", "e1000"]}, firmware="bios")
    result = destination.vcenter(migration.id, network="VM Network")
    assert (result["vm"]["controller"], result["vm"]["firmware"]) == ("ahci", "bios")
    assert [nic["type"] for nic in result["vm"]["nics"]] == ["e1000", "e1000"]


def test_dropped_upload_is_sent_again_in_the_same_lease(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage(sizes=(6, 3))
    leases = events(site, "lease-created")
    site.vcenter.faults(drop_upload_after=1_000_000, drop_upload_times=1)
    assert destination.vcenter(migration.id, parallel_disks=2)["changed"] is True
    assert events(site, "lease-created") == leases + 1
    (vm,) = vms_of(site, migration.id)
    for disk, source in zip(site.vcenter.disks_of(vm["id"]), migration.disks, strict=True):
        assert_same_content(disk, source)


def test_host_that_takes_no_disk_twice_gets_another_import(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage()
    leases = events(site, "lease-created")
    site.vcenter.faults(drop_upload_after=1_000_000, drop_upload_times=1, no_second_upload=True)
    made = destination.vcenter(migration.id)
    assert made["changed"] is True
    assert "import 1 of 3 was lost and is repeated: disk 0" in json.dumps(made["warnings"])
    assert events(site, "lease-created") == leases + 2
    (vm,) = vms_of(site, migration.id)
    assert_same_content(site.vcenter.disks_of(vm["id"])[0], migration.disks[0])


def test_disk_that_arrived_damaged_is_imported_again(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage()
    site.vcenter.faults(wrong_checksums=1)
    made = destination.vcenter(migration.id)
    assert "vCenter received other bytes than were sent" in json.dumps(made["warnings"])
    assert len(vms_of(site, migration.id)) == 1


def test_lost_upload_leaves_no_vm_and_the_next_run_succeeds(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage()
    site.vcenter.faults(drop_upload_after=1_000_000)
    failed = destination.vcenter(migration.id, import_attempts=1)
    assert failed["failed"] is True
    assert "disk 0" in failed["msg"]
    # A small image may lie wholly in the sockets' buffers when the other end goes.
    assert "broke off after" in failed["msg"] or "no answer after all" in failed["msg"]
    assert vms_of(site, migration.id) == []
    assert gateway.migration(migration.id)["state"] == "importing"
    site.vcenter.faults()
    result = destination.vcenter(migration.id)
    assert result.get("changed") is True, result
    (vm,) = vms_of(site, migration.id)
    assert_same_content(site.vcenter.disks_of(vm["id"])[0], migration.disks[0])


@pytest.mark.parametrize("action", ["refuse", "drop", "lose"])
def test_every_seventh_call_may_fail(site: Site, stage: Stage, destination: Destination, action: str) -> None:
    migration = stage(sizes=(3, 2))
    site.vcenter.settings(lease_timeout_seconds=5)
    site.vcenter.faults(calls=[{"every": 7, "action": action}])
    result = destination.vcenter(migration.id, wait_timeout=60)
    hits = site.vcenter.events("call-fault")
    site.vcenter.faults()
    assert result.get("changed") is True, result
    assert hits
    (vm,) = vms_of(site, migration.id)
    assert vm["extra_config"]["guestinfo.coldmig.state"] == "complete"
    for disk, source in zip(site.vcenter.disks_of(vm["id"]), migration.disks, strict=True):
        assert_same_content(disk, source)


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "action"),
    [
        ("Login", "lose"),
        ("ImportVApp", "drop"),
        ("ImportVApp", "lose"),
        ("upload", "drop"),
        ("upload", "lose"),
        ("HttpNfcLeaseGetManifest", "lose"),
        ("HttpNfcLeaseComplete", "drop"),
        ("HttpNfcLeaseComplete", "lose"),
        ("ReconfigVM_Task", "lose"),
    ],
)
def test_call_without_an_answer_makes_one_vm_all_the_same(
    site: Site, stage: Stage, destination: Destination, method: str, action: str
) -> None:
    migration = stage(sizes=(2,))
    site.vcenter.settings(lease_timeout_seconds=4)
    site.vcenter.faults(calls=[{"at": [1], "methods": [method], "action": action}])
    result = destination.vcenter(migration.id, wait_timeout=60)
    assert result.get("changed") is True, result
    (vm,) = vms_of(site, migration.id)
    assert_same_content(site.vcenter.disks_of(vm["id"])[0], migration.disks[0])


def test_session_that_expired_is_opened_again(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage(sizes=(2,))
    site.vcenter.faults(
        calls=[{"at": [2], "methods": ["RetrievePropertiesEx"], "action": "refuse", "minor": "NotAuthenticated"}]
    )
    result = destination.vcenter(migration.id)
    assert result.get("changed") is True, result


def test_refusal_for_good_is_not_repeated(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage(sizes=(2,))
    site.vcenter.faults(calls=[{"from": 1, "methods": ["ImportVApp"], "action": "refuse", "minor": "NoPermission"}])
    failed = destination.vcenter(migration.id)
    assert "the account lacks the privilege" in failed["msg"]
    assert site.vcenter.call("GET", "faults")["seen"] == [1]


def test_storage_policy_is_that_of_the_vm_and_its_disks(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage(sizes=(2, 1))
    assert destination.vcenter(migration.id, storage_policy="VVol No Requirements Policy")["changed"] is True
    (vm,) = vms_of(site, migration.id)
    assert vm["policies"] == ["f4e5bade-15a2-4805-bf8e-52318c4ce443"] * 3


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ({"upload_status": 507}, "507"),
        ({"refuse_import": "not enough room on esx-01"}, "not enough room on esx-01"),
        ({"complete_fails": "the disk chain is broken"}, "the disk chain is broken"),
        # It is tried again for more than a minute.
        pytest.param({"unreachable": True}, "vCenter 127.0.0.1", marks=pytest.mark.long),
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
    leases = events(site, "lease-created")
    failed = destination.vcenter(migration.id, import_attempts=2)
    assert "vCenter ended the import lease" in failed["msg"]
    assert "no progress" in failed["msg"]
    assert "(import 2 of 2)" in failed["msg"]
    assert events(site, "lease-created") == leases + 2
    assert vms_of(site, migration.id) == []


def test_vm_of_a_killed_run_is_replaced(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage(sizes=(10,))
    site.vcenter.settings(lease_timeout_seconds=6)
    site.vcenter.faults(upload_bytes_per_second=200_000)
    killed = destination.start("vcenter_vm", migration.id, claim_seconds=2)
    deadline = time.monotonic() + 30
    while not vms_of(site, migration.id):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    site.vcenter.faults()
    (left,) = vms_of(site, migration.id)
    assert left["leased"] is True
    time.sleep(2.5)  # until the gateway lets go of the killed run
    result = destination.vcenter(migration.id)
    assert result.get("changed") is True, result
    (vm,) = vms_of(site, migration.id)
    assert vm["id"] != left["id"]
    assert_same_content(site.vcenter.disks_of(vm["id"])[0], migration.disks[0])


@pytest.mark.parametrize("name", [None, "erp"])
def test_vm_whose_reference_was_lost_is_found_by_its_id(
    gateway: Gateway, stage: Stage, destination: Destination, name: str | None
) -> None:
    migration = stage()
    made = destination.vcenter(migration.id, name=name)
    gateway.call("PATCH", f"/migrations/{migration.id}/destination-refs", {"vcenter_vm": None})
    again = destination.vcenter(migration.id, name=name)
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
        ({"import_attempts": 0}, "import_attempts: 0 is not valid"),
        (
            {"storage_policy": "gold"},
            "storage_policy: there is no 'gold' in vCenter 127.0.0.1; there are 'Host-local PMem Default",
        ),
        (
            {"storage_policy": "Host-local PMem Default Storage Policy"},
            "storage_policy: datastore 'datastore-1' does not fit 'Host-local PMem Default Storage Policy'",
        ),
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
