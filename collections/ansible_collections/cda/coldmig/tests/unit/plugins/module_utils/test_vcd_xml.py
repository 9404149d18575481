# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest
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

    schema.assertValid(etree.fromstring(body))


AS_VAPP = {
    "name": "erp-db-01",
    "vm_name": "erp-db-01",
    "computer_name": "erp-db-01",
    "vm_moref": "vm-42",
    "vdc": "https://vcd/api/vdc/1",
    "storage_profile": "https://vcd/api/vdcStorageProfile/2",
    "description": "a < b & c",
}
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

BODIES = {
    "import as vApp": vx.import_as_vapp(**AS_VAPP),
    "import as vApp, default storage profile": vx.import_as_vapp(**{**AS_VAPP, "storage_profile": None}),
    "import into vApp": vx.import_into_vapp(
        vm_name="v", computer_name="v", vm_moref="vm-1", vapp="https://vcd/api/vApp/1",
        storage_profile="https://vcd/p", description="d",
    ),
    "network connections": vx.network_connections(NICS),
    "no network connections": vx.network_connections(()),
    "customization off": vx.customization_off("erp-db-01"),
    "metadata": vx.metadata({"coldmig.id": "4f6c", "coldmig.source": "10.0.0.1"}),
    "owner": vx.owner("https://vcd/api/admin/user/1"),
    "rename": vx.rename_vm("new", "text"),
    "undeploy": vx.undeploy(),
    "vApp networks": vx.change_vapp_networks(
        SECTION, add=[vx.Reference("prod", "https://vcd/api/network/1")], drop={"VM Network"}
    ),
    "vApp networks, all kept": vx.change_vapp_networks(SECTION, add=[vx.Reference("prod", "https://vcd/n/1")]),
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
    (nic,) = vx.read_nics(vx.network_connections([vx.Nic(0, "n", mode="DHCP", ip="10.0.0.7")]))
    assert nic.ip is None


def test_customization_and_metadata_are_read_back() -> None:
    assert vx.read_customization(BODIES["customization off"]) == (False, "erp-db-01")
    assert vx.read_metadata(BODIES["metadata"]) == {"coldmig.id": "4f6c", "coldmig.source": "10.0.0.1"}


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


def test_failed_task_shows_the_tenant_s_message_and_never_the_stack_trace() -> None:
    task = vx.read_task(TASK)
    assert task.ended
    assert not task.succeeded
    assert task.owner == "https://vcd/v/1"
    assert task.progress == 40
    assert str(task.error) == "Not enough storage (INTERNAL)"


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
    assert vx.safe_computer_name(name, windows=windows) == expected
