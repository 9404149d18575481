# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Bodies that are sent to the VMware Cloud Director API (``/api``, versions 36 to 39). Pure: records in, text out.

Element order and namespaces follow VMware's published XSDs; VCD refuses a body that breaks either. Two traps: children
of the import bodies (``Vdc``, ``VApp``, ``VdcStorageProfile``) live in the *extension* namespace though their types are
of the vcloud one, and ``Description`` lives in the vcloud namespace though its neighbours do not.
"""

from __future__ import annotations

import re
import typing as t
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.cda.coldmig.plugins.module_utils._vcd_xml import (
    EXTENSION,
    OVF,
    SYSTEM_DOMAIN,
    VCLOUD,
    Nic,
    Reference,
    XmlError,
    child_text,
    expect,
    vcloud,
)

XSI: t.Final = "http://www.w3.org/2001/XMLSchema-instance"

for _prefix, _namespace in (("", VCLOUD), ("vmext", EXTENSION), ("ovf", OVF), ("xsi", XSI)):
    ET.register_namespace(_prefix, _namespace)

_MEDIA: t.Final = "application/vnd.vmware."
MEDIA_IMPORT_AS_VAPP: t.Final = _MEDIA + "admin.importVmAsVAppParams+xml"
MEDIA_IMPORT_INTO_VAPP: t.Final = _MEDIA + "admin.importVmIntoExistingVAppParams+xml"
MEDIA_IMPORT_STANDALONE: t.Final = _MEDIA + "admin.importVmParams+xml"
MEDIA_COMPOSE: t.Final = _MEDIA + "vcloud.composeVAppParams+xml"
MEDIA_VAPP: t.Final = _MEDIA + "vcloud.vApp+xml"
MEDIA_NETWORK_CONFIG: t.Final = _MEDIA + "vcloud.networkConfigSection+xml"
MEDIA_NETWORK_CONNECTION: t.Final = _MEDIA + "vcloud.networkConnectionSection+xml"
MEDIA_CUSTOMIZATION: t.Final = _MEDIA + "vcloud.guestCustomizationSection+xml"
MEDIA_METADATA: t.Final = _MEDIA + "vcloud.metadata+xml"
MEDIA_OWNER: t.Final = _MEDIA + "vcloud.owner+xml"
MEDIA_VM: t.Final = _MEDIA + "vcloud.vm+xml"
MEDIA_UNDEPLOY: t.Final = _MEDIA + "vcloud.undeployVAppParams+xml"


def _x(name: str) -> str:
    return f"{{{EXTENSION}}}{name}"


def _emit(root: ET.Element) -> bytes:
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)


def _add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


@dataclass(frozen=True)
class Import:
    """What all imports have in common. ``disks``: device key in vSphere -> href of the disk's storage profile."""

    vm_name: str
    computer_name: str
    moref: str
    storage_profile: str | None
    description: str
    disks: Mapping[str, str] = field(default_factory=dict)


def import_as_vapp(imported: Import, *, name: str, vdc: str) -> bytes:
    """``ImportVmAsVAppParams``: by move, neither deployed nor powered on, whatever VCD's defaults are."""
    root = ET.Element(
        _x("ImportVmAsVAppParams"), {"name": name, "deploy": "false", "powerOn": "false", "sourceMove": "true"}
    )
    _add(root, vcloud("Description"), imported.description)
    _add(root, _x("VmName"), imported.vm_name)
    _add_source(root, imported)
    _add(root, _x("Vdc"), href=vdc)
    _add_disks(root, imported)
    return _emit(root)


def import_into_vapp(imported: Import, *, vapp: str) -> bytes:
    """``ImportVmIntoExistingVAppParams``, by move."""
    root = ET.Element(_x("ImportVmIntoExistingVAppParams"), {"sourceMove": "true"})
    _add(root, _x("VmName"), imported.vm_name)
    _add(root, _x("VmDescription"), imported.description)
    _add_source(root, imported)
    _add(root, _x("VApp"), href=vapp)
    _add_disks(root, imported)
    return _emit(root)


def import_standalone(imported: Import, *, vdc: str) -> bytes:
    """``ImportVmParams``, by move: a VM without a vApp (that anybody sees)."""
    root = ET.Element(_x("ImportVmParams"), {"name": imported.vm_name, "sourceMove": "true"})
    _add(root, vcloud("Description"), imported.description)
    _add(root, _x("VmName"), imported.vm_name)
    _add_source(root, imported)
    _add(root, _x("Vdc"), href=vdc)
    _add_disks(root, imported)
    return _emit(root)


def _add_source(root: ET.Element, imported: Import) -> None:
    _add(root, _x("ComputerName"), imported.computer_name)
    _add(root, _x("VmMoRef"), imported.moref)
    if imported.storage_profile is not None:
        _add(root, _x("VdcStorageProfile"), href=imported.storage_profile)


def _add_disks(root: ET.Element, imported: Import) -> None:
    for key, profile in imported.disks.items():
        disk = _add(root, _x("ImportedDisk"), instanceId=key)
        _add(disk, _x("VdcStorageProfile"), href=profile)


def compose_empty(name: str, description: str) -> bytes:
    """``ComposeVAppParams`` for a vApp without VMs."""
    root = ET.Element(vcloud("ComposeVAppParams"), {"name": name, "deploy": "false", "powerOn": "false"})
    _add(root, vcloud("Description"), description)
    return _emit(root)


def describe_vapp(name: str, description: str) -> bytes:
    """``VApp`` with name and description."""
    root = ET.Element(vcloud("VApp"), {"name": name})
    _add(root, vcloud("Description"), description)
    return _emit(root)


def change_vapp_networks(section: bytes, *, add: Iterable[Reference] = (), drop: Collection[str] = ()) -> bytes:
    """The section with organization networks attached directly (bridged) and others dropped.

    A PUT replaces the section, so everything else stays as VCD sent it, but for links, which are VCD's alone.
    """
    root = expect(section, "NetworkConfigSection")
    for child in list(root):
        if child.tag == vcloud("Link") or (child.tag == vcloud("NetworkConfig") and child.get("networkName") in drop):
            root.remove(child)
    for attribute in ("href", "type"):
        root.attrib.pop(attribute, None)
    for config in root.iterfind(vcloud("NetworkConfig")):
        for link in config.findall(vcloud("Link")):
            config.remove(link)
    for network in add:
        config = ET.Element(vcloud("NetworkConfig"), {"networkName": network.name})
        settings = _add(config, vcloud("Configuration"))
        _add(settings, vcloud("ParentNetwork"), href=network.href, name=network.name)
        _add(settings, vcloud("FenceMode"), "bridged")
        # after ovf:Info and the other networks, before anything of other namespaces
        last = max(i for i, child in enumerate(root) if child.tag in (f"{{{OVF}}}Info", vcloud("NetworkConfig")))
        root.insert(last + 1, config)
    return _emit(root)


def network_connections(nics: Iterable[Nic], primary: int = 0) -> bytes:
    """``NetworkConnectionSection`` with exactly these connections. Element order matters to VCD."""
    root = ET.Element(vcloud("NetworkConnectionSection"))
    _add(root, f"{{{OVF}}}Info", "Network connections")
    listed = list(nics)
    if listed:
        _add(root, vcloud("PrimaryNetworkConnectionIndex"), str(primary))
    for nic in listed:
        entry = _add(root, vcloud("NetworkConnection"), network=nic.network, needsCustomization="false")
        _add(entry, vcloud("NetworkConnectionIndex"), str(nic.index))
        if nic.ip is not None and nic.mode == "MANUAL":
            _add(entry, vcloud("IpAddress"), nic.ip)
            if ":" in nic.ip:
                _add(entry, vcloud("IpType"), "IPV6")
        _add(entry, vcloud("IsConnected"), "true" if nic.connected else "false")
        if nic.mac is not None:
            _add(entry, vcloud("MACAddress"), nic.mac)
        _add(entry, vcloud("IpAddressAllocationMode"), nic.mode)
        if nic.adapter is not None:
            _add(entry, vcloud("NetworkAdapterType"), nic.adapter)
    return _emit(root)


def customization_off(computer_name: str) -> bytes:
    """``GuestCustomizationSection`` that leaves the guest alone."""
    root = ET.Element(vcloud("GuestCustomizationSection"))
    _add(root, f"{{{OVF}}}Info", "Guest customization is off: the guest keeps what it was migrated with")
    _add(root, vcloud("Enabled"), "false")
    _add(root, vcloud("ComputerName"), computer_name)
    return _emit(root)


def metadata(entries: Mapping[tuple[str, str], str]) -> bytes:
    """``Metadata`` of string entries, (domain, key) -> value. Tenants can read those of the domain SYSTEM."""
    root = ET.Element(vcloud("Metadata"))
    for (domain, key), value in entries.items():
        entry = _add(root, vcloud("MetadataEntry"))
        visibility = "READONLY" if domain == SYSTEM_DOMAIN else "READWRITE"
        _add(entry, vcloud("Domain"), domain, visibility=visibility)
        _add(entry, vcloud("Key"), key)
        typed = _add(entry, vcloud("TypedValue"), **{f"{{{XSI}}}type": "MetadataStringValue"})
        _add(typed, vcloud("Value"), value)
    return _emit(root)


def owner(user: str) -> bytes:
    """``Owner``: the user with this href."""
    root = ET.Element(vcloud("Owner"))
    _add(root, vcloud("User"), href=user)
    return _emit(root)


def reconfigure(
    vm: bytes,
    *,
    name: str,
    description: str,
    storage_profile: str | None = None,
    disks: Mapping[str, str] | None = None,
) -> bytes:
    """``Vm`` for reconfigureVm. Sections that are left out stay as they are.

    *vm* is the VM as VCD gave it. Its compute policy goes along, as VCD may else put the VM under the VDC's default
    one, which may mean other CPUs and memory. *disks* (id -> href of the storage profile) sends all disks, changed in
    nothing else, as VCD deletes those that are missing.
    """
    current = expect(vm, "Vm")
    root = ET.Element(vcloud("Vm"), {"name": name})
    _add(root, vcloud("Description"), description)
    if disks:
        root.append(_specification(current, disks))
    if storage_profile is not None:
        _add(root, vcloud("StorageProfile"), href=storage_profile)
    policy = current.find(vcloud("ComputePolicy"))
    if policy is not None:
        for link in policy.findall(vcloud("Link")):
            policy.remove(link)
        root.append(policy)
    return _emit(root)


def _specification(vm: ET.Element, disks: Mapping[str, str]) -> ET.Element:
    section = vm.find(vcloud("VmSpecSection"))
    if section is None:
        raise XmlError("the VM has no VmSpecSection")
    section.set("Modified", "true")
    for entry in section.iterfind(f"{vcloud('DiskSection')}/{vcloud('DiskSettings')}"):
        profile = disks.get(child_text(entry, "DiskId") or "")
        if profile is None:
            continue
        present = entry.find(vcloud("StorageProfile"))
        if present is None:
            present = ET.Element(vcloud("StorageProfile"))
            _insert_after(entry, present, ("Disk", "ThinProvisioned"))
        present.attrib.clear()
        present.set("href", profile)
        override = entry.find(vcloud("overrideVmDefault"))
        if override is None:
            override = ET.Element(vcloud("overrideVmDefault"))
            _insert_after(entry, override, ("StorageProfile",))
        override.text = "true"
    return section


def _insert_after(parent: ET.Element, child: ET.Element, names: Sequence[str]) -> None:
    last = max(i for i, other in enumerate(parent) if other.tag in {vcloud(name) for name in names})
    parent.insert(last + 1, child)


def undeploy() -> bytes:
    """``UndeployVAppParams`` that powers off, without asking the guest."""
    root = ET.Element(vcloud("UndeployVAppParams"))
    _add(root, vcloud("UndeployPowerAction"), "powerOff")
    return _emit(root)


def safe_computer_name(name: str, *, windows: bool = False) -> str:
    """A name that VCD accepts as computer name: letters, digits and hyphens, at most 15 (Windows) or 63 characters."""
    short = name.partition(".")[0] if re.search(r"[A-Za-z]", name) else name
    cleaned = re.sub(r"[^A-Za-z0-9-]+", "-", short).strip("-")[: 15 if windows else 63].strip("-")
    if not cleaned or cleaned.isdigit():  # an all-digit name is refused
        cleaned = f"vm-{cleaned}".strip("-")[: 15 if windows else 63]
    return cleaned
