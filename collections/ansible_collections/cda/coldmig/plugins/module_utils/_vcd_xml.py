# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Bodies of the VMware Cloud Director API (``/api``, versions 36 to 39). Pure: text in, text out.

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

VCLOUD: t.Final = "http://www.vmware.com/vcloud/v1.5"
EXTENSION: t.Final = "http://www.vmware.com/vcloud/extension/v1.5"
OVF: t.Final = "http://schemas.dmtf.org/ovf/envelope/1"
VERSIONS: t.Final = "http://www.vmware.com/vcloud/versions"
XSI: t.Final = "http://www.w3.org/2001/XMLSchema-instance"

for _prefix, _namespace in (("", VCLOUD), ("vmext", EXTENSION), ("ovf", OVF), ("xsi", XSI)):
    ET.register_namespace(_prefix, _namespace)

_MEDIA: t.Final = "application/vnd.vmware."
MEDIA_IMPORT_AS_VAPP: t.Final = _MEDIA + "admin.importVmAsVAppParams+xml"
MEDIA_IMPORT_INTO_VAPP: t.Final = _MEDIA + "admin.importVmIntoExistingVAppParams+xml"
MEDIA_NETWORK_CONFIG: t.Final = _MEDIA + "vcloud.networkConfigSection+xml"
MEDIA_NETWORK_CONNECTION: t.Final = _MEDIA + "vcloud.networkConnectionSection+xml"
MEDIA_CUSTOMIZATION: t.Final = _MEDIA + "vcloud.guestCustomizationSection+xml"
MEDIA_METADATA: t.Final = _MEDIA + "vcloud.metadata+xml"
MEDIA_OWNER: t.Final = _MEDIA + "vcloud.owner+xml"
MEDIA_VM: t.Final = _MEDIA + "vcloud.vm+xml"
MEDIA_UNDEPLOY: t.Final = _MEDIA + "vcloud.undeployVAppParams+xml"

NO_NETWORK: t.Final = "none"

STATUS_UNRESOLVED: t.Final = 0
STATUS_FAILED_CREATION: t.Final = -1
STATUS_POWERED_ON: t.Final = 4
STATUS_POWERED_OFF: t.Final = 8
_STATUS_NAMES: t.Final = {
    -1: "failed_creation",
    0: "unresolved",
    1: "resolved",
    3: "suspended",
    4: "powered_on",
    5: "waiting_for_input",
    8: "powered_off",
    9: "inconsistent",
    10: "mixed",
    20: "partially_powered_off",
}
_TERMINAL: t.Final = frozenset({"success", "error", "canceled", "aborted"})


class XmlError(ValueError):
    """An answer that is not the XML that was expected."""


# --- what is read -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ErrorInfo:
    """VCD's ``Error``. ``message`` is the text that a tenant may see where VCD sends one, else the administrator's."""

    major: int = 0
    minor: str = ""
    message: str = ""
    vendor: str = ""

    def __str__(self) -> str:
        return f"{self.message or 'no message'} ({self.minor})" if self.minor else self.message or "no message"


@dataclass(frozen=True)
class Task:
    """A task; ``owner`` is the href of the entity that it works on."""

    href: str
    status: str
    operation: str = ""
    operation_name: str = ""
    progress: int | None = None
    owner: str | None = None
    error: ErrorInfo | None = None

    @property
    def ended(self) -> bool:
        return self.status in _TERMINAL

    @property
    def succeeded(self) -> bool:
        return self.status == "success"


@dataclass(frozen=True)
class Reference:
    """Name and href of an entity."""

    name: str
    href: str


@dataclass(frozen=True)
class Vdc:
    """An organization VDC: what an import may name."""

    name: str
    href: str
    storage_profiles: tuple[Reference, ...]
    networks: tuple[Reference, ...]


@dataclass(frozen=True)
class Nic:
    """A network connection of a VM. ``ip`` only counts with mode MANUAL; ``mac`` None leaves the choice to VCD."""

    index: int
    network: str = NO_NETWORK
    connected: bool = False
    mode: str = "NONE"
    ip: str | None = None
    mac: str | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class Vm:
    """A VM of a vApp."""

    name: str
    href: str
    id: str
    status: int
    deployed: bool = False
    storage_profile: str | None = None
    vapp: str | None = None

    @property
    def status_name(self) -> str:
        return _STATUS_NAMES.get(self.status, str(self.status))


@dataclass(frozen=True)
class VApp:
    """A vApp with its VMs and the tasks that work on it."""

    name: str
    href: str
    id: str
    status: int
    deployed: bool = False
    vdc: str | None = None
    owner: Reference | None = None
    vms: tuple[Vm, ...] = ()
    tasks: tuple[Task, ...] = ()

    @property
    def status_name(self) -> str:
        return _STATUS_NAMES.get(self.status, str(self.status))


@dataclass(frozen=True)
class Records:
    """One page of a query: the attributes of each record, and where the next page is."""

    records: tuple[Mapping[str, str], ...]
    next_page: str | None


@dataclass(frozen=True)
class ApiVersions:
    """Versions from ``/api/versions``, newest first."""

    supported: tuple[str, ...]
    deprecated: tuple[str, ...] = field(default=())


def parse(body: bytes) -> ET.Element:
    """Raises XmlError when ``body`` is not XML."""
    try:
        # The sender is the VCD that TLS authenticated; expat bounds entity expansion by itself.
        return ET.fromstring(body)  # noqa: S314
    except ET.ParseError as error:
        raise XmlError(f"not XML ({error}): {body[:80]!r}") from None


def _expect(body: bytes, local: str, namespace: str = VCLOUD) -> ET.Element:
    root = parse(body)
    if root.tag != f"{{{namespace}}}{local}":
        raise XmlError(f"expected <{local}>, got <{_local(root)}>")
    return root


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _v(name: str) -> str:
    return f"{{{VCLOUD}}}{name}"


def _x(name: str) -> str:
    return f"{{{EXTENSION}}}{name}"


def _text(element: ET.Element, name: str) -> str | None:
    found = element.find(_v(name))
    return None if found is None else (found.text or "").strip()


def _true(value: str | None) -> bool:
    return value in ("true", "1")


def _int(value: str | None, default: int = 0) -> int:
    try:
        return int(value or "")
    except ValueError:
        return default


def version_key(version: str) -> tuple[int, ...]:
    """For ordering; ("0",) for what is not a dotted number, for example 39.0.0-alpha."""
    return tuple(int(part) for part in version.split(".")) if re.fullmatch(r"\d+(\.\d+)*", version) else (0,)


def read_versions(body: bytes) -> ApiVersions:
    """``SupportedVersions``; alpha versions are left out."""
    root = _expect(body, "SupportedVersions", VERSIONS)
    found: dict[bool, list[str]] = {True: [], False: []}
    for info in root.iter(f"{{{VERSIONS}}}VersionInfo"):
        version = (info.findtext(f"{{{VERSIONS}}}Version") or "").strip()
        if version_key(version) != (0,):
            found[_true(info.get("deprecated"))].append(version)
    for versions in found.values():
        versions.sort(key=version_key, reverse=True)
    return ApiVersions(tuple(found[False]), tuple(found[True]))


def _error_info(element: ET.Element) -> ErrorInfo:
    tenant = element.find(_v("TenantError"))
    message = (tenant.get("message") if tenant is not None else None) or element.get("message") or ""
    return ErrorInfo(
        _int(element.get("majorErrorCode")),
        element.get("minorErrorCode") or "",
        # VCD prefixes the message with the request id, which is reported by itself
        re.sub(r"^\[ [^\]]* \]\s*", "", message).strip(),
        element.get("vendorSpecificErrorCode") or "",
    )


def read_error(body: bytes) -> ErrorInfo | None:
    """The ``Error`` of an answer, None when the body is something else."""
    try:
        root = parse(body)
    except XmlError:
        return None
    return _error_info(root) if root.tag == _v("Error") else None


def _task(element: ET.Element) -> Task:
    owner = element.find(_v("Owner"))
    error = element.find(_v("Error"))
    progress = _text(element, "Progress")
    return Task(
        href=element.get("href") or "",
        status=element.get("status") or "",
        operation=element.get("operation") or "",
        operation_name=element.get("operationName") or "",
        progress=_int(progress) if progress else None,
        owner=None if owner is None else owner.get("href"),
        error=None if error is None else _error_info(error),
    )


def read_task(body: bytes) -> Task:
    """A ``Task``."""
    return _task(_expect(body, "Task"))


def _tasks(element: ET.Element) -> tuple[Task, ...]:
    return tuple(_task(task) for task in element.iterfind(f"{_v('Tasks')}/{_v('Task')}"))


def _reference(element: ET.Element | None) -> Reference | None:
    return None if element is None else Reference(element.get("name") or "", element.get("href") or "")


def _references(element: ET.Element, path: Sequence[str]) -> tuple[Reference, ...]:
    found = (_reference(child) for child in element.iterfind("/".join(_v(step) for step in path)))
    return tuple(reference for reference in found if reference is not None)


def read_vdc(body: bytes) -> Vdc:
    """``Vdc`` or ``AdminVdc``."""
    root = parse(body)
    if _local(root) not in ("Vdc", "AdminVdc"):
        raise XmlError(f"expected <Vdc>, got <{_local(root)}>")
    return Vdc(
        root.get("name") or "",
        root.get("href") or "",
        _references(root, ("VdcStorageProfiles", "VdcStorageProfile")),
        _references(root, ("AvailableNetworks", "Network")),
    )


def _up(element: ET.Element, kind: str) -> str | None:
    """href of the containing entity, by the link to it."""
    for link in element.iterfind(_v("Link")):
        if link.get("rel") == "up" and (link.get("type") or f".{kind}+xml").endswith(f".{kind}+xml"):
            return link.get("href")
    return None


def _vm(element: ET.Element) -> Vm:
    profile = _reference(element.find(_v("StorageProfile")))
    return Vm(
        name=element.get("name") or "",
        href=element.get("href") or "",
        id=element.get("id") or "",
        status=_int(element.get("status")),
        deployed=_true(element.get("deployed")),
        storage_profile=profile.name if profile else None,
        vapp=_up(element, "vApp"),
    )


def read_vm(body: bytes) -> Vm:
    """A ``Vm``."""
    return _vm(_expect(body, "Vm"))


def read_vapp(body: bytes) -> VApp:
    """A ``VApp``, also the half-made one that an import answers with."""
    root = _expect(body, "VApp")
    return VApp(
        name=root.get("name") or "",
        href=root.get("href") or "",
        id=root.get("id") or "",
        status=_int(root.get("status")),
        deployed=_true(root.get("deployed")),
        vdc=_up(root, "vdc"),
        owner=_reference(root.find(f"{_v('Owner')}/{_v('User')}")),
        vms=tuple(_vm(vm) for vm in root.iterfind(f"{_v('Children')}/{_v('Vm')}")),
        tasks=_tasks(root),
    )


def read_records(body: bytes) -> Records:
    """``QueryResultRecords``."""
    root = _expect(body, "QueryResultRecords")
    next_page = next((link.get("href") for link in root.iterfind(_v("Link")) if link.get("rel") == "nextPage"), None)
    records = tuple(dict(child.attrib) for child in root if _local(child).endswith("Record"))
    return Records(records, next_page)


def read_vapp_networks(body: bytes) -> tuple[str, ...]:
    """Names of the networks in a ``NetworkConfigSection``."""
    root = _expect(body, "NetworkConfigSection")
    return tuple(config.get("networkName") or "" for config in root.iterfind(_v("NetworkConfig")))


def read_nics(body: bytes) -> tuple[Nic, ...]:
    """The connections of a ``NetworkConnectionSection``, by index."""
    root = _expect(body, "NetworkConnectionSection")
    nics = [
        Nic(
            index=_int(_text(entry, "NetworkConnectionIndex")),
            network=entry.get("network") or NO_NETWORK,
            connected=_true(_text(entry, "IsConnected")),
            mode=_text(entry, "IpAddressAllocationMode") or "NONE",
            ip=_text(entry, "IpAddress") or None,
            mac=_text(entry, "MACAddress") or None,
            adapter=_text(entry, "NetworkAdapterType") or None,
        )
        for entry in root.iterfind(_v("NetworkConnection"))
    ]
    return tuple(sorted(nics, key=lambda nic: nic.index))


def read_customization(body: bytes) -> tuple[bool, str | None]:
    """(enabled, computer name) of a ``GuestCustomizationSection``."""
    root = _expect(body, "GuestCustomizationSection")
    return _true(_text(root, "Enabled")), _text(root, "ComputerName")


def read_metadata(body: bytes) -> dict[str, str]:
    """``Metadata`` as key -> value, values of every type as text."""
    root = _expect(body, "Metadata")
    return {
        _text(entry, "Key") or "": (entry.findtext(f"{_v('TypedValue')}/{_v('Value')}") or "").strip()
        for entry in root.iterfind(_v("MetadataEntry"))
    }


def has_link(body: bytes, rel: str, media: str) -> bool:
    """Whether an entity offers this operation to the session that asked."""
    return any(
        link.get("rel") == rel and link.get("type") == media for link in parse(body).iter() if _local(link) == "Link"
    )


# --- what is sent -------------------------------------------------------------------------------------------------


def _emit(root: ET.Element) -> bytes:
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)


def _add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


def import_as_vapp(
    *,
    name: str,
    vm_name: str,
    computer_name: str,
    vm_moref: str,
    vdc: str,
    storage_profile: str | None,
    description: str,
) -> bytes:
    """``ImportVmAsVAppParams``: by move, neither deployed nor powered on, whatever VCD's defaults are."""
    root = ET.Element(
        _x("ImportVmAsVAppParams"), {"name": name, "deploy": "false", "powerOn": "false", "sourceMove": "true"}
    )
    _add(root, _v("Description"), description)
    _add(root, _x("VmName"), vm_name)
    _add(root, _x("ComputerName"), computer_name)
    _add(root, _x("VmMoRef"), vm_moref)
    if storage_profile is not None:
        _add(root, _x("VdcStorageProfile"), href=storage_profile)
    _add(root, _x("Vdc"), href=vdc)
    return _emit(root)


def import_into_vapp(
    *,
    vm_name: str,
    computer_name: str,
    vm_moref: str,
    vapp: str,
    storage_profile: str | None,
    description: str,
) -> bytes:
    """``ImportVmIntoExistingVAppParams``, by move."""
    root = ET.Element(_x("ImportVmIntoExistingVAppParams"), {"sourceMove": "true"})
    _add(root, _x("VmName"), vm_name)
    _add(root, _x("VmDescription"), description)
    _add(root, _x("ComputerName"), computer_name)
    _add(root, _x("VmMoRef"), vm_moref)
    if storage_profile is not None:
        _add(root, _x("VdcStorageProfile"), href=storage_profile)
    _add(root, _x("VApp"), href=vapp)
    return _emit(root)


def change_vapp_networks(section: bytes, *, add: Iterable[Reference] = (), drop: Collection[str] = ()) -> bytes:
    """The section with organization networks attached directly (bridged) and others dropped.

    A PUT replaces the section, so everything else stays as VCD sent it, but for links, which are VCD's alone.
    """
    root = _expect(section, "NetworkConfigSection")
    for child in list(root):
        if child.tag == _v("Link") or (child.tag == _v("NetworkConfig") and child.get("networkName") in drop):
            root.remove(child)
    for attribute in ("href", "type"):
        root.attrib.pop(attribute, None)
    for config in root.iterfind(_v("NetworkConfig")):
        for link in config.findall(_v("Link")):
            config.remove(link)
    for network in add:
        config = ET.Element(_v("NetworkConfig"), {"networkName": network.name})
        settings = _add(config, _v("Configuration"))
        _add(settings, _v("ParentNetwork"), href=network.href, name=network.name)
        _add(settings, _v("FenceMode"), "bridged")
        # after ovf:Info and the other networks, before anything of other namespaces
        last = max(i for i, child in enumerate(root) if child.tag in (f"{{{OVF}}}Info", _v("NetworkConfig")))
        root.insert(last + 1, config)
    return _emit(root)


def network_connections(nics: Iterable[Nic], primary: int = 0) -> bytes:
    """``NetworkConnectionSection`` with exactly these connections. Element order matters to VCD."""
    root = ET.Element(_v("NetworkConnectionSection"))
    _add(root, f"{{{OVF}}}Info", "Network connections")
    listed = list(nics)
    if listed:
        _add(root, _v("PrimaryNetworkConnectionIndex"), str(primary))
    for nic in listed:
        entry = _add(root, _v("NetworkConnection"), network=nic.network, needsCustomization="false")
        _add(entry, _v("NetworkConnectionIndex"), str(nic.index))
        if nic.ip is not None and nic.mode == "MANUAL":
            _add(entry, _v("IpAddress"), nic.ip)
        _add(entry, _v("IsConnected"), "true" if nic.connected else "false")
        if nic.mac is not None:
            _add(entry, _v("MACAddress"), nic.mac)
        _add(entry, _v("IpAddressAllocationMode"), nic.mode)
        if nic.adapter is not None:
            _add(entry, _v("NetworkAdapterType"), nic.adapter)
    return _emit(root)


def customization_off(computer_name: str) -> bytes:
    """``GuestCustomizationSection`` that leaves the guest alone."""
    root = ET.Element(_v("GuestCustomizationSection"))
    _add(root, f"{{{OVF}}}Info", "Guest customization is off: the guest keeps what it was migrated with")
    _add(root, _v("Enabled"), "false")
    _add(root, _v("ComputerName"), computer_name)
    return _emit(root)


def metadata(entries: Mapping[str, str]) -> bytes:
    """``Metadata`` of string entries."""
    root = ET.Element(_v("Metadata"))
    for key, value in entries.items():
        entry = _add(root, _v("MetadataEntry"))
        _add(entry, _v("Key"), key)
        typed = _add(entry, _v("TypedValue"), **{f"{{{XSI}}}type": "MetadataStringValue"})
        _add(typed, _v("Value"), value)
    return _emit(root)


def owner(user: str) -> bytes:
    """``Owner``: the user with this href."""
    root = ET.Element(_v("Owner"))
    _add(root, _v("User"), href=user)
    return _emit(root)


def rename_vm(name: str, description: str | None = None) -> bytes:
    """``Vm`` for reconfigureVm with nothing but name and description: sections that are left out stay as they are."""
    root = ET.Element(_v("Vm"), {"name": name})
    if description is not None:
        _add(root, _v("Description"), description)
    return _emit(root)


def undeploy() -> bytes:
    """``UndeployVAppParams`` that powers off, without asking the guest."""
    root = ET.Element(_v("UndeployVAppParams"))
    _add(root, _v("UndeployPowerAction"), "powerOff")
    return _emit(root)


def safe_computer_name(name: str, *, windows: bool = False) -> str:
    """A name that VCD accepts as computer name: letters, digits and hyphens, at most 15 (Windows) or 63 characters."""
    short = name.partition(".")[0] if re.search(r"[A-Za-z]", name) else name
    cleaned = re.sub(r"[^A-Za-z0-9-]+", "-", short).strip("-")[: 15 if windows else 63].strip("-")
    if not cleaned or cleaned.isdigit():  # an all-digit name is refused
        cleaned = f"vm-{cleaned}".strip("-")[: 15 if windows else 63]
    return cleaned
