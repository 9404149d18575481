# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_bodies as vb
from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_xml as vx

REPOSITORY = Path(__file__).resolve().parents[8]
SCHEMAS = Path(os.environ.get("COLDMIG_VCD_SCHEMAS", REPOSITORY.parent / "shared" / "vcd-schemas"))

EXTERNAL = {
    "http://www.w3.org/2001/xml.xsd": "xml.xsd",
    "http://schemas.dmtf.org/ovf/envelope/1/dsp8023_1.1.0.xsd": "ovf1.1/dsp8023_1.1.0.xsd",
    "http://schemas.dmtf.org/wbem/wscim/1/common.xsd": "ovf1.1/common.xsd",
    "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2.22.0/CIM_VirtualSystemSettingData.xsd": (
        "ovf1.1/CIM_VirtualSystemSettingData.xsd"
    ),
    "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2.22.0/CIM_ResourceAllocationSettingData.xsd": (
        "ovf1.1/CIM_ResourceAllocationSettingData.xsd"
    ),
    "http://schemas.dmtf.org/ovf/environment/1/dsp8027_1.1.0.xsd": "ovf1.1/dsp8027_1.1.0.xsd",
    "http://www.vmware.com/schema/ovf.xsd": "ovf1.1/ovf-vmware.xsd",
}


NEWER = ("ComputePolicy", "IpType")


@functools.cache
def _schema() -> Any:
    main = SCHEMAS / "1.5" / "schemas" / "extension" / "vmwextensions.xsd"
    if not main.is_file():
        return None
    from lxml import etree

    class Resolver(etree.Resolver):
        def resolve(self, system_url: str, public_id: str, context: object) -> object:
            if system_url in EXTERNAL:
                return self.resolve_filename(str(SCHEMAS / "schemas" / "external" / EXTERNAL[system_url]), context)
            return None

    parser = etree.XMLParser(no_network=True)
    parser.resolvers.add(Resolver())
    return etree.XMLSchema(etree.parse(str(main), parser))


def check(body: bytes) -> None:
    schema = _schema()
    if schema is None:
        pytest.skip(f"VCD schemas are absent at {SCHEMAS} (set COLDMIG_VCD_SCHEMAS)")
    from lxml import etree

    document = etree.fromstring(body)
    for newer in NEWER:  # than the schemas, which are those of 9.1
        for element in document.iterfind(f".//{{http://www.vmware.com/vcloud/v1.5}}{newer}"):
            element.getparent().remove(element)
    schema.assertValid(document)


IMPORT = vb.Import(
    vm_name="erp-db-01",
    computer_name="erp-db-01",
    moref="vm-42",
    storage_profile="https://vcd/api/vdcStorageProfile/2",
    description="a < b & c",
    disks={"2001": "https://vcd/api/vdcStorageProfile/3", "16000": "https://vcd/api/vdcStorageProfile/4"},
)
PLAIN = vb.Import("erp-db-01", "erp-db-01", "vm-42", None, "")
VDC = "https://vcd/api/vdc/1"
NICS = (
    vx.Nic(0, "prod", connected=True, mode="MANUAL", ip="10.0.0.7", mac="52:54:00:00:00:01", adapter="VMXNET3"),
    vx.Nic(1),
)
SECTION = b"""<NetworkConfigSection xmlns="http://www.vmware.com/vcloud/v1.5"
  xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" ovf:required="false" href="https://vcd/x" type="t">
  <ovf:Info>i</ovf:Info><Link rel="edit" href="https://vcd/x" type="t"/>
  <NetworkConfig networkName="VM Network"><Link rel="repair" href="https://vcd/r"/><Description/>
    <Configuration><FenceMode>isolated</FenceMode></Configuration><IsDeployed>false</IsDeployed></NetworkConfig>
</NetworkConfigSection>"""

VM = b"""<Vm xmlns="http://www.vmware.com/vcloud/v1.5" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" name="old"
 href="https://vcd/api/vApp/vm-1" status="8"><Link rel="up" href="https://vcd/api/vApp/vapp-1"
  type="application/vnd.vmware.vcloud.vApp+xml"/><Description>d</Description>
 <VmSpecSection Modified="false"><ovf:Info>spec</ovf:Info><NumCpus>2</NumCpus><MediaSection/>
  <DiskSection>
   <DiskSettings><DiskId>2001</DiskId><SizeMb>10</SizeMb><UnitNumber>1</UnitNumber><BusNumber>0</BusNumber>
    <AdapterType>5</AdapterType><ThinProvisioned>true</ThinProvisioned></DiskSettings>
   <DiskSettings><DiskId>2000</DiskId><SizeMb>20</SizeMb><UnitNumber>0</UnitNumber><BusNumber>0</BusNumber>
    <AdapterType>5</AdapterType><ThinProvisioned>true</ThinProvisioned>
    <StorageProfile href="https://vcd/api/vdcStorageProfile/2" name="gold"/><overrideVmDefault>false</overrideVmDefault>
   </DiskSettings>
  </DiskSection><HardwareVersion>vmx-19</HardwareVersion></VmSpecSection>
 <StorageProfile href="https://vcd/api/vdcStorageProfile/2" name="gold"/>
 <ComputePolicy><Link rel="down" href="https://vcd/x"/><VmSizingPolicy href="https://vcd/s/1" name="large"/>
 </ComputePolicy>
</Vm>"""

BODIES = {
    "import as vApp": vb.import_as_vapp(IMPORT, name="erp", vdc=VDC),
    "import as vApp, plain": vb.import_as_vapp(PLAIN, name="erp", vdc=VDC),
    "import into vApp": vb.import_into_vapp(IMPORT, vapp="https://vcd/api/vApp/1"),
    "import into vApp, plain": vb.import_into_vapp(PLAIN, vapp="https://vcd/api/vApp/1"),
    "import standalone": vb.import_standalone(IMPORT, vdc=VDC),
    "import standalone, plain": vb.import_standalone(PLAIN, vdc=VDC),
    "compose": vb.compose_empty("erp", "several"),
    "describe vApp": vb.describe_vapp("erp", "text"),
    "reconfigure": vb.reconfigure(VM, name="new", description="text", storage_profile="https://vcd/p/1"),
    "reconfigure disks": vb.reconfigure(VM, name="n", description="", disks={"2001": "https://vcd/p/9"}),
    "network connections": vb.network_connections(NICS),
    "no network connections": vb.network_connections(()),
    "customization off": vb.customization_off("erp-db-01"),
    "metadata": vb.metadata({("SYSTEM", "coldmig.id"): "4f6c", ("GENERAL", "cost"): "10"}),
    "owner": vb.owner("https://vcd/api/admin/user/1"),
    "undeploy": vb.undeploy(),
    "vApp networks": vb.change_vapp_networks(
        SECTION, add=[vx.Reference("prod", "https://vcd/api/network/1")], drop={"VM Network"}
    ),
    "vApp networks, all kept": vb.change_vapp_networks(SECTION, add=[vx.Reference("prod", "https://vcd/n/1")]),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_body_is_valid_by_vmware_s_schema(name: str) -> None:
    check(BODIES[name])


def test_schema_check_can_fail() -> None:
    if _schema() is None:
        pytest.skip(f"VCD schemas are absent at {SCHEMAS} (set COLDMIG_VCD_SCHEMAS)")
    vdc_in_the_wrong_namespace = BODIES["import as vApp"].replace(b"vmext:Vdc ", b"Vdc ")
    assert vdc_in_the_wrong_namespace != BODIES["import as vApp"]
    from lxml import etree

    with pytest.raises(etree.DocumentInvalid):
        check(vdc_in_the_wrong_namespace)


def test_import_moves_and_does_not_power_on() -> None:
    root = vx.parse(BODIES["import as vApp"])
    assert (root.get("sourceMove"), root.get("deploy"), root.get("powerOn")) == ("true", "false", "false")
    assert vx.parse(BODIES["import into vApp"]).get("sourceMove") == "true"


def test_vapp_networks_are_added_and_dropped_and_the_rest_is_kept() -> None:
    assert vx.read_vapp_networks(BODIES["vApp networks"]) == ("prod",)
    assert vx.read_vapp_networks(BODIES["vApp networks, all kept"]) == ("VM Network", "prod")
    assert b"Link" not in BODIES["vApp networks, all kept"]


def test_network_connections_are_read_back_as_they_were_written() -> None:
    assert vx.read_nics(BODIES["network connections"]) == NICS


def test_address_is_sent_with_manual_mode_only() -> None:
    (nic,) = vx.read_nics(vb.network_connections([vx.Nic(0, "n", mode="DHCP", ip="10.0.0.7")]))
    assert nic.ip is None


def test_customization_and_metadata_are_read_back() -> None:
    assert vx.read_customization(BODIES["customization off"]) == (False, "erp-db-01")
    assert vx.read_metadata(BODIES["metadata"]) == {("SYSTEM", "coldmig.id"): "4f6c", ("GENERAL", "cost"): "10"}


def test_reconfiguration_keeps_the_sizing_policy_and_all_disks() -> None:
    root = vx.parse(BODIES["reconfigure disks"])
    ns = "{http://www.vmware.com/vcloud/v1.5}"
    policy = root.find(f"{ns}ComputePolicy/{ns}VmSizingPolicy")
    assert policy is not None
    assert policy.get("name") == "large"
    assert b"<Link" not in BODIES["reconfigure disks"]
    vm = vx.read_vm(BODIES["reconfigure disks"])
    assert [(disk.id, disk.storage_profile, disk.own_profile) for disk in vm.disks] == [
        ("2000", "https://vcd/api/vdcStorageProfile/2", False),
        ("2001", "https://vcd/p/9", True),
    ]
    section = root.find(f"{ns}VmSpecSection")
    assert section is not None
    assert section.get("Modified") == "true"
    assert vx.parse(BODIES["reconfigure"]).find(f"{ns}VmSpecSection") is None


def test_vm_is_read_with_its_disks_policy_and_place() -> None:
    vm = vx.read_vm(VM)
    assert (vm.name, vm.description, vm.vapp, vm.sizing_policy) == ("old", "d", "https://vcd/api/vApp/vapp-1", "large")
    assert [disk.id for disk in vm.disks] == ["2000", "2001"]


def test_address_of_the_sixth_version_says_so() -> None:
    body = vb.network_connections([vx.Nic(0, "n", mode="MANUAL", ip="2001:db8::1")])
    check(body)
    assert b"<IpAddress>2001:db8::1</IpAddress><IpType>IPV6</IpType>" in body


def test_versions_are_sorted_as_numbers_and_alpha_is_left_out() -> None:
    ns = 'xmlns="http://www.vmware.com/vcloud/versions"'
    info = "<VersionInfo {1}><Version>{0}</Version><LoginUrl>x</LoginUrl></VersionInfo>"
    body = f"<SupportedVersions {ns}>" + "".join(
        info.format(version, 'deprecated="true"' if version == "9.0" else "")
        for version in ("36.0", "9.0", "38.1", "39.1-alpha", "37.2")
    )
    found = vx.read_versions(f"{body}</SupportedVersions>".encode())
    assert found == vx.ApiVersions(("38.1", "37.2", "36.0"), ("9.0",))


TASK = b"""<Task xmlns="http://www.vmware.com/vcloud/v1.5" status="error" operation="Importing" href="https://vcd/t/1"
 operationName="importSingletonVapp" startTime="2024-01-01T00:00:00Z"><Owner href="https://vcd/v/1"/>
 <Error majorErrorCode="500" minorErrorCode="INTERNAL" message="[ 12-34 ] host esx1 vpxd-17 said no"
 stackTrace="secret">
 <TenantError majorErrorCode="500" minorErrorCode="INTERNAL" message="[ 12-34 ] Not enough storage"/></Error>
 <Progress>40</Progress></Task>"""


def test_failed_task_has_a_text_for_the_provider_one_for_tenants_and_never_the_stack_trace() -> None:
    task = vx.read_task(TASK)
    assert task.ended
    assert not task.succeeded
    assert task.owner == "https://vcd/v/1"
    assert task.progress == 40
    assert task.error == vx.ErrorInfo(500, "INTERNAL", "host esx1 vpxd-17 said no", tenant="Not enough storage")
    assert str(task.error) == "host esx1 vpxd-17 said no (INTERNAL)"


def test_error_document_is_told_from_other_bodies() -> None:
    error = vx.read_error(
        b'<Error xmlns="http://www.vmware.com/vcloud/v1.5" majorErrorCode="400" minorErrorCode="BUSY_ENTITY"'
        b' message="busy"/>'
    )
    assert error == vx.ErrorInfo(400, "BUSY_ENTITY", "busy")
    assert vx.read_error(b"<html>502</html>") is None
    assert vx.read_error(b"plain") is None


def test_half_made_vapp_is_read_with_its_task() -> None:
    body = (
        b"""<VApp xmlns="http://www.vmware.com/vcloud/v1.5" name="v" href="https://vcd/v/1" id="urn:vcloud:vapp:1"
      status="0" deployed="false"><Link rel="up" href="https://vcd/api/vdc/9"/><Tasks>%s</Tasks></VApp>"""
        % TASK
    )
    vapp = vx.read_vapp(body)
    assert (vapp.status_name, vapp.vms, vapp.vdc) == ("unresolved", (), "https://vcd/api/vdc/9")
    assert vapp.tasks[0].operation_name == "importSingletonVapp"


@pytest.mark.parametrize("body", [b"", b"not xml", b"<a/>", b"\xff\xfe"])
def test_other_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(vx.XmlError):
        vx.read_vapp(body)


@pytest.mark.parametrize(
    ("name", "windows", "expected"),
    [
        ("erp-db-01", False, "erp-db-01"),
        ("erp_db 01.example.com", False, "erp-db-01"),
        ("10.0.0.7", False, "10-0-0-7"),
        ("a" * 80, False, "a" * 63),
        ("very-long-windows-name", True, "very-long-windo"),
        ("12345", False, "vm-12345"),
        ("äöü", False, "vm"),
        ("-x-", False, "x"),
    ],
)
def test_computer_name_is_one_that_vcd_takes(name: str, windows: bool, expected: str) -> None:
    assert vb.safe_computer_name(name, windows=windows) == expected
