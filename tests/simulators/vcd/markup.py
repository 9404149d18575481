# SPDX-License-Identifier: GPL-3.0-or-later
"""Namespaces, media types and a small element builder for the XML of the VCD API."""

from __future__ import annotations

from lxml import etree

VCLOUD = "http://www.vmware.com/vcloud/v1.5"
EXTENSION = "http://www.vmware.com/vcloud/extension/v1.5"
VERSIONS = "http://www.vmware.com/vcloud/versions"
OVF = "http://schemas.dmtf.org/ovf/envelope/1"
RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
VSSD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
VMW = "http://www.vmware.com/schema/ovf"
XSI = "http://www.w3.org/2001/XMLSchema-instance"

NSMAP: dict[str | None, str] = {
    None: VCLOUD,
    "vmext": EXTENSION,
    "ovf": OVF,
    "rasd": RASD,
    "vssd": VSSD,
    "vmw": VMW,
    "xsi": XSI,
}
_BY_PREFIX = {prefix: uri for prefix, uri in NSMAP.items() if prefix} | {"vcloud": VCLOUD}

Child = "etree._Element | str | int | bool | None"


def name(short: str) -> str:
    """Expand `ovf:Info` to its qualified name; without a prefix the vCloud namespace is meant."""
    prefix, colon, local = short.rpartition(":")
    return f"{{{_BY_PREFIX[prefix] if colon else VCLOUD}}}{local}"


def _attribute(short: str) -> str:
    prefix, colon, local = short.rpartition(":")
    return f"{{{_BY_PREFIX[prefix]}}}{local}" if colon else local


def text(value: object) -> str:
    """Write a value the way XML Schema does."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def el(
    tag: str,
    attributes: dict[str, object] | None = None,
    *children: etree._Element | str | int | bool | None,
) -> etree._Element:
    """Build an element. Attributes and children that are None are left out."""
    element = etree.Element(name(tag), nsmap=NSMAP)  # type: ignore[arg-type]
    for key, value in (attributes or {}).items():
        if value is not None:
            element.set(_attribute(key), text(value))
    for child in children:
        if child is None:
            continue
        if isinstance(child, etree._Element):
            element.append(child)
        else:
            element.text = text(child)
    return element


def leaf(tag: str, value: object | None) -> etree._Element | None:
    """Build an element with a text; None gives None."""
    return None if value is None else el(tag, None, text(value))


def serialize(element: etree._Element) -> bytes:
    """Write a whole document."""
    etree.cleanup_namespaces(element)
    return etree.tostring(element, xml_declaration=True, encoding="UTF-8")


def parse(data: bytes) -> etree._Element:
    """Read a document from a client: no entities, no network.

    Raises:
        etree.XMLSyntaxError: not well-formed.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True)
    return etree.fromstring(data, parser)


class Media:
    """Media types, as they stand in Content-Type (without the API version)."""

    SESSION = "application/vnd.vmware.vcloud.session+xml"
    ORG = "application/vnd.vmware.vcloud.org+xml"
    ORG_LIST = "application/vnd.vmware.vcloud.orgList+xml"
    ADMIN = "application/vnd.vmware.admin.vcloud+xml"
    ADMIN_ORG = "application/vnd.vmware.admin.organization+xml"
    EXTENSION = "application/vnd.vmware.admin.vmwExtension+xml"
    VIM_SERVERS = "application/vnd.vmware.admin.vmwVimServerReferences+xml"
    VIM_SERVER = "application/vnd.vmware.admin.vmwvirtualcenter+xml"
    VDC = "application/vnd.vmware.vcloud.vdc+xml"
    ADMIN_VDC = "application/vnd.vmware.admin.vdc+xml"
    STORAGE_PROFILE = "application/vnd.vmware.vcloud.vdcStorageProfile+xml"
    ORG_NETWORK = "application/vnd.vmware.vcloud.orgVdcNetwork+xml"
    VAPP = "application/vnd.vmware.vcloud.vApp+xml"
    VM = "application/vnd.vmware.vcloud.vm+xml"
    TASK = "application/vnd.vmware.vcloud.task+xml"
    ERROR = "application/vnd.vmware.vcloud.error+xml"
    METADATA = "application/vnd.vmware.vcloud.metadata+xml"
    METADATA_VALUE = "application/vnd.vmware.vcloud.metadata.value+xml"
    OWNER = "application/vnd.vmware.vcloud.owner+xml"
    USER = "application/vnd.vmware.admin.user+xml"
    NETWORK_CONFIG = "application/vnd.vmware.vcloud.networkConfigSection+xml"
    NETWORK_CONNECTION = "application/vnd.vmware.vcloud.networkConnectionSection+xml"
    CUSTOMIZATION = "application/vnd.vmware.vcloud.guestCustomizationSection+xml"
    UNDEPLOY = "application/vnd.vmware.vcloud.undeployVAppParams+xml"
    DEPLOY = "application/vnd.vmware.vcloud.deployVAppParams+xml"
    QUERY_LIST = "application/vnd.vmware.vcloud.query.queryList+xml"
    RECORDS = "application/vnd.vmware.vcloud.query.records+xml"
    IMPORT_AS_VAPP = "application/vnd.vmware.admin.importVmAsVAppParams+xml"
    IMPORT_INTO_VAPP = "application/vnd.vmware.admin.importVmIntoExistingVAppParams+xml"
    COMPOSE = "application/vnd.vmware.vcloud.composeVAppParams+xml"
    IMPORT_VM = "application/vnd.vmware.admin.importVmParams+xml"
