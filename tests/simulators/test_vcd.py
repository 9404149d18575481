# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated VCD's refusals and side effects, asked with plain requests as they go over the wire."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from lxml import etree

from simulators.control import ControlError
from simulators.run import Site
from simulators.vcd.schemas import folder as schema_folder

from .conftest import Vcenter, make_vmdk, wait_until

V = "{http://www.vmware.com/vcloud/v1.5}"
X = "{http://www.vmware.com/vcloud/extension/v1.5}"
NAMESPACES = (
    'xmlns="http://www.vmware.com/vcloud/v1.5" xmlns:x="http://www.vmware.com/vcloud/extension/v1.5" '
    'xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
)
IMPORT = "application/vnd.vmware.admin.importVmAsVAppParams+xml"
IMPORT_INTO = "application/vnd.vmware.admin.importVmIntoExistingVAppParams+xml"
IMPORT_VM = "application/vnd.vmware.admin.importVmParams+xml"
NETWORKS = "application/vnd.vmware.vcloud.networkConfigSection+xml"
CONNECTIONS = "application/vnd.vmware.vcloud.networkConnectionSection+xml"
CUSTOMIZATION = "application/vnd.vmware.vcloud.guestCustomizationSection+xml"
METADATA = "application/vnd.vmware.vcloud.metadata+xml"
OWNER = "application/vnd.vmware.vcloud.owner+xml"
UNDEPLOY = "application/vnd.vmware.vcloud.undeployVAppParams+xml"


@dataclass
class Api:
    """One session, one API version."""

    site: Site
    user: str = "administrator"
    org: str = "System"
    version: str = "38.1"
    token: str = ""
    http: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        self.http.trust_env = False  # REQUESTS_CA_BUNDLE would win over verify
        self.http.verify = str(self.site.ca)
        self.url = self.site.state["vcd"]["url"]
        users = self.state["users"] if self.org == "System" else self.state["organizations"][self.org]["users"]
        self.password = users[self.user]["password"]
        if not self.token:
            answer = self.login()
            assert answer.status_code == 200, answer.text
            self.token = answer.headers["X-VMWARE-VCLOUD-ACCESS-TOKEN"]

    @property
    def state(self) -> dict[str, Any]:
        return self.site.state["vcd"]

    def login(self, password: str | None = None, *, provider: bool | None = None) -> requests.Response:
        provider = self.org == "System" if provider is None else provider
        return self.http.post(
            f"{self.url}/cloudapi/1.0.0/sessions{'/provider' if provider else ''}",
            auth=(f"{self.user}@{self.org}", password or self.password),
            headers={"Accept": f"application/json;version={self.version}"},
        )

    def call(
        self, method: str, path: str, body: str | None = None, media: str | None = None, **headers: str
    ) -> requests.Response:
        kind = "json" if path.startswith("/cloudapi") else "*+xml"
        given = {"Accept": f"application/{kind};version={self.version}", "Authorization": f"Bearer {self.token}"}
        if media:
            given["Content-Type"] = media
        url = path if path.startswith("https:") else self.url + path
        return self.http.request(method, url, data=body, headers=given | headers)

    def xml(self, path: str) -> etree._Element:
        answer = self.call("GET", path)
        assert answer.status_code == 200, answer.text
        return etree.fromstring(answer.content)

    def wait(self, answer: requests.Response) -> etree._Element:
        """Wait for the task in an answer (or in the entity's Tasks)."""
        assert answer.status_code in (201, 202), answer.text
        document = etree.fromstring(answer.content)
        task = document if document.tag == f"{V}Task" else document.find(f"{V}Tasks/{V}Task")
        assert task is not None
        href = task.get("href", "")

        def over() -> etree._Element | None:
            current = self.xml(href)
            return current if current.get("status") in ("success", "error", "canceled") else None

        return wait_until(over)

    def vdc(self, name: str = "acme-production") -> dict[str, Any]:
        for org in self.state["organizations"].values():
            if name in org["vdcs"]:
                return org["vdcs"][name]
        raise LookupError(name)

    @property
    def importer(self) -> str:
        return f"/api/admin/extension/vimServer/{self.state['virtual_center_id']}"

    def params(self, moref: str, name: str, **changes: str) -> str:
        """A body for importVmAsVApp; `changes` replace parts of it."""
        attributes = changes.get("attributes", 'deploy="false" powerOn="false" sourceMove="true"')
        profile = self.vdc(changes.get("profile_vdc", "acme-production"))["storage_profiles"]
        profile_id = next(iter(profile.values()))["id"]
        vdc = changes.get("vdc", f'<x:Vdc href="{self.url}/api/vdc/{self.vdc()["id"]}"/>')
        inner = changes.get(
            "inner",
            f"<x:VmName>{name}-vm</x:VmName><x:ComputerName>{changes.get('computer', 'erp-db-01')}</x:ComputerName>"
            f'<x:VmMoRef>{moref}</x:VmMoRef><x:VdcStorageProfile href="{self.url}/api/vdcStorageProfile/{profile_id}"/>'
            f"{vdc}{changes.get('disks', '')}",
        )
        return f'<x:ImportVmAsVAppParams {NAMESPACES} name="{name}" {attributes}>{inner}</x:ImportVmAsVAppParams>'

    def imported(self, moref: str, name: str, **changes: str) -> tuple[str, str]:
        """Import, wait, and give the addresses of vApp and VM."""
        answer = self.call("POST", f"{self.importer}/importVmAsVApp", self.params(moref, name, **changes), IMPORT)
        task = self.wait(answer)
        assert task.get("status") == "success", etree.tostring(task)
        vapp = self.xml(answer.headers["Location"])
        vm = vapp.find(f"{V}Children/{V}Vm")
        assert vm is not None
        return answer.headers["Location"], vm.get("href", "")


@pytest.fixture
def api(site: Site) -> Api:
    return Api(site)


@pytest.fixture
def tenant(site: Site) -> Api:
    return Api(site, "acme-admin", "acme")


@pytest.fixture
def make(vcenter: Vcenter, tmp_path: Path) -> Callable[..., str]:
    """Make a VM in vCenter that VCD knows, and give its moref."""
    vmdk = make_vmdk(tmp_path)

    def vm(nics: int = 0, *, known: bool = True) -> str:
        moref = vcenter.vm(f"src-{uuid.uuid4().hex[:8]}", [vmdk], nics)._moId
        if known:
            time.sleep(0.25)
        return moref

    return vm


def refused(answer: requests.Response, status: int, minor: str) -> str:
    """Check an Error document and give its message."""
    assert answer.status_code == status, answer.text
    error = etree.fromstring(answer.content)
    assert (error.tag, error.get("majorErrorCode"), error.get("minorErrorCode")) == (f"{V}Error", str(status), minor)
    return error.get("message", "")


# versions, sessions


def test_versions_are_listed_without_a_session(site: Site) -> None:
    answer = requests.get(f"{site.state['vcd']['url']}/api/versions", verify=str(site.ca), timeout=10)
    found = etree.fromstring(answer.content).findall(".//{*}Version")
    assert [found[0].text, found[-1].text] == ["36.0", "39.1"]


@pytest.mark.parametrize("accept", ["application/*+xml", "application/*+xml;version=35.0", "text/html;version=38.1"])
def test_accept_that_names_no_served_version_is_refused(api: Api, accept: str) -> None:
    refused(api.call("GET", "/api/org/", Accept=accept), 406, "NOT_ACCEPTABLE")


def test_login_needs_the_right_password_and_the_right_door(api: Api, tenant: Api) -> None:
    assert api.login("wrong").status_code == 401
    assert api.login(provider=False).status_code == 401
    assert tenant.login(provider=True).status_code == 401
    assert api.login("wrong").json()["minorErrorCode"] == "UNAUTHORIZED"


def test_session_tells_who_and_ends(tenant: Api) -> None:
    current = tenant.call("GET", "/cloudapi/1.0.0/sessions/current").json()
    assert (current["org"]["name"], current["roles"]) == ("acme", ["Organization Administrator"])
    assert tenant.call("DELETE", "/cloudapi/1.0.0/sessions/current").status_code == 204
    refused(tenant.call("GET", "/api/session"), 401, "UNAUTHORIZED")


def test_idle_session_expires(api: Api) -> None:
    api.site.vcd.settings(idle_seconds=0.2)
    time.sleep(0.4)
    refused(api.call("GET", "/api/session"), 401, "UNAUTHORIZED")


def test_legacy_logout_is_gone_since_38(site: Site) -> None:
    assert Api(site, version="38.0").call("DELETE", "/api/session").status_code == 405
    assert Api(site, version="37.2").call("DELETE", "/api/session").status_code == 204


def test_api_token_opens_a_session(api: Api, tenant: Api) -> None:
    for client, where, users in (
        (api, "provider", api.state["users"]),
        (tenant, "tenant/acme", api.state["organizations"]["acme"]["users"]),
    ):
        form = {"grant_type": "refresh_token", "refresh_token": users[client.user]["api_token"]}
        accept = {"Accept": "application/json;version=38.1"}
        answer = client.http.post(f"{client.url}/oauth/{where}/token", data=form, headers=accept)
        other = Api(client.site, client.user, client.org, token=answer.json()["access_token"])
        assert other.xml("/api/session").get("org") == client.org
        form["refresh_token"] = "wrong"
        wrong = client.http.post(f"{client.url}/oauth/{where}/token", data=form, headers=accept)
        assert (wrong.status_code, wrong.json()["error"]) == (400, "invalid_grant")


def test_request_id_begins_with_the_clients(api: Api) -> None:
    answer = api.call("GET", "/api/org/", **{"X-VMWARE-VCLOUD-CLIENT-REQUEST-ID": "coldmig-42"})
    assert answer.headers["X-VMWARE-VCLOUD-REQUEST-ID"].startswith("coldmig-42")


# what is there


def test_cloudapi_lists_filter_and_hide(api: Api, tenant: Api) -> None:
    def names(client: Api, path: str) -> list[str]:
        return [value["name"] for value in client.call("GET", f"/cloudapi/1.0.0/{path}").json()["values"]]

    assert names(api, "vdcs") == ["acme-lab", "acme-production", "globex-production"]
    assert names(tenant, "vdcs") == ["acme-lab", "acme-production"]
    assert names(api, "vdcs?filter=name==acme-lab") == ["acme-lab"]
    org = api.state["organizations"]["globex"]["id"]
    assert names(api, f"vdcs?filter=org.id==urn:vcloud:org:{org}") == ["globex-production"]
    vdc = api.vdc()["id"]
    assert names(api, f"orgVdcNetworks?filter=ownerRef.id==urn:vcloud:vdc:{vdc}") == ["acme-db", "acme-web"]
    assert names(tenant, "orgs") == ["acme"]
    page = api.call("GET", "/cloudapi/1.0.0/vdcs?page=2&pageSize=2").json()
    assert (page["resultTotal"], page["pageCount"], len(page["values"])) == (3, 2, 1)
    assert api.call("GET", "/cloudapi/1.0.0/vdcs?pageSize=129").status_code == 400
    assert api.call("GET", "/cloudapi/1.0.0/vdcs?filter=nosuch==x").status_code == 400
    assert tenant.call("GET", "/cloudapi/1.0.0/virtualCenters").status_code == 403
    assert tenant.call("GET", f"/cloudapi/1.0.0/orgs/urn:vcloud:org:{org}").status_code == 403


def test_queries_filter_page_and_check_rights(api: Api, tenant: Api) -> None:
    records = api.xml("/api/query?type=virtualCenter&format=records")
    assert [record.get("name") for record in records] == ["vcenter-north"]
    vdc = f"{api.url}/api/admin/vdc/{api.vdc()['id']}"
    profiles = api.xml(f"/api/query?type=adminOrgVdcStorageProfile&format=records&filter=(vdc=={vdc};name==si*)")
    assert [record.get("name") for record in profiles] == ["silver"]
    first = api.xml("/api/query?type=adminOrgVdc&pageSize=2&sortAsc=name")
    link = first.find(f"{V}Link[@rel='nextPage']")
    assert first.get("total") == "3"
    assert link is not None
    assert [child.get("name") for child in api.xml(link.get("href", "")) if child.tag != f"{V}Link"] == [
        "globex-production"
    ]
    assert {record.get("orgName") for record in tenant.xml("/api/query?type=orgVdc")} == {"acme"}
    refused(tenant.call("GET", "/api/query?type=adminOrgVdc"), 403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN")
    refused(api.call("GET", "/api/query?type=nosuch"), 400, "BAD_REQUEST")
    refused(api.call("GET", "/api/query?type=orgVdc&filter=nosuch==1"), 400, "BAD_REQUEST")
    refused(api.call("GET", "/api/query?type=orgVdc&filter=(name==x"), 400, "BAD_REQUEST")
    refused(api.call("GET", "/api/query?type=adminVApp&filter=metadata:k==plain"), 400, "BAD_REQUEST")


def test_what_belongs_to_others_is_as_if_it_were_not_there(tenant: Api) -> None:
    foreign = tenant.vdc("globex-production")["id"]
    assert refused(tenant.call("GET", f"/api/vdc/{foreign}"), 403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN").replace(
        foreign, "X"
    ) == refused(tenant.call("GET", "/api/vdc/nosuch"), 403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN").replace("nosuch", "X")


@pytest.mark.parametrize("version", ["36.0", "37.1", "39.0"])
def test_every_readable_resource_is_valid_in_every_version(site: Site, version: str, make: Callable[..., str]) -> None:
    """The fixture checks that no answer broke the schema."""
    api = Api(site, version=version)
    vapp, vm = api.imported(make(nics=2), f"readable-{version}")
    org = api.state["organizations"]["acme"]
    vdc = api.vdc()
    network, profile = next(iter(vdc["networks"].values())), next(iter(vdc["storage_profiles"].values()))
    paths = [
        "/api/session", "/api/org/", f"/api/org/{org['id']}", f"/api/admin/org/{org['id']}", f"/api/vdc/{vdc['id']}",
        f"/api/admin/vdc/{vdc['id']}", f"/api/network/{network['id']}", f"/api/vdcStorageProfile/{profile['id']}",
        f"/api/admin/user/{org['users']['acme-admin']['id']}", "/api/admin/extension",
        "/api/admin/extension/vimServerReferences", api.importer, vapp, f"{vapp}/owner", f"{vapp}/metadata",
        f"{vapp}/networkConfigSection/", vm, f"{vm}/networkConnectionSection/", f"{vm}/guestCustomizationSection/",
        f"{vm}/metadata", "/api/query",
    ]  # fmt: skip
    kinds = [link.get("name") for link in api.xml("/api/query").iterfind(f"{V}Link")]
    for path in [*paths, *(f"/api/query?type={kind}" for kind in kinds)]:
        assert api.call("GET", path).status_code == 200, path
    firmware = api.xml(vm).find(f"{V}VmSpecSection/{V}Firmware")
    assert (firmware is not None) == (version != "36.0")
    if not site.vcd.call("GET", "violations")["schemas"]:
        pytest.skip("the VCD schemas are not there (COLDMIG_VCD_SCHEMAS), the documents could not be judged")


# imports


def test_import_makes_a_vapp_first_and_takes_the_vm_over(api: Api, make: Callable[..., str]) -> None:
    moref = make(nics=1)
    answer = api.call("POST", f"{api.importer}/importVmAsVApp", api.params(moref, "taken"), IMPORT)
    assert answer.status_code == 201
    document = etree.fromstring(answer.content)
    assert (document.get("status"), document.find(f"{V}Children")) == ("0", None)
    assert document.find(f"{V}Link[@name='VM Network']") is not None
    task = api.wait(answer)
    assert task.find(f"{V}Organization").get("name") == "acme"
    vapp = next(item for item in api.site.vcd.call("GET", "vapps") if item["name"] == "taken")
    vm = vapp["vms"][0]
    assert (vapp["owner"], vapp["status"], vm["moref"], vm["status"]) == ("system", 8, moref, 8)
    assert vapp["networks"] == {"VM Network": {"fence": "isolated", "parent": None}}
    assert (vm["customization"]["Enabled"], vm["customization"]["ComputerName"]) == (True, "erp-db-01")
    source = api.site.vcenter.vm(moref)
    assert source["managed_by"] == f"urn:vcloud:vm:{vm['id']}"
    listed = api.call(
        "GET",
        f"/cloudapi/1.0.0/virtualCenters/urn:vcloud:vimserver:{api.state['virtual_center_id']}/unmanagedVirtualMachines",
    )
    assert moref not in [item["moRef"] for item in listed.json()["values"]]
    message = refused(
        api.call("POST", f"{api.importer}/importVmAsVApp", api.params(moref, "twice"), IMPORT), 400, "BAD_REQUEST"
    )
    assert "already managed" in message


def test_import_without_attributes_powers_on_as_the_schema_says(api: Api, make: Callable[..., str]) -> None:
    moref = make()
    api.imported(moref, "defaults", attributes='sourceMove="true"')
    assert api.site.vcenter.vm(moref)["power"] == "poweredOn"


def test_import_without_move_copies(api: Api, make: Callable[..., str]) -> None:
    moref = make()
    _, vm = api.imported(moref, "copied", attributes='deploy="false" powerOn="false"')
    copy = api.xml(vm).find(f".//{X}MoRef")
    assert copy is not None
    assert copy.text != moref
    assert api.site.vcenter.vm(moref)["managed_by"] == ""
    assert api.site.vcenter.disks_of(copy.text or "")[0]["sha256"] == api.site.vcenter.disks_of(moref)[0]["sha256"]


def test_vm_is_known_to_vcd_only_after_a_while(api: Api, make: Callable[..., str]) -> None:
    api.site.vcd.settings(inventory_lag=1.0)
    moref = make(known=False)
    path = (
        f"/cloudapi/1.0.0/virtualCenters/urn:vcloud:vimserver:{api.state['virtual_center_id']}/unmanagedVirtualMachines"
    )
    refused(
        api.call("POST", f"{api.importer}/importVmAsVApp", api.params(moref, "early"), IMPORT), 400, "RESOLUTION_ERROR"
    )

    def listed() -> dict[str, Any] | None:
        values = api.call("GET", f"{path}?filter=moRef=={moref}").json()["values"]
        return values[0] if values else None

    assert listed() is None
    item = wait_until(listed)
    assert (item["state"], item["cpuCount"], item["memory"], item["storage"]) == ("OFF", 2, 1024, 16 << 10)
    api.imported(moref, "early")


def test_source_that_is_powered_on_fails_in_the_task(api: Api, make: Callable[..., str]) -> None:
    moref = make()
    api.site.vcenter.call("POST", f"vms/{moref}/power", {"state": "on"})
    answer = api.call("POST", f"{api.importer}/importVmAsVApp", api.params(moref, "running"), IMPORT)
    task = api.wait(answer)
    assert task.get("status") == "error"
    assert "not powered off" in task.find(f"{V}Error").get("message")
    assert api.xml(answer.headers["Location"]).get("status") == "-1"


def test_tenant_may_not_import(tenant: Api, make: Callable[..., str]) -> None:
    answer = tenant.call("POST", f"{tenant.importer}/importVmAsVApp", tenant.params(make(), "forbidden"), IMPORT)
    refused(answer, 403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN")


def test_import_bodies_that_are_wrong_are_refused(api: Api, make: Callable[..., str]) -> None:
    moref = make()
    url = api.url
    vdc = f'<x:Vdc href="{url}/api/vdc/{api.vdc()["id"]}"/>'
    name, ref = "<x:VmName>n</x:VmName>", f"<x:VmMoRef>{moref}</x:VmMoRef>"
    bad = {
        "the VDC before the VM": {"inner": name + vdc + ref},
        "the VDC in the vCloud namespace": {"inner": name + ref + vdc.replace("x:Vdc", "Vdc")},
        "no VDC": {"inner": name + ref},
        "no VM": {"inner": name + vdc},
        "a computer name with a blank": {"computer": "erp db"},
        "a computer name of digits": {"computer": "12345"},
        "another VDC's storage profile": {"profile_vdc": "acme-lab"},
        "a VDC of another cloud": {"vdc": '<x:Vdc href="https://elsewhere.example.test/api/vdc/1"/>'},
        "a disk that is not there": {"disks": '<x:ImportedDisk instanceId="2009"/>'},
        "an attribute that is no boolean": {"attributes": 'sourceMove="maybe"'} if schema_folder() else {"inner": ""},
    }
    for what, changes in bad.items():
        answer = api.call("POST", f"{api.importer}/importVmAsVApp", api.params(moref, "wrong", **changes), IMPORT)
        assert answer.status_code == 400, (what, answer.text)
        refused(answer, 400, "BAD_REQUEST")
    unknown = api.params(moref, "wrong", vdc=f'<x:Vdc href="{url}/api/vdc/{uuid.uuid4()}"/>')
    refused(api.call("POST", f"{api.importer}/importVmAsVApp", unknown, IMPORT), 403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN")
    good = api.params(moref, "wrong")
    refused(api.call("POST", f"{api.importer}/importVmAsVApp", good, "application/xml"), 415, "UNSUPPORTED_MEDIA_TYPE")
    refused(api.call("POST", f"{api.importer}/importVmAsVApp", "<broken", IMPORT), 400, "BAD_REQUEST")
    refused(
        api.call(
            "POST", f"{api.importer}/importVmAsVApp", good.replace("ImportVmAsVAppParams", "ImportVmParams"), IMPORT
        ),
        400,
        "BAD_REQUEST",
    )
    other = api.importer.rsplit("/", 1)[0] + f"/{uuid.uuid4()}/importVmAsVApp"
    refused(api.call("POST", other, good, IMPORT), 403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN")
    assert "wrong" not in [vapp["name"] for vapp in api.site.vcd.call("GET", "vapps")]


def test_name_of_a_vapp_is_taken_once_per_vdc(api: Api, make: Callable[..., str]) -> None:
    api.imported(make(), "unique")
    answer = api.call("POST", f"{api.importer}/importVmAsVApp", api.params(make(), "unique"), IMPORT)
    refused(answer, 400, "DUPLICATE_NAME")


def test_disk_gets_the_storage_profile_of_its_own(api: Api, make: Callable[..., str]) -> None:
    gold = api.vdc()["storage_profiles"]["silver"]["id"]
    disks = (
        f'<x:ImportedDisk instanceId="2000"><x:VdcStorageProfile href="{api.url}/api/vdcStorageProfile/{gold}"/>'
        "</x:ImportedDisk>"
    )
    _, vm = api.imported(make(), "per-disk", disks=disks)
    settings = api.xml(vm).find(f"{V}VmSpecSection/{V}DiskSection/{V}DiskSettings")
    assert settings.find(f"{V}StorageProfile").get("name") == "silver"
    assert settings.find(f"{V}overrideVmDefault").text == "true"
    assert (settings.find(f"{V}SizeMb").text, settings.find(f"{V}AdapterType").text) == ("16", "5")


def test_vm_joins_a_vapp_that_is_there(api: Api, make: Callable[..., str]) -> None:
    vapp, _ = api.imported(make(), "joined")
    moref = make()
    body = (
        f'<x:ImportVmIntoExistingVAppParams {NAMESPACES} sourceMove="true"><x:VmName>second</x:VmName>'
        f'<x:VmDescription>d</x:VmDescription><x:VmMoRef>{moref}</x:VmMoRef><x:VApp href="{vapp}"/>'
        "</x:ImportVmIntoExistingVAppParams>"
    )
    answer = api.call("POST", f"{api.importer}/importVmIntoExistingVApp", body, IMPORT_INTO)
    assert api.wait(answer).get("status") == "success"
    assert [vm.get("name") for vm in api.xml(vapp).iterfind(f"{V}Children/{V}Vm")] == ["joined-vm", "second"]


def test_standalone_vm_hides_its_vapp(api: Api, make: Callable[..., str]) -> None:
    body = (
        f'<x:ImportVmParams {NAMESPACES} sourceMove="true"><x:VmName>alone</x:VmName><x:VmMoRef>{make()}</x:VmMoRef>'
        f'<x:Vdc href="{api.url}/api/vdc/{api.vdc()["id"]}"/></x:ImportVmParams>'
    )
    answer = api.call("POST", f"{api.importer}/importVm", body, IMPORT_VM)
    assert api.wait(answer).get("status") == "success"
    vm = api.xml(answer.headers["Location"])
    assert (vm.get("name"), vm.get("status")) == ("alone", "8")
    parent = api.xml(vm.find(f"{V}Link[@rel='up']").get("href"))
    assert parent.find(f"{V}autoNature").text == "true"


def test_vm_in_a_pool_of_a_vdc_is_discovered_and_can_not_be_imported(
    api: Api, vcenter: Vcenter, tmp_path: Path
) -> None:
    api.site.vcd.settings(discovery_seconds=0.3)
    moref = vcenter.vm("misplaced", [make_vmdk(tmp_path)], pool="acme-lab")._moId
    time.sleep(0.5)
    answer = api.call("POST", f"{api.importer}/importVmAsVApp", api.params(moref, "late"), IMPORT)
    assert "already managed" in refused(answer, 400, "BAD_REQUEST")
    found = next(vapp for vapp in api.site.vcd.call("GET", "vapps") if vapp["name"].startswith("Discovered misplaced"))
    assert (found["owner"], found["vdc"], found["vms"][0]["moref"]) == ("system", "acme-lab", moref)
    api.xml(f"/api/vApp/vapp-{found['id']}")


# after the import


def networks(api: Api, *names: str, extra: str = "") -> str:
    ids = {name: api.vdc()["networks"][name]["id"] for name in names}
    configs = "".join(
        f'<NetworkConfig networkName="{name}"><Configuration>'
        f'<ParentNetwork href="{api.url}/api/network/{ids[name]}"/>'
        "<FenceMode>bridged</FenceMode></Configuration></NetworkConfig>"
        for name in names
    )
    return f"<NetworkConfigSection {NAMESPACES}><ovf:Info>i</ovf:Info>{configs}{extra}</NetworkConfigSection>"


def nic(index: int, network: str, mode: str = "DHCP", *, mac: str = "", ip: str = "", connected: str = "true") -> str:
    return (
        f'<NetworkConnection network="{network}"><NetworkConnectionIndex>{index}</NetworkConnectionIndex>'
        + (f"<IpAddress>{ip}</IpAddress>" if ip else "")
        + f"<IsConnected>{connected}</IsConnected>"
        + (f"<MACAddress>{mac}</MACAddress>" if mac else "")
        + f"<IpAddressAllocationMode>{mode}</IpAddressAllocationMode>"
        + "<NetworkAdapterType>VMXNET3</NetworkAdapterType></NetworkConnection>"
    )


def connections(*nics: str, primary: int = 0) -> str:
    return (
        f"<NetworkConnectionSection {NAMESPACES}><ovf:Info>i</ovf:Info>"
        f"<PrimaryNetworkConnectionIndex>{primary}</PrimaryNetworkConnectionIndex>{''.join(nics)}</NetworkConnectionSection>"
    )


def test_networks_and_adapters_reach_the_vm_in_vcenter(api: Api, make: Callable[..., str]) -> None:
    moref = make(nics=1)
    vapp, vm = api.imported(moref, "wired")
    section = f"{vapp}/networkConfigSection/"
    message = refused(api.call("PUT", section, networks(api, "acme-web"), NETWORKS), 400, "BAD_REQUEST")
    assert "VM Network" in message  # still in use by the NIC that came along
    leftover = (
        '<NetworkConfig networkName="VM Network"><Configuration><IpScopes><IpScope><IsInherited>false</IsInherited>'
        "<Gateway>192.168.254.1</Gateway><Netmask>255.255.255.0</Netmask></IpScope></IpScopes>"
        "<FenceMode>isolated</FenceMode></Configuration></NetworkConfig>"
    )
    api.wait(api.call("PUT", section, networks(api, "acme-web", "acme-db", extra=leftover), NETWORKS))
    nics = connections(
        nic(0, "acme-web", "POOL"), nic(1, "acme-db", "MANUAL", ip="192.168.20.7", mac="00:16:3e:aa:bb:01"),
        nic(2, "none", "NONE", connected="false"), primary=1,
    )  # fmt: skip
    api.wait(api.call("PUT", f"{vm}/networkConnectionSection/", nics, CONNECTIONS))
    api.wait(api.call("PUT", section, networks(api, "acme-web", "acme-db"), NETWORKS))
    found = api.xml(f"{vm}/networkConnectionSection/")
    assert [item.findtext(f"{V}IpAddress") for item in found.iterfind(f"{V}NetworkConnection")] == [
        "192.168.10.100", "192.168.20.7", None,
    ]  # fmt: skip
    assert found.findtext(f"{V}PrimaryNetworkConnectionIndex") == "1"
    cards = api.site.vcenter.vm(moref)["nics"]
    assert [(card["type"], card["network"], card["connected"]) for card in cards] == [
        ("VirtualVmxnet3", "pg-acme-web", True),
        ("VirtualVmxnet3", "pg-acme-db", True),
        ("VirtualVmxnet3", "VM Network", False),
    ]
    assert cards[1]["mac"] == "00:16:3e:aa:bb:01"
    assert cards[0]["mac"].startswith("00:50:56:")
    config = {item.get("networkName") for item in api.xml(section).iterfind(f"{V}NetworkConfig")}
    assert config == {"acme-web", "acme-db", "none"}


def test_wrong_networks_and_adapters_are_refused(api: Api, make: Callable[..., str]) -> None:
    vapp, vm = api.imported(make(), "miswired")
    foreign = api.vdc("globex-production")["networks"]["globex-lan"]["id"]
    own = networks(api, "acme-web")
    other = own.replace(api.vdc()["networks"]["acme-web"]["id"], foreign)
    section = f"{vapp}/networkConfigSection/"
    for what, body in {
        "the network of another VDC": other,
        "no ovf:Info": own.replace("<ovf:Info>i</ovf:Info>", ""),
        "no fence mode": own.replace("<FenceMode>bridged</FenceMode>", ""),
        "an unknown fence mode": own.replace("bridged", "open"),
        "no parent": own.replace("<ParentNetwork", "<Nosuch").replace("</ParentNetwork", "</Nosuch"),
    }.items():
        answer = api.call("PUT", section, body, NETWORKS)
        assert answer.status_code == 400, (what, answer.text)
    api.wait(api.call("PUT", section, own, NETWORKS))
    wrong = {
        "a network that the vApp has not": connections(nic(0, "acme-db")),
        "no ovf:Info": connections(nic(0, "acme-web")).replace("<ovf:Info>i</ovf:Info>", ""),
        "the elements in another order": connections(nic(0, "acme-web"))
        .replace("<IsConnected>true</IsConnected>", "")
        .replace("</NetworkConnection>", "<IsConnected>true</IsConnected></NetworkConnection>"),
        "an unknown mode": connections(nic(0, "acme-web", "AUTO")),
        "no address for MANUAL": connections(nic(0, "acme-web", "MANUAL")),
        "an address outside": connections(nic(0, "acme-web", "MANUAL", ip="10.9.8.7")),
        "one index twice": connections(nic(0, "acme-web"), nic(0, "acme-web")),
        "a primary adapter that is none": connections(nic(0, "acme-web"), primary=3),
        "a MAC that is none": connections(nic(0, "acme-web", mac="00:50:56")),
        "a multicast MAC": connections(nic(0, "acme-web", mac="01:00:5e:00:00:01")),
        "DHCP on none": connections(nic(0, "none")),
        "eleven adapters": connections(*(nic(index, "acme-web") for index in range(11))),
    }
    for what, body in wrong.items():
        answer = api.call("PUT", f"{vm}/networkConnectionSection/", body, CONNECTIONS)
        assert answer.status_code == 400, (what, answer.text)
    taken = connections(nic(0, "acme-web", mac="00:16:3e:aa:bb:02"))
    api.wait(api.call("PUT", f"{vm}/networkConnectionSection/", taken, CONNECTIONS))
    vapp2, vm2 = api.imported(make(), "second-owner")
    api.wait(api.call("PUT", f"{vapp2}/networkConfigSection/", own, NETWORKS))
    message = refused(api.call("PUT", f"{vm2}/networkConnectionSection/", taken, CONNECTIONS), 400, "BAD_REQUEST")
    assert "in use" in message
    api.wait(api.call("POST", f"{vm}/power/action/powerOn"))
    message = refused(
        api.call("PUT", f"{vm}/networkConnectionSection/", taken.replace("bb:02", "bb:03"), CONNECTIONS),
        400,
        "BAD_REQUEST",
    )
    assert "powered off" in message


def test_customization_is_on_until_it_is_turned_off(api: Api, make: Callable[..., str]) -> None:
    _, vm = api.imported(make(), "untouched")
    section = f"{vm}/guestCustomizationSection/"
    assert api.xml(section).findtext(f"{V}Enabled") == "true"
    body = (
        f"<GuestCustomizationSection {NAMESPACES}><ovf:Info>i</ovf:Info><Enabled>false</Enabled>"
        "<ComputerName>erp-db-01</ComputerName></GuestCustomizationSection>"
    )
    swapped = body.replace("<Enabled>false</Enabled>", "").replace(
        "</ComputerName>", "</ComputerName><Enabled>false</Enabled>"
    )
    refused(api.call("PUT", section, swapped, CUSTOMIZATION), 400, "BAD_REQUEST")
    refused(api.call("PUT", section, body.replace("erp-db-01", "erp_db"), CUSTOMIZATION), 400, "BAD_REQUEST")
    api.wait(api.call("PUT", section, body, CUSTOMIZATION))
    assert api.xml(section).findtext(f"{V}Enabled") == "false"
    assert api.xml(vm).get("needsCustomization") == "false"


def test_reconfigure_changes_several_things_in_one_task(api: Api, make: Callable[..., str]) -> None:
    moref = make()
    _, vm = api.imported(moref, "reconfigured")
    body = (
        f'<Vm {NAMESPACES} name="renamed"><Description>new</Description>'
        "<GuestCustomizationSection><ovf:Info>i</ovf:Info><Enabled>false</Enabled><ComputerName>x1</ComputerName></GuestCustomizationSection>"
        '<VmSpecSection Modified="true"><ovf:Info>i</ovf:Info><NumCpus>4</NumCpus>'
        "<NumCoresPerSocket>2</NumCoresPerSocket>"
        "<MemoryResourceMb><Configured>2048</Configured></MemoryResourceMb><HardwareVersion>vmx-19</HardwareVersion>"
        "</VmSpecSection></Vm>"
    )
    api.wait(api.call("POST", f"{vm}/action/reconfigureVm", body, "application/vnd.vmware.vcloud.vm+xml"))
    found = api.xml(vm)
    assert (found.get("name"), found.findtext(f"{V}Description"), found.get("needsCustomization")) == (
        "renamed",
        "new",
        "false",
    )
    view = api.site.vcenter.vm(moref)
    assert (view["cpus"], view["cores_per_socket"], view["memory_mb"]) == (4, 2, 2048)


def test_running_task_makes_the_vapp_and_its_vms_busy(api: Api, make: Callable[..., str]) -> None:
    vapp, vm = api.imported(make(), "busy")
    api.site.vcd.settings(task_seconds=1.0)
    answer = api.call("POST", f"{vm}/power/action/powerOn")
    metadata = (
        f'<Metadata {NAMESPACES}><MetadataEntry><Key>k</Key><TypedValue xsi:type="MetadataStringValue"><Value>v</Value>'
        "</TypedValue></MetadataEntry></Metadata>"
    )
    assert "busy completing an operation vappDeploy" in refused(
        api.call("POST", f"{vapp}/metadata", metadata, METADATA), 400, "BUSY_ENTITY"
    )
    refused(api.call("DELETE", vapp), 400, "BUSY_ENTITY")
    seen = {api.xml(etree.fromstring(answer.content).get("href", "")).get("status")}
    assert seen <= {"queued", "running"}
    assert api.wait(answer).get("status") == "success"
    api.wait(api.call("POST", f"{vapp}/metadata", metadata, METADATA))


def test_power_follows_the_states(api: Api, make: Callable[..., str]) -> None:
    moref = make()
    vapp, vm = api.imported(moref, "powered")
    refused(api.call("POST", f"{vm}/power/action/powerOff"), 400, "BAD_REQUEST")
    api.wait(api.call("POST", f"{vapp}/power/action/powerOn"))
    assert api.site.vcenter.vm(moref)["power"] == "poweredOn"
    assert api.xml(vm).get("status") == "4"
    refused(api.call("POST", f"{vm}/power/action/powerOn"), 400, "BAD_REQUEST")
    refused(api.call("DELETE", vapp), 400, "BAD_REQUEST")
    api.wait(api.call("POST", f"{vm}/power/action/powerOff"))
    refused(api.call("DELETE", vapp), 400, "BAD_REQUEST")  # powered off, but still deployed
    body = f"<UndeployVAppParams {NAMESPACES}><UndeployPowerAction>powerOff</UndeployPowerAction></UndeployVAppParams>"
    api.wait(api.call("POST", f"{vapp}/action/undeploy", body, UNDEPLOY))
    api.wait(api.call("DELETE", vapp))
    refused(api.call("GET", vapp), 403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN")


def test_metadata_is_found_again_and_private_metadata_is_hidden(
    api: Api, tenant: Api, make: Callable[..., str]
) -> None:
    vapp, _ = api.imported(make(), "tagged")
    value = uuid.uuid4().hex
    entries = (
        '<MetadataEntry><Key>coldmig.id</Key><TypedValue xsi:type="MetadataStringValue">'
        f"<Value>{value}</Value></TypedValue></MetadataEntry>"
        '<MetadataEntry><Domain visibility="PRIVATE">SYSTEM</Domain><Key>secret</Key>'
        '<TypedValue xsi:type="MetadataStringValue"><Value>s</Value></TypedValue></MetadataEntry>'
    )
    body = f"<Metadata {NAMESPACES}>{entries}</Metadata>"
    refused(tenant.call("POST", f"{vapp}/metadata", body, METADATA), 403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN")
    refused(
        api.call("POST", f"{vapp}/metadata", body.replace("MetadataStringValue", "String"), METADATA),
        400,
        "BAD_REQUEST",
    )
    api.wait(api.call("POST", f"{vapp}/metadata", body, METADATA))
    for client, kind, keys in ((api, "adminVApp", {"coldmig.id", "secret"}), (tenant, "vApp", {"coldmig.id"})):
        found = client.xml(f"/api/query?type={kind}&filter=metadata:coldmig.id==STRING:{value}")
        assert [record.get("name") for record in found] == ["tagged"]
        assert {key.text for key in client.xml(f"{vapp}/metadata").iter(f"{V}Key")} == keys
    assert len(api.xml(f"/api/query?type=adminVApp&filter=metadata:coldmig.id==STRING:{value}x")) == 0
    assert api.xml(f"{vapp}/metadata/coldmig.id").findtext(f"{V}TypedValue/{V}Value") == value
    api.wait(api.call("DELETE", f"{vapp}/metadata/coldmig.id"))
    refused(api.call("GET", f"{vapp}/metadata/coldmig.id"), 403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN")


def test_owner_makes_a_vapp_visible_to_its_author(api: Api, site: Site, make: Callable[..., str]) -> None:
    vapp, _ = api.imported(make(), "handed-over")
    author = Api(site, "acme-author", "acme")
    refused(author.call("GET", vapp), 403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN")
    users = api.state["organizations"]["acme"]["users"]

    def owner(user: str) -> str:
        return f'<Owner {NAMESPACES}><User href="{api.url}/api/admin/user/{user}"/></Owner>'

    foreign = api.state["organizations"]["globex"]["users"]["globex-admin"]["id"]
    refused(api.call("PUT", f"{vapp}/owner", owner(foreign), OWNER), 403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN")
    assert api.call("PUT", f"{vapp}/owner", owner(users["acme-author"]["id"]), OWNER).status_code == 204
    assert author.xml(vapp).find(f"{V}Owner/{V}User").get("name") == "acme-author"
    refused(
        author.call("PUT", f"{vapp}/owner", owner(users["acme-admin"]["id"]), OWNER),
        403,
        "ACCESS_TO_RESOURCE_IS_FORBIDDEN",
    )


# faults


def test_injected_faults_hit_as_often_as_asked(api: Api, make: Callable[..., str]) -> None:
    control = api.site.vcd
    control.faults(
        refuse=[
            {
                "method": "GET",
                "path": "/api/org/?$",
                "status": 503,
                "minor": "SERVICE_UNAVAILABLE",
                "message": "later",
                "times": 1,
            }
        ]
    )
    assert refused(api.call("GET", "/api/org/"), 503, "SERVICE_UNAVAILABLE") == "later"
    assert api.call("GET", "/api/org/").status_code == 200
    control.faults(unreachable=True)
    with pytest.raises(requests.ConnectionError):
        api.call("GET", "/api/org/")
    moref = make()
    control.faults(lose_answers=[{"method": "POST", "path": "importVmAsVApp", "times": 1}])
    with pytest.raises(requests.ConnectionError):
        api.call("POST", f"{api.importer}/importVmAsVApp", api.params(moref, "lost-answer"), IMPORT)
    wait_until(
        lambda: any(vapp["name"] == "lost-answer" and vapp["status"] == 8 for vapp in control.call("GET", "vapps"))
    )
    control.call("POST", "expire-sessions")
    refused(api.call("GET", "/api/org/"), 401, "UNAUTHORIZED")


def test_stuck_task_can_be_canceled(api: Api, make: Callable[..., str]) -> None:
    _, vm = api.imported(make(), "stuck")
    api.site.vcd.faults(stuck_tasks=True)
    answer = api.call("POST", f"{vm}/power/action/powerOn")
    task = etree.fromstring(answer.content).get("href", "")
    time.sleep(0.5)
    assert api.xml(task).get("status") == "running"
    assert api.call("POST", f"{task}/action/cancel").status_code == 204
    assert api.wait(answer).get("status") in ("success", "canceled")


# calls that go wrong by their number


def test_every_nth_call_is_refused_and_nothing_done(api: Api) -> None:
    api.site.vcd.faults(calls=[{"every": 3, "action": "refuse", "status": 503, "minor": "X", "message": "later"}])
    codes = [api.call("GET", "/api/org/").status_code for _ in range(7)]
    assert codes == [200, 200, 503, 200, 200, 503, 200]
    assert api.site.vcd.call("GET", "faults")["seen"] == [7]


def test_calls_are_counted_by_method_and_path(api: Api) -> None:
    rule = {"at": [2], "methods": ["DELETE"], "path": "sessions", "action": "refuse"}
    api.site.vcd.faults(calls=[rule])
    other = Api(api.site)
    assert api.call("GET", "/cloudapi/1.0.0/sessions/current").status_code == 200
    assert other.call("DELETE", "/cloudapi/1.0.0/sessions/current").status_code == 204
    assert api.call("DELETE", "/cloudapi/1.0.0/sessions/current").status_code == 500
    assert api.call("DELETE", "/cloudapi/1.0.0/sessions/current").status_code == 204


@pytest.mark.parametrize(("action", "done"), [("drop", False), ("lose", True), ("hang", False), ("hang-after", True)])
def test_call_without_an_answer_is_done_or_not(api: Api, action: str, *, done: bool) -> None:
    other = Api(api.site)
    before = len(api.site.vcd.events())
    api.site.vcd.faults(calls=[{"at": [1], "methods": ["DELETE"], "action": action}])
    failed: list[bool] = []

    def ask() -> None:
        try:
            other.call("DELETE", "/cloudapi/1.0.0/sessions/current")
        except requests.ConnectionError:
            failed.append(True)

    asking = threading.Thread(target=ask)
    asking.start()
    detail = api.site.vcd.wait_for_event("call-fault", after=before)["detail"]
    assert (detail["action"], detail["method"]) == (action, "DELETE")
    if action.startswith("hang"):
        assert api.call("GET", "/api/org/").status_code == 200
        assert asking.is_alive()
    api.site.vcd.faults()
    asking.join(10)
    assert failed == [True]
    assert (other.call("GET", "/api/org/").status_code == 401) is done


@pytest.mark.parametrize("rule", [{"action": "refuse"}, {"every": 2, "action": "burn"}, {"each": 2, "action": "drop"}])
def test_rule_that_cannot_be_understood_is_refused(api: Api, rule: dict[str, Any]) -> None:
    with pytest.raises(ControlError, match="calls: "):
        api.site.vcd.faults(calls=[rule])
