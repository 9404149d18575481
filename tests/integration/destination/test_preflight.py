# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ``preflight``: everything that is in the way at the destination, not the first thing only."""

from __future__ import annotations

from typing import Any

from simulators.run import Site

from .conftest import ORGANIZATION, Destination, Gateway, Provider, Stage, Staged, vms_of

NO_VCD = {
    "vcd_url": None,
    "vcd_user": None,
    "vcd_password": None,
    "vcd_ca_path": None,
    "vcd_vcenter": None,
}
NO_VCENTER = dict.fromkeys(
    ("hostname", "port", "username", "password", "ca_path", "datacenter", "cluster", "resource_pool", "folder"), None
) | {"datastore": None}


def subjects(result: dict[str, Any]) -> dict[str, str]:
    """code and subject of each finding, with its severity."""
    return {f"{found['code']} {found['subject']}": found["severity"] for found in result["findings"]}


def test_sound_destination_has_nothing_in_the_way(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage(sizes=(2,))
    result = destination("preflight", migration.id)
    assert not result.get("failed"), result
    assert (result["passed"], result["checked"]) == (True, ["vcenter", "vcd"])
    assert [found for found in result["findings"] if found["severity"] == "error"] == []
    noted = gateway.migration(migration.id)["checks"]["preflight"]
    assert (noted["passed"], noted["detail"]) == (True, "checked: vcenter, vcd")
    assert vms_of(site, migration.id) == []
    assert gateway.migration(migration.id)["state"] == "copied"


def test_all_that_is_wrong_is_listed_at_once_and_tenants_read_their_part(
    gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    wanted = {"storage_profile": "platinum", "networks": [{"network": "nowhere"}], "owner": "nobody"}
    migration = stage(sizes=(2,), destination=wanted, copied=False)
    result = destination("preflight", migration.id, datastore="store-x", folder="no/such", network="no-net")
    assert result["failed"]
    assert {
        "vcenter-name datastore": "error",
        "vcenter-name folder": "error",
        "vcenter-name network": "error",
        "vcd-name destination.storage_profile": "error",
        "vcd-name destination.networks[0].network": "error",
        "vcd-name destination.owner": "error",
    }.items() <= subjects(result).items()
    assert "datastore: there is no" in result["msg"]
    (store,) = [found for found in result["findings"] if found["subject"] == "datastore"]
    assert "store-x" in store["message"]
    assert destination.site.state["vcenter"]["datastore"] in store["expected"]
    (profile,) = [found for found in result["findings"] if found["subject"] == "destination.storage_profile"]
    assert "platinum" in profile["message"]
    assert profile["expected"].startswith("there")
    noted = gateway.migration(migration.id)["checks"]["preflight"]
    assert not noted["passed"]
    told = " ".join(found["message"] + found["expected"] for found in noted["findings"])
    assert "platinum" in told
    assert "store-x" not in told


def test_one_side_that_refuses_the_account_does_not_hide_the_other(
    stage: Stage, destination: Destination, untouched: Staged
) -> None:
    result = destination("preflight", untouched.id, password="wrong", fail_on="never", record=False)
    assert not result["failed"] if "failed" in result else True
    assert (result["passed"], result["checked"]) == (False, ["vcenter", "vcd"])
    assert subjects(result)["vcenter-account vCenter"] == "error"
    assert not any(found["code"].startswith("vcd") for found in result["findings"])
    alone = destination("preflight", untouched.id, fail_on="never", record=False, vcd_password="wrong", **NO_VCENTER)
    assert alone["checked"] == ["vcd"]
    assert subjects(alone)["vcd-account Cloud Director"] == "error"


def test_template_is_checked_before_any_machine_boots(gateway: Gateway, destination: Destination) -> None:
    body = {
        "name": "before-the-first",
        "organization": ORGANIZATION,
        "destination": {"vdc": "acme-production", "storage_profile": "platinum"},
        "hardware": {"guest_id": "amigaOs64Guest"},
    }
    gateway.call("POST", "/templates", body)
    given = {"template": "before-the-first", "fail_on": "never"}
    result = destination("preflight", "", **given, migration=None)
    assert {"guest-id hardware.guest_id": "error", "vcd-name destination.storage_profile": "error"}.items() <= subjects(
        result
    ).items()
    only = destination("preflight", "", **given, migration=None, **NO_VCD)
    assert only["checked"] == ["vcenter"]


def test_privileges_that_the_account_lacks_are_named(site: Site, destination: Destination, untouched: Staged) -> None:
    site.vcenter.settings(denied=["VApp.Import", "VirtualMachine.State.CreateSnapshot"])
    found = destination("preflight", untouched.id, fail_on="never", record=False)["findings"]
    assert [(one["code"], one["subject"], one["severity"]) for one in found] == [
        ("vcenter-right", "resource pool", "error"),
        ("vcenter-right", "folder", "error"),
    ]
    assert found[0]["message"] == "the account lacks privileges on resource pool 'coldmig-staging': VApp.Import"
    site.vcenter.settings(denied=["VirtualMachine.State.CreateSnapshot", "VirtualMachine.Interact.ConsoleInteract"])
    assert destination("preflight", untouched.id, record=False)["passed"]
    booted = destination("preflight", untouched.id, record=False, test_boot=True, fail_on="never")
    assert {one["message"]: one["severity"] for one in booted["findings"]} == {
        "the account lacks privileges on folder 'coldmig-staging': VirtualMachine.State.CreateSnapshot": "error",
        "the account lacks privileges on folder 'coldmig-staging': VirtualMachine.Interact.ConsoleInteract"
        " (for a picture of the console)": "warning",
    }


def test_no_side_at_all_is_refused(destination: Destination, untouched: Staged) -> None:
    result = destination("preflight", untouched.id, **NO_VCD, **NO_VCENTER)
    assert result["failed"]
    assert "hostname: None is not valid: a vCenter; or vcd_url" in result["msg"]


def test_hardware_version_that_is_not_offered_is_told_by_both_sides(
    destination: Destination, untouched: Staged
) -> None:
    result = destination("preflight", untouched.id, hardware_version="vmx-99", fail_on="never", record=False)
    assert subjects(result).get("hardware-version VDC") == "error", result


def test_playbook_confirm_asks_the_destination_first(gateway: Gateway, stage: Stage, provider: Provider) -> None:
    wrong = stage(sizes=(1,), destination={"storage_profile": "platinum"}, copied=False)
    host = f"{wrong.name}-{wrong.id[:8]}"
    run = provider.start(playbook="confirm", coldmig_confirm=[wrong.id], coldmig_confirm_hosts=host)
    output, _ = run.communicate(timeout=200)
    assert run.returncode != 0
    assert "the destination is not ready" in output, output
    assert "destination.storage_profile: there is no 'platinum'" in output
    assert "TASK [Confirm]" not in output
    assert not gateway.migration(wrong.id)["checks"]["preflight"]["passed"]
