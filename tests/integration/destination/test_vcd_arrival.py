# SPDX-License-Identifier: GPL-3.0-or-later
"""How a VM arrives in Cloud Director: its vApp, its settings, and what goes wrong on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_bodies as bodies
from ansible_collections.cda.coldmig.plugins.module_utils._vcd import Vcd
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_check import check
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_xml import Reference

from simulators.run import Site

from .conftest import Destination, Gateway, Stage, Staged, vapps_of, vms_of
from .test_vcd_vm import after_the_claim

FAULTS = ("refuse", "drop", "lose")


@pytest.fixture(autouse=True)
def settings(site: Site) -> Iterator[None]:
    yield
    site.vcd.settings(
        oldest="36.0", newest="39.1", vm_quota=0, runtime_lease=0, storage_limit_mb=0, standalone_networks="attached"
    )


def vapp_named(site: Site, name: str) -> dict[str, Any]:
    (vapp,) = vapps_of(site, name)
    return vapp


def finished(result: dict[str, Any]) -> dict[str, Any]:
    assert result.get("failed") is not True, result
    return result


def imports(site: Site) -> list[dict[str, Any]]:
    return [r for r in site.vcd.call("GET", "requests") if r["method"] == "POST" and "/importVm" in r["path"]]


def keys_of(site: Site, migration: Staged) -> list[str]:
    (vm,) = vms_of(site, migration.id)
    return [str(disk["key"]) for disk in vm["disks"]]


# --- several VMs in one vApp --------------------------------------------------------------------------------------


def test_runs_side_by_side_put_their_vms_into_one_vapp_that_the_last_one_takes_along(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    shared = {"import_as": "shared", "vapp": "together", "owner": "acme-author", "description": "ERP"}
    nets = ("acme-web", "acme-db", "acme-web")
    migrations = [stage(sizes=(1,), destination={**shared, "networks": [{"network": net}]}) for net in nets]
    for migration in migrations:
        finished(destination.vcenter(migration.id))
    runs = [destination.start("vcd_vm", migration.id) for migration in migrations]
    for run in runs:
        finished(json.loads(run.communicate(timeout=120)[0]))
    vapp = vapp_named(site, "together")
    assert sorted(vm["name"] for vm in vapp["vms"]) == sorted(migration.name for migration in migrations)
    assert sorted(vapp["networks"]) == ["acme-db", "acme-web"]
    assert (vapp["owner"], vapp["metadata"]) == ("acme-author", {"coldmig.vapp": "shared"})
    for migration, net in zip(migrations, nets, strict=True):
        (vm,) = [vm for vm in vapp["vms"] if vm["name"] == migration.name]
        assert vm["nics"][0]["network"] == net
        assert vm["metadata"]["coldmig.id"] == migration.id
        assert vm["metadata_domains"]["coldmig.id"] == "SYSTEM"
        assert vm["description"] == "ERP"
    for number, migration in enumerate(migrations):
        assert len(vapp_named(site, "together")["vms"]) == len(migrations) - number
        finished(destination.vcd(migration.id, state="absent"))
    assert vapps_of(site, "together") == []


def test_failed_import_into_a_new_shared_vapp_leaves_nothing(
    site: Site, stage: Stage, destination: Destination
) -> None:
    migration = stage(sizes=(1,), destination={"import_as": "shared", "vapp": "app-{id}-{template}"})
    finished(destination.vcenter(migration.id))
    message = {"message": "no room on datastore-1 of esx-07", "tenant": "not enough room"}
    site.vcd.faults(task_errors={"importIntoExistingVapp": message}, task_error_times=1)
    failed = destination.vcd(migration.id)
    assert "no room on datastore-1 of esx-07" in failed["msg"]
    assert failed["tenant_msg"].startswith("not enough room")
    assert vapps_of(site, f"app-{migration.id[:8]}") == []
    made = finished(destination.vcd(migration.id))
    assert made["vapp"]["name"].startswith(f"app-{migration.id[:8]}-t-")


def test_vapp_of_a_run_that_ended_before_its_vm_is_used_by_the_next_and_can_be_removed(
    site: Site, stage: Stage, destination: Destination
) -> None:
    wanted = {"import_as": "shared", "vapp": "half-{id}", "owner": "acme-author"}
    migrations = [stage(sizes=(1,), destination=wanted) for _ in range(2)]
    for migration in migrations:
        finished(destination.vcenter(migration.id))
        # made, but the run ends before it has noted by whom
        site.vcd.faults(calls=[{"at": [1], "methods": ["POST"], "path": "/metadata$", "action": "hang"}])
        before = len(site.vcd.events())
        run = destination.start("vcd_vm", migration.id, claim_seconds=2)
        site.vcd.wait_for_event("call-fault", after=before)
        run.kill()
        run.communicate()
        site.vcd.faults()
    first, second = (f"half-{migration.id[:8]}" for migration in migrations)
    finished(after_the_claim(destination, migrations[0].id))
    assert (vapp_named(site, first)["owner"], len(vapp_named(site, first)["vms"])) == ("acme-author", 1)
    assert destination.vcd(migrations[1].id, state="absent", check=True)["changed"] is True
    assert vapp_named(site, second)["vms"] == []
    assert destination.vcd(migrations[1].id, state="absent")["changed"] is True
    assert vapps_of(site, second) == []
    assert destination.vcd(migrations[1].id, state="absent")["changed"] is False


def test_vapp_that_was_there_keeps_its_own_networks_and_loses_what_the_import_brought(
    site: Site, stage: Stage, destination: Destination
) -> None:
    host = stage(sizes=(1,), destination={"networks": [{"network": "acme-db"}]})
    finished(destination.vcenter(host.id))
    attach(destination, finished(destination.vcd(host.id))["vapp"]["href"], "acme-stretched")
    guest = stage(sizes=(1,), destination={"import_as": "existing", "vapp": host.name})
    finished(destination.vcenter(guest.id, network="VM Network"))
    finished(destination.vcd(guest.id))
    vapp = vapp_named(site, host.name)
    assert sorted(vapp["networks"]) == ["acme-db", "acme-stretched", "acme-web"]
    assert len(vapp["vms"]) == 2
    finished(destination.vcd(guest.id, state="absent"))
    assert [vm["name"] for vm in vapp_named(site, host.name)["vms"]] == [host.name]


# --- without a vApp -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("networks", ["attached", "asked"])
def test_standalone_vm_has_no_vapp_that_anybody_sees(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination, networks: str
) -> None:
    site.vcd.settings(standalone_networks=networks)
    migration = stage(
        sizes=(1,), destination={"import_as": "standalone", "description": "alone", "owner": "acme-admin"}
    )
    finished(destination.vcenter(migration.id))
    assert destination.vcd(migration.id, check=True)["vapp"]["name"] is None
    result = finished(destination.vcd(migration.id))
    assert result["vm"]["nics"][0]["network"] == "acme-web"
    vapp = vapp_named(site, migration.name)
    assert (vapp["auto_nature"], vapp["owner"], vapp["vms"][0]["description"]) == (True, "acme-admin", "alone")
    assert "acme-web" in vapp["networks"]
    assert gateway.migration(migration.id)["state"] == "finished"
    finished(destination.vcd(migration.id, state="absent"))
    assert vapps_of(site, migration.name) == []


def test_failed_standalone_import_leaves_nothing(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage(sizes=(1,), destination={"import_as": "standalone"})
    finished(destination.vcenter(migration.id))
    site.vcd.faults(task_errors={"importVm": "no"}, task_error_times=1)
    assert "importing VM" in destination.vcd(migration.id)["msg"]
    assert vapps_of(site, migration.name) == []
    finished(destination.vcd(migration.id))


# --- what the VM gets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_keys", [True, False], ids=["in the import", "after it"])
def test_disks_settings_and_texts_are_as_the_destination_says(
    site: Site, stage: Stage, destination: Destination, *, with_keys: bool
) -> None:
    migration = stage(
        sizes=(2, 1),
        guest={"hostname": "db.acme.example"},
        destination={
            "storage_profile": "gold",
            "disks": [{}, {"storage_profile": "silver"}],
            "import_as": "vapp",
            "vapp": "{name}-vapp",
            "description": "database",
            "owner": "acme-author",
            "metadata": {"cost center": "4711"},
            "networks": [{"network": "none"}, {"network": "acme-stretched", "ip_mode": "POOL", "adapter": "e1000e"}],
        },
    )
    finished(destination.vcenter(migration.id))
    keys = keys_of(site, migration)
    result = finished(destination.vcd(migration.id, disk_keys=keys if with_keys else None))
    assert ("ImportedDisk" in imports(site)[-1]["body"]) is with_keys
    vapp = vapp_named(site, f"{migration.name}-vapp")
    (vm,) = vapp["vms"]
    assert (vm["storage_profile"], vm["disk_profiles"]) == ("gold", {keys[1]: "silver"})
    assert (vapp["description"], vm["description"], vapp["owner"]) == ("database", "database", "acme-author")
    assert vm["metadata"]["cost center"] == "4711"
    assert vm["metadata_domains"] == {"coldmig.id": "SYSTEM", "cost center": "GENERAL"}
    assert vm["sizing_policy"] == "as imported"
    assert vm["customization"]["ComputerName"] == "db"
    first, second = result["vm"]["nics"]
    assert (first["network"], first["connected"], first["adapter"]) == (None, False, "VMXNET3")
    # a network of a data center group, which the VDC does not list
    assert (second["network"], second["adapter"]) == ("acme-stretched", "E1000E")
    assert second["ip"].startswith("192.168.30.1")


def test_all_wrong_names_can_be_told_and_the_first_one_fails_the_run(
    site: Site, stage: Stage, destination: Destination
) -> None:
    wanted = {"owner": "nobody", "disks": [{"storage_profile": "x"}], "networks": [{"network": "y"}]}
    migration = stage(sizes=(1,), destination=wanted)
    failed = destination.vcd(migration.id, check=True)
    assert "destination.disks[0].storage_profile: there is no 'x' in VDC" in failed["msg"]
    assert failed["tenant_msg"] == failed["msg"]


def test_quota_is_told_to_tenants_in_their_words(site: Site, stage: Stage, destination: Destination) -> None:
    migration = stage(sizes=(2,))
    finished(destination.vcenter(migration.id))
    site.vcd.settings(storage_limit_mb=1)
    failed = destination.vcd(migration.id)
    assert failed["vcd_error"] == "STORAGE_QUOTA_EXCEEDED"
    assert "no room for 2 MB on vcenter-north" in failed["msg"]
    assert failed["tenant_msg"].startswith("The storage profile gold has no room for 2 MB. [request coldmig-")
    assert vapps_of(site, migration.name) == []


# --- looking before the first byte --------------------------------------------------------------------------------


def session(destination: Destination, **account: Any) -> Vcd:
    """Cloud Director with the account of the tests."""
    given = {"vcd_org": "System", "vcd_api_token": None, "vcd_service_account_path": None, "vcd_validate_certs": True}
    return Vcd.from_options({**given, **destination._vcd(), **account})


def attach(destination: Destination, vapp: str, network: str) -> None:
    """A network of the vApp that nothing uses yet."""
    groups = destination.site.state["vcd"]["organizations"]["acme"]["groups"]
    href = f"{vapp}/networkConfigSection/"
    with session(destination) as vcd:
        added = Reference(network, f"{vcd.url}/api/network/{groups['acme-group']['networks'][network]['id']}")
        body = bodies.change_vapp_networks(vcd.api("GET", href, what="reading"), add=[added])
        vcd.run("PUT", href, what="attaching", media=bodies.MEDIA_NETWORK_CONFIG, body=body, timeout=30)


def findings(destination: Destination, migration: Staged, **options: Any) -> list[tuple[str, str, str]]:
    """(code, message, text for tenants) of all that is in the way, asked with the account of the tests."""
    with session(destination, **options.pop("account", {})) as vcd:
        found = check(vcd, destination.gateway.migration(migration.id), **options)
    return [(one.code, one.message, one.tenant) for one in found]


def test_everything_in_the_way_is_found_at_once(site: Site, stage: Stage, destination: Destination) -> None:
    networks = [
        {"network": "acme-web", "ip_mode": "MANUAL", "ip": "192.168.99.7", "keep_mac": True},
        {"network": "acme-db", "keep_mac": True},
    ]
    good = stage(sizes=(3,))
    bad = stage(sizes=(3,), destination={"networks": networks})
    assert findings(destination, good, vcenter="vcenter-north", hardware_version="vmx-19") == []
    site.vcd.settings(storage_limit_mb=2)
    found = findings(destination, bad, vcenter="vcenter-south", hardware_version="vmx-99")
    codes = ["vcd-vcenter", "hardware-version", "storage-limit", "address"]
    assert [code for code, _message, _tenant in found] == codes
    texts = {code: (message, tenant) for code, message, tenant in found}
    assert "there is 'vcenter-north'" in texts["vcd-vcenter"][0]
    assert "vcenter" not in texts["vcd-vcenter"][1]
    assert "offers vmx-13" in texts["hardware-version"][0]
    assert "MiB left of 2, and the disks need 3" in texts["storage-limit"][0]
    assert "192.168.99.7 is not in network 'acme-web', which is 192.168.10.1/" in texts["address"][1]


def test_all_wrong_names_and_a_tenant_s_account_are_found(site: Site, stage: Stage, destination: Destination) -> None:
    wanted = {"owner": "nobody", "storage_profile": "x", "networks": [{"network": "y"}, {"network": "none"}]}
    migration = stage(sizes=(1,), destination=wanted)
    found = findings(destination, migration, vcenter="vcenter-north")
    assert [code for code, _message, _tenant in found] == ["vcd-name"] * 3
    assert all(message == tenant for _code, message, tenant in found)
    acme = site.state["vcd"]["organizations"]["acme"]["users"]["acme-admin"]
    account = {"vcd_org": "acme", "vcd_user": "acme-admin", "vcd_password": acme["password"]}
    (only,) = findings(destination, migration, account=account)
    assert only[0] == "vcd-account"
    assert "restricted to system administrators" in only[1]


# --- sessions and versions ----------------------------------------------------------------------------------------


def test_service_account_s_token_is_renewed_and_its_session_shared(
    site: Site, stage: Stage, destination: Destination, tmp_path: Path
) -> None:
    first = site.state["vcd"]["users"]["coldmig-runner"]["service_token"]
    file = tmp_path / "account.json"
    file.write_text(json.dumps({"token_type": "Service Account", "refresh_token": first}))
    account = {"vcd_user": None, "vcd_password": None, "vcd_service_account_path": str(file)}
    migration = stage(sizes=(1,))
    finished(destination.vcenter(migration.id))
    runs = [destination.start("vcd_vm", migration.id, check=True, **account) for _ in range(2)]
    for run in runs:
        finished(json.loads(run.communicate(timeout=60)[0]))
    renewed = json.loads(file.read_text())["refresh_token"]
    assert renewed != first
    assert file.stat().st_mode & 0o777 == 0o600
    site.vcd.call("POST", "expire-sessions")
    site.vcd.settings(runtime_lease=7 * 86400)
    (warning,) = finished(destination.vcd(migration.id, **account))["warnings"]
    assert "7 days after its start, because the organization 'acme' has a runtime lease" in str(warning)
    assert json.loads(file.read_text())["refresh_token"] not in (first, renewed)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".account.json.lock", "account.json"]


@pytest.mark.parametrize(("newest", "spoken"), [("36.0", "36.0"), ("38.1", "38.1")])
def test_newest_common_version_is_spoken_and_no_removed_login_used(
    site: Site, stage: Stage, destination: Destination, *, newest: str, spoken: str
) -> None:
    site.vcd.settings(newest=newest)
    migration = stage(sizes=(1,))
    finished(destination.vcenter(migration.id))
    before = len(site.vcd.call("GET", "requests"))
    finished(destination.vcd(migration.id))
    asked = site.vcd.call("GET", "requests")[before:]
    assert {request["version"] for request in asked if request["path"] != "/api/versions"} == {spoken}
    assert not [r for r in asked if r["path"] in ("/api/sessions", "/api/login", "/api/session")]


# --- everything that can happen between two machines --------------------------------------------------------------


@pytest.mark.parametrize(("arrive", "vapp"), [("shared", "lost"), ("standalone", None)])
def test_import_whose_answer_was_lost_is_not_sent_again(
    site: Site, stage: Stage, destination: Destination, *, arrive: str, vapp: str | None
) -> None:
    migration = stage(sizes=(1,), destination={"import_as": arrive, "vapp": vapp})
    finished(destination.vcenter(migration.id))
    before = len(imports(site))
    site.vcd.faults(calls=[{"at": [1], "methods": ["POST"], "path": "/importVm", "action": "lose"}])
    finished(destination.vcd(migration.id))
    assert len(imports(site)) == before + 1
    assert len(vapp_named(site, vapp or migration.name)["vms"]) == 1


@pytest.mark.long
@pytest.mark.parametrize("arrive", ["vapp", "shared", "standalone"])
def test_every_seventh_call_failing_stops_no_run_and_makes_nothing_twice(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination, arrive: str
) -> None:
    names = {"shared": {"vapp": "seventh"}}
    migration = stage(sizes=(1,), power_on=True, destination={"import_as": arrive, **names.get(arrive, {})})
    finished(destination.vcenter(migration.id))
    # the rules count the same calls: 7 is refused, 14 dropped, the answer to 21 lost, and so on
    turns = [(list(range(7 * number, 2000, 7 * len(FAULTS))), action) for number, action in enumerate(FAULTS, 1)]
    site.vcd.faults(calls=[{"at": at, "action": action} for at, action in turns])
    result = finished(destination.vcd(migration.id))
    site.vcd.faults()
    assert result["vm"]["status"] == "powered_on"
    assert len(vms_of(site, migration.id)) == 1
    vapp = vapp_named(site, "seventh" if arrive == "shared" else migration.name)
    assert len(vapp["vms"]) == 1
    assert gateway.migration(migration.id)["state"] == "finished"
