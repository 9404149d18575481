# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""OVF descriptor and manifest of one virtual machine. Pure: text in memory, no file, no connection.

The envelope is that of DMTF's DSP0243 1.1 (schema DSP8023 1.1.0). What it cannot say (firmware, vSphere's guest type,
cores per socket, which SCSI controller) stands in VMware's extensions, which other importers may skip: none is marked
as required.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET  # nosec B405 - it only writes here
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.cda.coldmig.plugins.module_utils._guest_hardware import CONTROLLERS_BY_NAME, Hardware

OVF = "http://schemas.dmtf.org/ovf/envelope/1"
RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
VSSD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
VMW = "http://www.vmware.com/schema/ovf"
STREAM_OPTIMIZED = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"

_PREFIXES = {"ovf": OVF, "rasd": RASD, "vssd": VSSD, "vmw": VMW}
# CIM_ResourceAllocationSettingData.ResourceType
_CPU, _MEMORY, _IDE, _SCSI, _NIC, _DISK, _OTHER_STORAGE = 3, 4, 5, 6, 10, 17, 20
#: controller -> (ResourceType, ResourceSubType)
_CONTROLLERS = {
    "pvscsi": (_SCSI, "VirtualSCSI"),
    "lsilogic-sas": (_SCSI, "lsilogicsas"),
    "lsilogic": (_SCSI, "lsilogic"),
    "ahci": (_OTHER_STORAGE, "vmware.sata.ahci"),
    "nvme": (_OTHER_STORAGE, "vmware.nvme.controller"),
    "ide": (_IDE, None),
}
_NICS = {"vmxnet3": "VmxNet3", "e1000e": "E1000e", "e1000": "E1000"}
# CIM_OperatingSystem.OsType; the exact system is in vmw:osType.
#: (Linux, 64 bit) ->
_OS_TYPES = {(False, False): 1, (True, False): 36, (True, True): 101, (False, True): 102}


@dataclass(frozen=True)
class OvfDisk:
    """A disk file of the package: ``size_bytes`` of the file, ``populated_bytes`` of data in the disk."""

    file_name: str
    size_bytes: int
    populated_bytes: int | None


@dataclass(frozen=True)
class OvfNic:
    """A network card. ``mac`` is None where the importer chooses one."""

    network: str
    mac: str | None = None


@dataclass(frozen=True)
class OvfMachine:
    """What the descriptor describes. ``disks`` are in the order of ``hardware.disks``."""

    name: str
    annotation: str
    os_description: str
    is_linux: bool
    hardware: Hardware
    hardware_version: str
    disks: tuple[OvfDisk, ...]
    nics: tuple[OvfNic, ...] = ()
    extra_config: tuple[tuple[str, str], ...] = ()


def descriptor(machine: OvfMachine) -> bytes:
    """The ``.ovf`` file."""
    for prefix, uri in _PREFIXES.items():
        ET.register_namespace(prefix, uri)
    envelope = ET.Element(f"{{{OVF}}}Envelope")
    _references(envelope, machine.disks)
    _disk_section(envelope, machine)
    networks = list(dict.fromkeys(nic.network for nic in machine.nics))
    if networks:
        _network_section(envelope, networks)
    _system(envelope, machine)
    ET.indent(envelope)
    text: bytes = ET.tostring(envelope, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def manifest(digests: Sequence[tuple[str, str]]) -> bytes:
    """The ``.mf`` file: names of the files with their SHA-256 in hexadecimal (DSP0243 §5.1)."""
    return "".join(f"SHA256({name})= {digest}\n" for name, digest in digests).encode("ascii")


def _child(parent: ET.Element, tag: str, text: str | None = None, /, **attributes: str) -> ET.Element:
    """A child ``prefix:Name``; attributes are in OVF's namespace, as its schema wants them."""
    prefix, _colon, local = tag.partition(":")
    element = ET.SubElement(parent, f"{{{_PREFIXES[prefix]}}}{local}")
    element.text = text
    for key, value in attributes.items():
        element.set(f"{{{OVF}}}{key}", value)
    return element


def _section(parent: ET.Element, tag: str, info: str, /, **attributes: str) -> ET.Element:
    section = _child(parent, tag, **attributes)
    _child(section, "ovf:Info", info)
    return section


def _references(envelope: ET.Element, disks: Sequence[OvfDisk]) -> None:
    references = _child(envelope, "ovf:References")
    for number, disk in enumerate(disks):
        _child(references, "ovf:File", href=disk.file_name, id=f"file{number}", size=str(disk.size_bytes))


def _disk_section(envelope: ET.Element, machine: OvfMachine) -> None:
    section = _section(envelope, "ovf:DiskSection", "Virtual disks")
    for number, (place, disk) in enumerate(zip(machine.hardware.disks, machine.disks, strict=True)):
        entry = _child(
            section,
            "ovf:Disk",
            diskId=f"disk{number}",
            fileRef=f"file{number}",
            capacity=str(place.capacity_kb // 1024),
            capacityAllocationUnits="byte * 2^20",
            format=STREAM_OPTIMIZED,
        )
        if disk.populated_bytes is not None:
            entry.set(f"{{{OVF}}}populatedSize", str(disk.populated_bytes))


def _network_section(envelope: ET.Element, networks: Sequence[str]) -> None:
    section = _section(envelope, "ovf:NetworkSection", "Networks that the machine is connected to")
    for name in networks:
        network = _child(section, "ovf:Network", name=name)
        _child(network, "ovf:Description", f"The network {name}")


def _system(envelope: ET.Element, machine: OvfMachine) -> None:
    system = _child(envelope, "ovf:VirtualSystem", id=machine.name)
    _child(system, "ovf:Info", "A migrated machine")
    _child(system, "ovf:Name", machine.name)
    guest_id = machine.hardware.guest_id
    kind = _OS_TYPES[machine.is_linux, "64" in guest_id]
    guest = _section(system, "ovf:OperatingSystemSection", "The installed operating system", id=str(kind))
    guest.set(f"{{{VMW}}}osType", guest_id)
    _child(guest, "ovf:Description", machine.os_description)
    annotation = _section(system, "ovf:AnnotationSection", "Where the machine comes from")
    _child(annotation, "ovf:Annotation", machine.annotation)
    _hardware(system, machine)


def _hardware(system: ET.Element, machine: OvfMachine) -> None:
    section = _section(system, "ovf:VirtualHardwareSection", "Virtual hardware")
    settings = _child(section, "ovf:System")
    for name, text in (
        ("ElementName", "Virtual hardware family"),
        ("InstanceID", "0"),
        ("VirtualSystemIdentifier", machine.name),
        ("VirtualSystemType", machine.hardware_version),
    ):
        _child(settings, f"vssd:{name}", text)
    items = _Items(section)
    hardware = machine.hardware
    cpu = items.add(
        ElementName=f"{hardware.num_cpus} virtual CPUs",
        AllocationUnits="hertz * 10^6",
        ResourceType=_CPU,
        VirtualQuantity=hardware.num_cpus,
    )
    _vmw(cpu, "CoresPerSocket").text = str(hardware.cores_per_socket)
    items.add(
        ElementName=f"{hardware.memory_mb} MB of memory",
        AllocationUnits="byte * 2^20",
        ResourceType=_MEMORY,
        VirtualQuantity=hardware.memory_mb,
    )
    _disks(items, machine)
    for number, nic in enumerate(machine.nics):
        items.add(
            ElementName=f"Network adapter {number + 1}",
            Address=nic.mac,
            AddressOnParent=number,
            AutomaticAllocation="true",
            Connection=nic.network,
            ResourceSubType=_NICS[hardware.nic],
            ResourceType=_NIC,
        )
    _config(section, "firmware", hardware.firmware)
    if hardware.firmware == "efi":
        _config(section, "bootOptions.efiSecureBootEnabled", str(hardware.secure_boot).lower())
    for key, value in machine.extra_config:
        _vmw(section, "ExtraConfig", key=key, value=value)


def _disks(items: _Items, machine: OvfMachine) -> None:
    kind, subtype = _CONTROLLERS[machine.hardware.controller]
    controllers: dict[int, str] = {}
    label = CONTROLLERS_BY_NAME[machine.hardware.controller].name
    for bus in sorted({place.bus for place in machine.hardware.disks}):
        item = items.add(
            ElementName=f"{label} controller {bus}", Address=bus, ResourceSubType=subtype, ResourceType=kind
        )
        controllers[bus] = item.findtext(f"{{{RASD}}}InstanceID") or ""
    for number, place in enumerate(machine.hardware.disks):
        items.add(
            ElementName=f"Hard disk {number + 1}",
            AddressOnParent=place.unit,
            HostResource=f"ovf:/disk/disk{number}",
            Parent=controllers[place.bus],
            ResourceType=_DISK,
        )


class _Items:
    """Adds numbered Items. Their children are in the alphabetical order that CIM's schema demands."""

    def __init__(self, section: ET.Element) -> None:
        self._section = section
        self._count = 0

    def add(self, **values: str | int | None) -> ET.Element:
        """An Item with these ``rasd:`` elements; None leaves one out."""
        self._count += 1
        item = _child(self._section, "ovf:Item")
        for name, value in sorted({**values, "InstanceID": self._count}.items()):
            if value is not None:
                _child(item, f"rasd:{name}", str(value))
        return item


def _vmw(parent: ET.Element, tag: str, /, **attributes: str) -> ET.Element:
    element = _child(parent, f"vmw:{tag}", required="false")
    for key, value in attributes.items():
        element.set(f"{{{VMW}}}{key}", value)
    return element


def _config(section: ET.Element, key: str, value: str) -> None:
    _vmw(section, "Config", key=key, value=value)
