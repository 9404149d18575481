# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from simulators.run import Site

from .conftest import Destination, Gateway, Stage, Staged, vms_of

QUICK = {"timeout": 4, "without_tools": 3}


@pytest.fixture
def imported(site: Site, stage: Stage, destination: Destination) -> Staged:
    """A VM in vCenter, with NICs."""
    migration = stage(sizes=(1,))
    assert destination.vcenter(migration.id, network="VM Network")["changed"] is True
    return migration


def power(site: Site, vm: dict[str, Any]) -> list[dict[str, Any]]:
    return [event["detail"] for event in site.vcenter.events("power") if event["vm"] == vm["id"]]


def as_imported(site: Site, migration: Staged) -> dict[str, Any]:
    """The VM is off, has no snapshot, and nothing on its disks was changed."""
    (vm,) = vms_of(site, migration.id)
    assert (vm["power"], vm["snapshots"], vm["written"]) == ("poweredOff", 0, False)
    return vm


def test_heartbeat_is_a_sign_of_life(
    site: Site, gateway: Gateway, imported: Staged, destination: Destination, tmp_path: Path
) -> None:
    site.vcenter.settings(boots={"heartbeat_seconds": 0.5})
    picture = tmp_path / "console.png"
    result = destination("vcenter_test_boot", imported.id, screenshot=str(picture), **QUICK)
    assert (result["test_boot"]["passed"], result["test_boot"]["sign"]) == (True, "heartbeat"), result
    assert picture.read_bytes().startswith(b"\x89PNG")
    vm = as_imported(site, imported)
    assert power(site, vm)[0] == {"state": "on", "connected": 0}
    assert len(vm["nics"]) == 2
    noted = gateway.migration(imported.id)["checks"]["test-boot"]
    assert (noted["passed"], noted["detail"]) == (True, result["test_boot"]["detail"])


def test_result_is_kept_and_the_vm_not_booted_again(site: Site, imported: Staged, destination: Destination) -> None:
    site.vcenter.settings(boots={"heartbeat_seconds": 0.1})
    first = destination("vcenter_test_boot", imported.id, **QUICK)
    (vm,) = vms_of(site, imported.id)
    boots = len(power(site, vm))
    second = destination("vcenter_test_boot", imported.id, **QUICK)
    assert second["changed"] is False
    assert second["test_boot"] == first["test_boot"]
    assert len(power(site, vm)) == boots
    assert destination("vcenter_test_boot", imported.id, again=True, **QUICK)["changed"] is True
    assert len(power(site, vm)) > boots


def test_system_without_tools_has_to_run_for_a_while(site: Site, imported: Staged, destination: Destination) -> None:
    site.vcenter.settings(boots={"no_screen": True})
    result = destination("vcenter_test_boot", imported.id, **QUICK)["test_boot"]
    assert (result["passed"], result["sign"]) == (True, "running")
    assert result["seconds"] >= 3
    as_imported(site, imported)


@pytest.mark.parametrize(
    ("boots", "text"),
    [
        ({"powers_off_seconds": 0.5}, "the VM powered itself off within"),
        ({"heartbeat_seconds": 0.1, "crashes": True}, "its kernel crashed"),
    ],
)
def test_no_sign_of_life_fails_and_leaves_the_vm_as_it_was(
    site: Site, imported: Staged, destination: Destination, boots: dict[str, Any], text: str
) -> None:
    site.vcenter.settings(boots=boots)
    result = destination("vcenter_test_boot", imported.id, **QUICK)
    assert result["failed"] is True
    assert text in result["msg"]
    assert result["test_boot"]["sign"] == "none"
    as_imported(site, imported)
    assert destination("vcenter_test_boot", imported.id, required=False, **QUICK).get("failed", False) is False


@pytest.mark.parametrize("action", ["refuse", "lose"])
def test_every_third_call_may_fail(site: Site, imported: Staged, destination: Destination, action: str) -> None:
    site.vcenter.settings(boots={"heartbeat_seconds": 0.1})
    site.vcenter.faults(calls=[{"every": 3, "action": action}])
    result = destination("vcenter_test_boot", imported.id, **QUICK)
    site.vcenter.faults()
    assert result["test_boot"]["sign"] == "heartbeat", result
    as_imported(site, imported)


def test_killed_run_is_put_right_by_the_next(site: Site, imported: Staged, destination: Destination) -> None:
    before = len(site.vcenter.events())
    killed = destination.start("vcenter_test_boot", imported.id, timeout=100, without_tools=100, claim_seconds=2)
    site.vcenter.wait_for_event("power", after=before)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(2.5)  # until the gateway lets go of it
    (vm,) = vms_of(site, imported.id)
    assert (vm["power"], vm["snapshots"], vm["written"]) == ("poweredOn", 1, True)
    site.vcenter.settings(boots={"heartbeat_seconds": 0.1})
    assert destination("vcenter_test_boot", imported.id, **QUICK)["test_boot"]["passed"] is True
    as_imported(site, imported)


def test_vm_that_somebody_else_runs_is_left_alone(site: Site, imported: Staged, destination: Destination) -> None:
    (vm,) = vms_of(site, imported.id)
    site.vcenter.call("POST", f"vms/{vm['id']}/power", {"state": "on"})
    assert "is powered on, and not by a test boot" in destination("vcenter_test_boot", imported.id, **QUICK)["msg"]
    site.vcenter.call("POST", f"vms/{vm['id']}/power", {"state": "off"})


def test_vm_that_is_not_there_cannot_be_booted(untouched: Staged, destination: Destination) -> None:
    assert "has no complete VM of migration" in destination("vcenter_test_boot", untouched.id)["msg"]
