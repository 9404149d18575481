# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import signal
import time
from typing import Any

import pytest
import requests

from simulators.run import Site

from .conftest import Destination, Gateway, Stage, Staged, assert_same_content, vapps_of, vms_of

WRITES = ("POST", "PUT", "DELETE")


def writes(site: Site) -> list[dict[str, Any]]:
    """What was asked of VCD that could change something, but for sessions."""
    return [
        request
        for request in site.vcd.call("GET", "requests")
        if request["method"] in WRITES and "/sessions" not in request["path"] and "/oauth" not in request["path"]
    ]


def after_the_claim(destination: Destination, migration_id: str) -> dict[str, Any]:
    """What a run does as soon as the one before, which was killed, does not hold the migration any more."""
    deadline = time.monotonic() + 60
    while True:
        result = destination.vcd(migration_id)
        if result.get("problem", {}).get("type") != "urn:coldmig:problem:claimed":
            return result
        assert time.monotonic() < deadline, result


def only_vapp(site: Site, migration: Staged) -> dict[str, Any]:
    (vapp,) = vapps_of(site, migration.name)
    return vapp


def test_vm_is_imported_configured_and_the_migration_finished(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage(
        destination={
            "storage_profile": "silver",
            "networks": [
                {"network": "acme-web", "ip_mode": "POOL", "keep_mac": True},
                {"network": "acme-db", "ip_mode": "MANUAL", "ip": "192.168.20.44"},
            ],
        },
        sizes=(5, 2),
    )
    made = destination.vcenter(migration.id)
    result = destination.vcd(migration.id, owner="acme-author")
    assert result["changed"] is True, result
    assert result["vm"]["name"] == migration.name
    assert result["vm"]["storage_profile"] == "silver"
    assert result["vm"]["status"] == "powered_off"
    assert result["vapp"]["owner"] == "acme-author"
    first, second = result["vm"]["nics"]
    assert (first["network"], first["ip_mode"], first["mac"], first["adapter"], first["connected"]) == (
        "acme-web",
        "POOL",
        "52:54:00:00:00:00",
        "VMXNET3",
        True,
    )
    assert (second["network"], second["ip_mode"], second["ip"]) == ("acme-db", "MANUAL", "192.168.20.44")
    assert second["mac"] != "52:54:00:00:00:01"
    kept = gateway.migration(migration.id)
    assert kept["state"] == "finished"
    assert kept["refs"] == {
        "vcenter_vm": made["vm"]["moid"],
        "vcd_vapp": result["vapp"]["href"],
        "vcd_vm": result["vm"]["href"],
    }
    # it is the same VM: moved, not copied
    (vm,) = vms_of(site, migration.id)
    assert vm["id"] == made["vm"]["moid"]
    for disk, source in zip(site.vcenter.disks_of(vm["id"]), migration.disks, strict=True):
        assert_same_content(disk, source)
    vapp = only_vapp(site, migration)
    assert sorted(vapp["networks"]) == ["acme-db", "acme-web"]


def test_guest_customization_is_off_and_metadata_has_the_id(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage()
    destination.vcenter(migration.id)
    destination.vcd(migration.id)
    vapp = only_vapp(site, migration)
    (vm,) = vapp["vms"]
    assert "coldmig.id" in str(vapp["metadata"])
    assert migration.id in str(vapp["metadata"])
    assert migration.id in str(vm["metadata"])
    assert vm["customization"]["Enabled"] is False


def test_nic_without_an_entry_arrives_disconnected(stage: Stage, destination: Destination) -> None:
    migration = stage(destination={"networks": []})
    destination.vcenter(migration.id)
    nics = destination.vcd(migration.id)["vm"]["nics"]
    assert [(nic["network"], nic["connected"]) for nic in nics] == [(None, False), (None, False)]


def test_network_of_the_source_s_port_group_is_dropped(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage()
    destination.vcenter(migration.id, network="VM Network")
    result = destination.vcd(migration.id)
    assert result.get("failed") is not True, result
    assert list(only_vapp(site, migration)["networks"]) == ["acme-web"]


def test_power_on_is_asked_for_at_the_end(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage(power_on=True)
    destination.vcenter(migration.id)
    result = destination.vcd(migration.id)
    assert result["vm"]["status"] == "powered_on"
    assert vms_of(site, migration.id)[0]["power"] == "poweredOn"


def test_second_run_writes_nothing(site: Site, gateway: Gateway, stage: Stage, destination: Destination) -> None:
    migration = stage()
    destination.vcenter(migration.id)
    first = destination.vcd(migration.id)
    before, audit = writes(site), gateway.events(migration.id)
    second = destination.vcd(migration.id)
    assert second["changed"] is False
    assert second["vm"] == first["vm"]
    assert writes(site) == before
    assert gateway.events(migration.id) == audit


def test_check_mode_looks_everything_up_and_writes_nothing(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage()
    before, audit = writes(site), gateway.events(migration.id)
    planned = destination.vcd(migration.id, check=True)
    assert planned["changed"] is True
    assert planned["vm"]["nics"][0]["network"] == "acme-web"
    destination.vcenter(migration.id)
    audit = gateway.events(migration.id)
    assert destination.vcd(migration.id, check=True)["changed"] is True
    assert writes(site) == before
    assert gateway.events(migration.id) == audit
    assert vapps_of(site, migration.name) == []


def test_vm_can_be_put_into_a_vapp_that_is_there(site: Site, stage: Stage, destination: Destination) -> None:
    host = stage()
    destination.vcenter(host.id)
    destination.vcd(host.id)
    guest = stage(destination={"vapp": host.name})
    destination.vcenter(guest.id)
    result = destination.vcd(guest.id)
    assert result.get("failed") is not True, result
    assert result["vapp"]["name"] == host.name
    assert sorted(vm["name"] for vm in only_vapp(site, host)["vms"]) == sorted([host.name, guest.name])


def test_api_token_of_the_provider_is_enough(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage()
    destination.vcenter(migration.id)
    token = site.state["vcd"]["users"]["administrator"]["api_token"]
    result = destination.vcd(migration.id, vcd_user=None, vcd_password=None, vcd_api_token=token)
    assert result.get("failed") is not True, result


def test_tenant_s_credentials_are_refused_before_anything_is_changed(
    site: Site, gateway: Gateway, untouched: Staged, destination: Destination
) -> None:
    tenant = site.state["vcd"]["organizations"]["acme"]["users"]["acme-admin"]
    before = writes(site)
    failed = destination.vcd(untouched.id, vcd_org="acme", vcd_user="acme-admin", vcd_password=tenant["password"])
    assert failed["failed"] is True
    assert "restricted to system administrators" in failed["msg"]
    assert "'System'" in failed["msg"]
    assert writes(site) == before
    assert gateway.migration(untouched.id)["state"] == "copied"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"vcd_password": "wrong"}, "does not accept user 'administrator' with this password in organization 'System'"),
        ({"vcd_user": None, "vcd_password": None, "vcd_api_token": "x"}, "does not accept the API token"),
        ({"vcd_url": "https://127.0.0.1:1"}, "cannot connect"),
        ({"vcd_url": "http://vcd.example.com"}, "vcd_url: 'http://vcd.example.com' is not valid"),
        ({"vcd_ca_path": None}, "certificate not accepted"),
        ({"vcenter": "vc-9"}, "no vCenter with the name, host name or UUID 'vc-9'; there is 'vcenter-north'"),
        ({"owner": "nobody"}, "owner: organization 'acme' has no user 'nobody'; there are 'acme-admin', 'acme-author'"),
        ({"wait_timeout": 0}, "wait_timeout: 0 is not valid"),
    ],
)
def test_wrong_option_is_named(
    gateway: Gateway, untouched: Staged, destination: Destination, options: dict[str, Any], text: str
) -> None:
    failed = destination.vcd(untouched.id, **options)
    assert failed["failed"] is True
    assert text in failed["msg"]
    assert gateway.migration(untouched.id)["state"] == "copied"


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"vdc": "acme-prod"}, "destination.vdc: organization 'acme' has no VDC 'acme-prod'; there are 'acme-lab'"),
        ({"vdc": "globex-production"}, "destination.vdc: organization 'acme' has no VDC 'globex-production'"),
        ({"storage_profile": "platinum"}, "destination.storage_profile: there is no 'platinum' in VDC"),
        ({"networks": [{"network": "acme-web"}, {"network": "x"}]}, "destination.networks[1].network: there is no 'x'"),
        ({"vapp": "nothing"}, "destination.vapp: there is no vApp 'nothing' in VDC 'acme-production'"),
    ],
)
def test_wrong_destination_is_named_and_can_still_be_corrected(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination, *, wanted: dict[str, Any], text: str
) -> None:
    migration = stage(destination=wanted, sizes=(1,))
    before = writes(site)
    failed = destination.vcd(migration.id, check=True)
    assert failed["failed"] is True
    assert text in failed["msg"]
    assert "globex" not in failed["msg"].replace("'globex-production';", "")
    assert writes(site) == before
    assert gateway.migration(migration.id)["state"] == "copied"


def test_migration_without_a_vm_in_vcenter_is_refused(untouched: Staged, destination: Destination) -> None:
    assert "run vcenter_vm first" in destination.vcd(untouched.id)["msg"]


def test_failed_import_leaves_no_vapp_and_can_be_repeated(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage()
    destination.vcenter(migration.id)
    site.vcd.faults(task_errors={"importSingletonVapp": "Not enough room in the storage profile"}, task_error_times=1)
    failed = destination.vcd(migration.id)
    assert failed["failed"] is True
    assert "importing VM" in failed["msg"]
    assert "Not enough room in the storage profile" in failed["msg"]
    assert vapps_of(site, migration.name) == []
    kept = gateway.migration(migration.id)
    assert (kept["state"], kept["refs"]["vcd_vapp"]) == ("importing", None)
    site.vcd.faults()
    destination.vcenter(migration.id)
    assert destination.vcd(migration.id).get("failed") is not True
    assert gateway.migration(migration.id)["state"] == "finished"


def test_busy_entity_is_waited_for(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage()
    destination.vcenter(migration.id)
    site.vcd.faults(
        refuse=[
            {
                "method": "PUT",
                "path": "networkConnectionSection",
                "status": 400,
                "minor": "BUSY_ENTITY",
                "message": "The entity is busy completing an operation",
                "times": 2,
            }
        ]
    )
    result = destination.vcd(migration.id)
    assert result.get("failed") is not True, result
    assert result["vm"]["nics"][0]["network"] == "acme-web"


def test_failed_configuration_is_continued_by_the_next_run(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage()
    destination.vcenter(migration.id)
    site.vcd.faults(
        refuse=[
            {
                "method": "PUT",
                "path": "guestCustomizationSection",
                "status": 400,
                "minor": "OPERATION_DENIED",
                "message": "something broke",
                "times": 1,
            }
        ]
    )
    failed = destination.vcd(migration.id)
    assert "turning guest customization off" in failed["msg"]
    assert "something broke" in failed["msg"]
    assert failed["vcd_error"] == "OPERATION_DENIED"
    assert failed["vcd_request_id"].startswith("coldmig-")
    imports = [request for request in writes(site) if "importVm" in request["path"]]
    assert destination.vcd(migration.id)["changed"] is True
    assert [request for request in writes(site) if "importVm" in request["path"]] == imports
    assert gateway.migration(migration.id)["state"] == "finished"


def test_import_whose_answer_was_lost_is_found_again(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage()
    destination.vcenter(migration.id)
    site.vcd.faults(lose_answers=[{"method": "POST", "path": "importVmAsVApp", "times": 1}])
    before = len(writes(site))
    result = destination.vcd(migration.id)
    assert result.get("failed") is not True, result
    assert len(vapps_of(site, migration.name)) == 1
    assert len([request for request in writes(site)[before:] if "importVm" in request["path"]]) == 1
    assert gateway.migration(migration.id)["state"] == "finished"


def test_import_of_a_killed_run_is_taken_over(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage()
    destination.vcenter(migration.id)
    site.vcd.settings(task_seconds=5)
    killed = destination.start("vcd_vm", migration.id, claim_seconds=2)
    deadline = time.monotonic() + 30
    while not vapps_of(site, migration.name):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    site.vcd.settings(task_seconds=0.2)
    result = after_the_claim(destination, migration.id)
    assert result.get("failed") is not True, result
    assert len(vapps_of(site, migration.name)) == 1


def test_task_that_does_not_end_is_given_up_and_left_for_the_next_run(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage()
    destination.vcenter(migration.id)
    site.vcd.faults(stuck_tasks=True)
    failed = destination.vcd(migration.id, wait_timeout=3)
    assert "the task is still 'running' after 3 seconds" in failed["msg"]
    assert gateway.migration(migration.id)["state"] == "importing"
    site.vcd.faults()
    assert destination.vcd(migration.id).get("failed") is not True


def test_taken_name_gets_the_migration_s_id_added(site: Site, stage: Stage, destination: Destination) -> None:
    first, second = stage(), stage()
    destination.vcenter(first.id)
    destination.vcd(first.id)
    requests.patch(
        f"{destination.gateway.url}/api/v1/migrations/{second.id}",
        json={"name": first.name},
        headers={"Authorization": f"Bearer {destination.gateway.token}"},
        verify=str(destination.gateway.ca),
        timeout=30,
    ).raise_for_status()
    destination.vcenter(second.id)
    result = destination.vcd(second.id)
    assert result.get("failed") is not True, result
    assert result["vapp"]["name"] == f"{first.name}-{second.id[:8]}"


def test_absent_deletes_vapp_and_vm_even_when_it_runs(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage(power_on=True)
    destination.vcenter(migration.id)
    destination.vcd(migration.id)
    refused = destination.vcenter(migration.id, state="absent")
    assert "belongs to Cloud Director" in refused["msg"]
    assert destination.vcd(migration.id, state="absent", check=True)["changed"] is True
    assert len(vapps_of(site, migration.name)) == 1
    assert destination.vcd(migration.id, state="absent")["changed"] is True
    assert vapps_of(site, migration.name) == []
    assert vms_of(site, migration.id) == []
    assert destination.vcd(migration.id, state="absent")["changed"] is False
    assert gateway.migration(migration.id)["refs"]["vcd_vm"] is None
