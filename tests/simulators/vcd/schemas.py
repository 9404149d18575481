# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge XML documents by the public VCD schemas, where these are at hand.

The schemas are data for tests and not part of the checkout: COLDMIG_VCD_SCHEMAS names their folder, and without it a
folder `shared/vcd-schemas` next to the checkout is used. They describe the API as of version 9.1; elements that newer
API versions added are taken out of a copy of the document before it is judged.
"""

from __future__ import annotations

import copy
import os
import threading
from pathlib import Path

from lxml import etree

from simulators.vcd.markup import OVF, VCLOUD, VERSIONS

_EXTERNAL = {
    "http://www.w3.org/2001/xml.xsd": "xml.xsd",
    "http://www.w3.org/2009/01/xml.xsd": "xml.xsd",
    "http://schemas.dmtf.org/ovf/envelope/1/dsp8023_1.1.0.xsd": "ovf1.1/dsp8023_1.1.0.xsd",
    "http://schemas.dmtf.org/ovf/environment/1/dsp8027_1.1.0.xsd": "ovf1.1/dsp8027_1.1.0.xsd",
    "http://schemas.dmtf.org/wbem/wscim/1/common.xsd": "ovf1.1/common.xsd",
    "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2.22.0/CIM_VirtualSystemSettingData.xsd": (
        "ovf1.1/CIM_VirtualSystemSettingData.xsd"
    ),
    "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2.22.0/CIM_ResourceAllocationSettingData.xsd": (
        "ovf1.1/CIM_ResourceAllocationSettingData.xsd"
    ),
    "http://www.vmware.com/schema/ovf.xsd": "ovf1.1/ovf-vmware.xsd",
}

# parent → children of API 34 to 37.1 that the schemas of 9.1 do not know
_NEWER = {
    f"{{{VERSIONS}}}VersionInfo": {f"{{{VERSIONS}}}ProviderLoginUrl"},
    f"{{{VCLOUD}}}NetworkConnection": {
        f"{{{VCLOUD}}}{name}"
        for name in ("IpType", "SecondaryIpAddress", "SecondaryIpType", "SecondaryIpAddressAllocationMode")
    },
    f"{{{VCLOUD}}}VmSpecSection": {f"{{{VCLOUD}}}Firmware", f"{{{VCLOUD}}}TrustedPlatformModule"},
    f"{{{VCLOUD}}}BootOptions": {
        f"{{{VCLOUD}}}{name}"
        for name in ("BootRetryEnabled", "BootRetryDelay", "EfiSecureBootEnabled", "NetworkBootProtocol")
    },
    f"{{{VCLOUD}}}Vm": {f"{{{VCLOUD}}}ComputePolicy"},
}


def folder() -> Path | None:
    """Where the schemas lie; None when they are not there."""
    if explicit := os.environ.get("COLDMIG_VCD_SCHEMAS"):
        return Path(explicit) if Path(explicit).is_dir() else None
    beside = Path(__file__).resolve().parents[3].parent / "shared" / "vcd-schemas"
    return beside if beside.is_dir() else None


class _Resolver(etree.Resolver):
    def __init__(self, external: Path) -> None:
        super().__init__()
        self._external = external

    def resolve(self, url: str | None, _public: str | None, context: object) -> object:  # type: ignore[override]
        if url in _EXTERNAL:
            return self.resolve_filename(str(self._external / _EXTERNAL[url]), context)  # type: ignore[attr-defined]
        if url and url.startswith(("http:", "https:")):
            raise FileNotFoundError(f"schema {url} is not in the collection")
        return None


class Judge:
    """Validates documents; without schemas it finds nothing wrong. Safe to share between threads."""

    def __init__(self, base: Path | None) -> None:
        self.available = base is not None
        self._lock = threading.Lock()
        if base is None:
            return
        parser = etree.XMLParser(no_network=True)
        parser.resolvers.add(_Resolver(base / "schemas" / "external"))
        main = base / "1.5" / "schemas" / "extension" / "vmwextensions.xsd"
        self._main = etree.XMLSchema(etree.parse(str(main), parser))
        self._versions = etree.XMLSchema(etree.parse(str(base / "schemas" / "versioning" / "versions.xsd"), parser))

    def errors(self, document: etree._Element) -> list[str]:
        """Give what the schema says is wrong, each with its line; empty when all is well."""
        if not self.available:
            return []
        known = _without_newer(document)
        schema = self._versions if etree.QName(known).namespace == VERSIONS else self._main
        with self._lock:
            if schema.validate(known):
                return []
            return [f"line {entry.line}: {entry.message}" for entry in schema.error_log]  # type: ignore[attr-defined]


def _without_newer(document: etree._Element) -> etree._Element:
    document = copy.deepcopy(document)
    for element in list(document.iter(tag=etree.Element)):
        parent = element.getparent()
        if parent is not None and element.tag in _NEWER.get(str(parent.tag), ()):
            parent.remove(element)
    return document


# Children of sections whose order the schema (or, for newer elements, the API's documentation) prescribes. Used beside
# the schema, and in its place where it is absent.
ORDER: dict[str, list[str]] = {
    f"{{{VCLOUD}}}NetworkConnection": [
        f"{{{VCLOUD}}}{name}"
        for name in (
            "VCloudExtension", "NetworkConnectionIndex", "IpAddress", "IpType", "SecondaryIpAddress", "SecondaryIpType",
            "ExternalIpAddress", "IsConnected", "MACAddress", "IpAddressAllocationMode",
            "SecondaryIpAddressAllocationMode", "NetworkAdapterType",
        )
    ],
    f"{{{VCLOUD}}}NetworkConnectionSection": [
        f"{{{OVF}}}Info",
        *(f"{{{VCLOUD}}}{name}" for name in ("PrimaryNetworkConnectionIndex", "NetworkConnection", "Link")),
    ],
    f"{{{VCLOUD}}}NetworkConfigSection": [
        f"{{{OVF}}}Info",
        *(f"{{{VCLOUD}}}{name}" for name in ("Link", "NetworkConfig")),
    ],
    f"{{{VCLOUD}}}NetworkConfig": [
        f"{{{VCLOUD}}}{name}" for name in ("VCloudExtension", "Link", "Description", "Configuration", "IsDeployed")
    ],
    f"{{{VCLOUD}}}MetadataEntry": [
        f"{{{VCLOUD}}}{name}" for name in ("VCloudExtension", "Link", "Domain", "Key", "Value", "TypedValue")
    ],
    f"{{{VCLOUD}}}GuestCustomizationSection": [
        f"{{{OVF}}}Info",
        *(
            f"{{{VCLOUD}}}{name}"
            for name in (
                "Enabled", "ChangeSid", "VirtualMachineId", "JoinDomainEnabled", "UseOrgSettings", "DomainName",
                "DomainUserName", "DomainUserPassword", "MachineObjectOU", "AdminPasswordEnabled", "AdminPasswordAuto",
                "AdminPassword", "AdminAutoLogonEnabled", "AdminAutoLogonCount", "ResetPasswordRequired",
                "CustomizationScript", "ComputerName", "Link",
            )
        ),
    ],
}  # fmt: skip

_SECTIONS = (
    f"{{{VCLOUD}}}NetworkConnectionSection",
    f"{{{VCLOUD}}}NetworkConfigSection",
    f"{{{VCLOUD}}}GuestCustomizationSection",
)


def order_errors(document: etree._Element, extra: dict[str, list[str]] | None = None) -> list[str]:
    """Find children that are unknown or stand in the wrong place, and sections without the mandatory ovf:Info."""
    orders = ORDER | (extra or {})
    found = []
    for element in document.iter(tag=etree.Element):
        order = orders.get(str(element.tag))
        if order is None:
            continue
        place = 0
        for child in element.iterchildren(tag=etree.Element):
            if child.tag not in order:
                found.append(f"line {child.sourceline}: {child.tag} is not expected in {element.tag}")
            elif order.index(str(child.tag)) < place:
                found.append(f"line {child.sourceline}: {child.tag} stands too late in {element.tag}")
            else:
                place = order.index(str(child.tag))
        if element.tag in _SECTIONS and element.find(f"{{{OVF}}}Info") is None:
            found.append(f"line {element.sourceline}: {element.tag} has no ovf:Info")
    return found
