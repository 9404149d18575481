# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated VCD through pyvcloud, a client that we did not write."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_bodies as bodies
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_xml import Nic
from lxml import etree

from simulators.run import Site

from .conftest import Vcenter, make_vmdk

pytest.importorskip("pyvcloud", reason="pyvcloud is not installed")

# pyvcloud opens a log file in the current directory when it is imported.
with tempfile.TemporaryDirectory() as elsewhere, contextlib.chdir(elsewhere):
    from pyvcloud.vcd.client import BasicLoginCredentials, Client, MetadataDomain, QueryResultFormat, RelationType
    from pyvcloud.vcd.exceptions import AccessForbiddenException, UnauthorizedException, VcdException
    from pyvcloud.vcd.metadata import Metadata
    from pyvcloud.vcd.org import Org
    from pyvcloud.vcd.platform import Platform
    from pyvcloud.vcd.vapp import VApp
    from pyvcloud.vcd.vdc import VDC
    from pyvcloud.vcd.vm import VM

EXTENSION = "http://www.vmware.com/vcloud/extension/v1.5"
MEDIA = "application/vnd.vmware.admin.importVmAsVAppParams+xml"


def connect(site: Site, org: str, user: str, folder: Path) -> Client:
    state = site.state["vcd"]
    users = state["users"] if org == "System" else state["organizations"][org]["users"]
    client = Client(state["url"], log_file=str(folder / "pyvcloud.log"))
    client.set_credentials(BasicLoginCredentials(user, org, users[user]["password"]))
    return client


@pytest.fixture
def system(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(site.ca))
    client = connect(site, "System", "administrator", tmp_path)
    yield client
    client.logout()


def params(site: Site, moref: str, name: str) -> etree._Element:
    state = site.state["vcd"]
    vdc = state["organizations"]["acme"]["vdcs"]["acme-production"]
    profile = vdc["storage_profiles"]["silver"]["id"]
    return etree.fromstring(
        f'<x:ImportVmAsVAppParams xmlns:x="{EXTENSION}" xmlns="http://www.vmware.com/vcloud/v1.5" name="{name}" '
        'deploy="false" powerOn="false" sourceMove="true"><Description>by a test</Description>'
        f"<x:VmName>{name}-vm</x:VmName><x:ComputerName>erp-db-01</x:ComputerName><x:VmMoRef>{moref}</x:VmMoRef>"
        f'<x:VdcStorageProfile href="{state["url"]}/api/vdcStorageProfile/{profile}"/>'
        f'<x:Vdc href="{state["url"]}/api/vdc/{vdc["id"]}"/></x:ImportVmAsVAppParams>'
    )


def wait(client: Client, task: Any) -> Any:
    return client.get_task_monitor().wait_for_success(task, timeout=20, poll_frequency=0.1)


def test_whole_import_with_power_metadata_and_removal(
    site: Site, system: Client, vcenter: Vcenter, tmp_path: Path
) -> None:
    vm = vcenter.vm("witness", [make_vmdk(tmp_path)], nics=1)
    time.sleep(0.3)  # the inventory's lag
    server = Platform(system).get_vcenter("vcenter-north")
    assert [center.get("name") for center in Platform(system).list_vcenters()] == ["vcenter-north"]
    assert "importVmAsVAppParams" in etree.tostring(server).decode()  # this session may import

    answer = system.post_resource(f"{server.get('href')}/importVmAsVApp", params(site, vm._moId, "witness"), MEDIA)
    assert (answer.get("status"), answer.Tasks.Task.get("operationName")) == ("0", "importSingletonVapp")
    wait(system, answer.Tasks.Task)

    vdc = VDC(system, resource=Org(system, resource=system.get_org_by_name("acme")).get_vdc("acme-production"))
    vapp = VApp(system, resource=vdc.get_vapp("witness"))
    imported = VM(system, resource=vapp.get_vm("witness-vm"))
    assert imported.get_moid() == vm._moId
    assert imported.get_cpus() == {"num_cpus": 2, "num_cores_per_socket": 1}
    assert imported.get_memory() == 1024
    assert site.vcenter.vm(vm._moId)["name"].startswith("witness-vm-")
    assert site.vcenter.vm(vm._moId)["resource_pool"] == "acme-production"

    wait(system, vapp.set_metadata("GENERAL", "READWRITE", "coldmig.id", "4711"))
    query = system.get_typed_query(
        "adminVApp",
        query_result_format=QueryResultFormat.RECORDS,
        equality_filter=("metadata:coldmig.id", "STRING:4711"),
    )
    assert [record.get("name") for record in query.execute()] == ["witness"]

    vapp.reload()
    wait(system, vapp.power_on())
    assert site.vcenter.vm(vm._moId)["power"] == "poweredOn"
    with pytest.raises(VcdException):
        vdc.delete_vapp("witness")
    vapp.reload()
    wait(system, vapp.undeploy())
    assert site.vcenter.vm(vm._moId)["power"] == "poweredOff"
    wait(system, vdc.delete_vapp("witness"))
    with pytest.raises(LookupError):
        site.vcenter.vm(vm._moId)


def test_failed_import_leaves_a_failed_vapp_that_can_be_deleted(
    site: Site, system: Client, vcenter: Vcenter, tmp_path: Path
) -> None:
    vm = vcenter.vm("doomed", [make_vmdk(tmp_path)])
    time.sleep(0.3)
    site.vcd.faults(task_errors={"importSingletonVapp": "the host is out of space"}, task_error_times=1)
    server = Platform(system).get_vcenter("vcenter-north")
    answer = system.post_resource(f"{server.get('href')}/importVmAsVApp", params(site, vm._moId, "doomed"), MEDIA)
    with pytest.raises(VcdException, match="out of space"):
        wait(system, answer.Tasks.Task)
    vapp = system.get_resource(answer.get("href"))
    assert vapp.get("status") == "-1"
    wait(system, system.delete_linked_resource(vapp, RelationType.REMOVE, None))
    assert site.vcenter.vm("doomed")["managed_by"] == ""
    again = system.post_resource(f"{server.get('href')}/importVmAsVApp", params(site, vm._moId, "doomed"), MEDIA)
    wait(system, again.Tasks.Task)


def test_tenant_sees_its_own_and_may_not_import(site: Site, system: Client, vcenter: Vcenter, tmp_path: Path) -> None:
    vm = vcenter.vm("tenants", [make_vmdk(tmp_path)])
    time.sleep(0.3)
    server = Platform(system).get_vcenter("vcenter-north")
    answer = system.post_resource(f"{server.get('href')}/importVmAsVApp", params(site, vm._moId, "tenants"), MEDIA)
    wait(system, answer.Tasks.Task)

    own = connect(site, "acme", "acme-admin", tmp_path)
    other = connect(site, "globex", "globex-admin", tmp_path)
    assert own.get_resource(answer.get("href")).get("name") == "tenants"
    with pytest.raises(AccessForbiddenException):
        other.get_resource(answer.get("href"))
    with pytest.raises(AccessForbiddenException):
        own.post_resource(f"{server.get('href')}/importVmAsVApp", params(site, vm._moId, "again"), MEDIA)


def test_what_we_send_goes_through_another_client(site: Site, system: Client, vcenter: Vcenter, tmp_path: Path) -> None:
    """A vApp for several VMs that pyvcloud makes; two VMs imported with our bodies; what became of it, by pyvcloud."""
    disk = make_vmdk(tmp_path)
    sources = [vcenter.vm(f"several-{number}", [disk, disk])._moId for number in range(2)]
    time.sleep(0.3)
    server = Platform(system).get_vcenter("vcenter-north").get("href")
    url = site.state["vcd"]["url"]
    profiles = site.state["vcd"]["organizations"]["acme"]["vdcs"]["acme-production"]["storage_profiles"]
    gold, silver = (f"{url}/api/vdcStorageProfile/{profiles[name]['id']}" for name in ("gold", "silver"))

    vdc = VDC(system, resource=Org(system, resource=system.get_org_by_name("acme")).get_vdc("acme-production"))
    wait(system, vdc.create_vapp("several", "for many").Tasks.Task)
    vdc.reload()
    vapp = VApp(system, resource=vdc.get_vapp("several"))
    assert vapp.get_resource().get("status") == "1"
    for number, moref in enumerate(sources):
        imported = bodies.Import(f"several-{number}", "host", moref, gold, "by a test", {"2001": silver})
        body = bodies.import_into_vapp(imported, vapp=vapp.get_resource().get("href"))
        into = f"{server}/importVmIntoExistingVApp"
        wait(system, system.post_resource(into, etree.fromstring(body), bodies.MEDIA_IMPORT_INTO_VAPP))
    vapp.reload()
    wait(system, vapp.connect_org_vdc_network("acme-web"))
    vapp.reload()
    vm = VM(system, resource=vapp.get_vm("several-1"))
    href = vm.get_resource().get("href")
    assert vm.list_storage_profile() == [{"name": "gold"}, {"name": "silver"}]

    nics = bodies.network_connections([Nic(0, "acme-web", connected=True, mode="POOL", adapter="VMXNET3")])
    section = f"{href}/networkConnectionSection/"
    wait(system, system.put_resource(section, etree.fromstring(nics), bodies.MEDIA_NETWORK_CONNECTION))
    vm.reload()
    (nic,) = vm.list_nics()
    assert (nic["network"], nic["adapter_type"]) == ("acme-web", "VMXNET3")
    assert nic["ip_address"].startswith("192.168.10.1")  # of the pool; other tests may have taken its first one
    wait(system, vm.add_nic("E1000E", False, True, "acme-web", "DHCP", None))

    entries = bodies.metadata({("SYSTEM", "coldmig.id"): "4711"})
    wait(system, system.post_resource(f"{href}/metadata", etree.fromstring(entries), bodies.MEDIA_METADATA))
    noted = Metadata(system, href=f"{href}/metadata").get_metadata_value("coldmig.id", MetadataDomain.SYSTEM)
    assert noted.TypedValue.Value == 4711
    off = f"{href}/guestCustomizationSection/"
    custom = etree.fromstring(bodies.customization_off("host"))
    wait(system, system.put_resource(off, custom, bodies.MEDIA_CUSTOMIZATION))
    answer = etree.tostring(system.get_resource(href))
    renamed = bodies.reconfigure(answer, name="renamed", description="d", disks={"2000": silver})
    wait(system, system.post_resource(f"{href}/action/reconfigureVm", etree.fromstring(renamed), bodies.MEDIA_VM))
    vm.reload()
    assert (vm.get_resource().get("name"), vm.list_storage_profile()) == ("renamed", [{"name": "silver"}] * 2)
    assert len(vm.list_nics()) == 2

    own = connect(site, "acme", "acme-admin", tmp_path)
    with pytest.raises(AccessForbiddenException):
        own.post_resource(f"{href}/metadata", etree.fromstring(entries), bodies.MEDIA_METADATA)


def test_wrong_password_is_refused(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(site.ca))
    client = Client(site.state["vcd"]["url"], log_file=str(tmp_path / "pyvcloud.log"))
    with pytest.raises((UnauthorizedException, VcdException)):
        client.set_credentials(BasicLoginCredentials("administrator", "System", "wrong"))
