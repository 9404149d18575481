# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import io
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _ova
from ansible_collections.cda.coldmig.plugins.module_utils._guest_hardware import CONTROLLERS, Hardware, place_disks
from ansible_collections.cda.coldmig.plugins.module_utils._ovf import (
    OVF,
    RASD,
    VMW,
    OvfDisk,
    OvfMachine,
    OvfNic,
    descriptor,
    manifest,
)

Q = {"ovf": OVF, "rasd": RASD, "vmw": VMW}


def machine(controller: str = "pvscsi", disks: int = 2, **changes: object) -> OvfMachine:
    kind = next(item for item in CONTROLLERS if item.name == controller)
    hardware = Hardware(
        guest_id="debian12_64Guest",
        firmware="efi",
        secure_boot=True,
        controller=controller,
        nic="vmxnet3",
        num_cpus=4,
        cores_per_socket=2,
        memory_mb=2048,
        disks=place_disks(kind, [4096] * disks),
    )
    values = {
        "name": 'db <1> & "co"',
        "annotation": "from acme",
        "os_description": "Debian 12",
        "is_linux": True,
        "hardware": hardware,
        "hardware_version": "vmx-14",
        "disks": tuple(OvfDisk(f"db-disk{index}.vmdk", 1000 + index, 500) for index in range(disks)),
        "nics": (OvfNic("web", "52:54:00:00:00:01"), OvfNic("web")),
        **changes,
    }
    return OvfMachine(**values)  # type: ignore[arg-type]


def parse(text: bytes) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - our own text


def items(document: ET.Element, kind: int) -> list[ET.Element]:
    return [
        item for item in document.iterfind(".//ovf:Item", Q) if item.findtext("rasd:ResourceType", "", Q) == str(kind)
    ]


def test_disks_hang_on_their_controller_at_their_place() -> None:
    document = parse(descriptor(machine(disks=17)))
    controllers = items(document, 6)
    assert [item.findtext("rasd:ResourceSubType", "", Q) for item in controllers] == ["VirtualSCSI"] * 2
    disks = items(document, 17)
    assert len(disks) == 17
    first, second = (item.findtext("rasd:InstanceID", "", Q) for item in controllers)
    assert [disk.findtext("rasd:Parent", "", Q) for disk in disks] == [first] * 15 + [second] * 2
    assert disks[7].findtext("rasd:AddressOnParent", "", Q) == "8"  # 7 is the controller's own
    assert disks[0].findtext("rasd:HostResource", "", Q) == "ovf:/disk/disk0"
    numbers = [item.findtext("rasd:InstanceID", "", Q) for item in document.iterfind(".//ovf:Item", Q)]
    assert len(numbers) == len(set(numbers))


def test_what_firmware_and_system_are_is_said_in_vmware_s_words() -> None:
    document = parse(descriptor(machine()))
    config = {item.get(f"{{{VMW}}}key"): item.get(f"{{{VMW}}}value") for item in document.iterfind(".//vmw:Config", Q)}
    assert config == {"firmware": "efi", "bootOptions.efiSecureBootEnabled": "true"}
    system = document.find(".//ovf:OperatingSystemSection", Q)
    assert system is not None
    assert system.get(f"{{{VMW}}}osType") == "debian12_64Guest"
    assert document.findtext(".//vmw:CoresPerSocket", "", Q) == "2"
    assert document.findtext(".//ovf:VirtualSystem/ovf:Name", "", Q) == 'db <1> & "co"'
    disk = document.find(".//ovf:Disk", Q)
    assert disk is not None
    # the size of the virtual disk, not of the file
    assert (disk.get(f"{{{OVF}}}capacity"), disk.get(f"{{{OVF}}}capacityAllocationUnits")) == ("4", "byte * 2^20")


def test_a_mac_is_only_named_where_it_is_kept() -> None:
    nics = items(parse(descriptor(machine())), 10)
    assert [nic.findtext("rasd:Address", None, Q) for nic in nics] == ["52:54:00:00:00:01", None]
    without = parse(descriptor(machine(nics=())))
    assert without.find("ovf:NetworkSection", Q) is None


def test_the_same_machine_gives_the_same_text() -> None:
    assert descriptor(machine()) == descriptor(machine())


def test_manifest_names_each_file_with_its_digest() -> None:
    assert manifest([("a.ovf", "0" * 64), ("b.vmdk", "f" * 64)]).decode().splitlines() == [
        f"SHA256(a.ovf)= {'0' * 64}",
        f"SHA256(b.vmdk)= {'f' * 64}",
    ]


@pytest.mark.parametrize("length", [0, 511, (8 << 30) - 1, 8 << 30, 62 << 40])
def test_lengths_of_any_disk_fit_into_a_header(length: int) -> None:
    record = _ova._header("db-disk0.vmdk", length)
    with tarfile.open(fileobj=io.BytesIO(record + bytes(1024))) as archive:
        entry = archive.next()
    assert entry is not None
    assert (entry.name, entry.size) == ("db-disk0.vmdk", length)


def test_announced_length_is_that_of_the_archive() -> None:
    disks = (OvfDisk("db-disk0.vmdk", 1000, None), OvfDisk("db-disk1.vmdk", 1024, None))
    package = _ova.Package("db", b"x" * 700, disks)
    output = io.BytesIO()
    _ova._add(output, "db.ovf", package.descriptor)
    _ova._add(output, "db.mf", bytes(package.manifest_length))
    for disk in disks:
        _ova._add(output, disk.file_name, bytes(disk.size_bytes))
    output.write(bytes(1024))
    assert output.tell() == package.size_bytes


@pytest.mark.parametrize("content", [b"", b"x" * 511, b"x" * 4096, bytes(4096)])
def test_another_file_is_not_taken_for_ours(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "some.ova"
    path.write_bytes(content)
    assert _ova.read_descriptor(path) is None
    assert _ova.read_descriptor(tmp_path / "absent") is None
