# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""What the VMware Cloud Director API (``/api``, versions 36 to 39) answers, read. Pure: text in, records out."""

from __future__ import annotations

import re
import typing as t
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

VCLOUD: t.Final = "http://www.vmware.com/vcloud/v1.5"
EXTENSION: t.Final = "http://www.vmware.com/vcloud/extension/v1.5"
OVF: t.Final = "http://schemas.dmtf.org/ovf/envelope/1"
VERSIONS: t.Final = "http://www.vmware.com/vcloud/versions"

SYSTEM_DOMAIN: t.Final = "SYSTEM"
"""Metadata of this domain is written by administrators only: a tenant cannot make an entity look like ours."""

NO_NETWORK: t.Final = "none"

STATUS_UNRESOLVED: t.Final = 0
STATUS_FAILED_CREATION: t.Final = -1
STATUS_POWERED_ON: t.Final = 4
STATUS_WAITING_FOR_INPUT: t.Final = 5
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
    """VCD's ``Error``. ``message`` is for administrators, ``tenant`` what VCD lets a tenant see, if it says so."""

    major: int = 0
    minor: str = ""
    message: str = ""
    vendor: str = ""
    tenant: str | None = None

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
    enabled: bool = True
    vm_quota: int = 0
    hardware_versions: tuple[str, ...] = ()


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
class Disk:
    """A disk of a VM. ``id`` is the device key that vSphere gave it; ``own_profile`` whether it differs from the VM."""

    id: str
    bus: int
    unit: int
    adapter: str = ""
    storage_profile: str | None = None
    own_profile: bool = False


@dataclass(frozen=True)
class Vm:
    """A VM of a vApp, also of the one that a standalone VM has and nobody sees."""

    name: str
    href: str
    id: str
    status: int
    deployed: bool = False
    storage_profile: str | None = None
    storage_profile_href: str | None = None
    vapp: str | None = None
    description: str = ""
    sizing_policy: str | None = None
    tools: str | None = None
    disks: tuple[Disk, ...] = ()
    tasks: tuple[Task, ...] = ()

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
    description: str = ""
    runtime_lease: int = 0
    """Seconds after which VCD stops the vApp; 0 is never."""
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


def expect(body: bytes, local: str, namespace: str = VCLOUD) -> ET.Element:
    root = parse(body)
    if root.tag != f"{{{namespace}}}{local}":
        raise XmlError(f"expected <{local}>, got <{_local(root)}>")
    return root


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def local_name(body: bytes) -> str:
    """Name of the document element."""
    return _local(parse(body))


def vcloud(name: str) -> str:
    return f"{{{VCLOUD}}}{name}"


def child_text(element: ET.Element, name: str) -> str | None:
    found = element.find(vcloud(name))
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
    root = expect(body, "SupportedVersions", VERSIONS)
    found: dict[bool, list[str]] = {True: [], False: []}
    for info in root.iter(f"{{{VERSIONS}}}VersionInfo"):
        version = (info.findtext(f"{{{VERSIONS}}}Version") or "").strip()
        if version_key(version) != (0,):
            found[_true(info.get("deprecated"))].append(version)
    for versions in found.values():
        versions.sort(key=version_key, reverse=True)
    return ApiVersions(tuple(found[False]), tuple(found[True]))


def _error_info(element: ET.Element) -> ErrorInfo:
    tenant = element.find(vcloud("TenantError"))
    return ErrorInfo(
        _int(element.get("majorErrorCode")),
        element.get("minorErrorCode") or "",
        _error_text(element) or "",
        element.get("vendorSpecificErrorCode") or "",
        None if tenant is None else _error_text(tenant),
    )


def _error_text(element: ET.Element) -> str | None:
    # VCD prefixes the message with the request id, which is reported by itself
    return re.sub(r"^\[ [^\]]* \]\s*", "", element.get("message") or "").strip() or None


def read_error(body: bytes) -> ErrorInfo | None:
    """The ``Error`` of an answer, None when the body is something else."""
    try:
        root = parse(body)
    except XmlError:
        return None
    return _error_info(root) if root.tag == vcloud("Error") else None


def _task(element: ET.Element) -> Task:
    owner = element.find(vcloud("Owner"))
    error = element.find(vcloud("Error"))
    progress = child_text(element, "Progress")
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
    return _task(expect(body, "Task"))


def _tasks(element: ET.Element) -> tuple[Task, ...]:
    return tuple(_task(task) for task in element.iterfind(f"{vcloud('Tasks')}/{vcloud('Task')}"))


def _reference(element: ET.Element | None) -> Reference | None:
    return None if element is None else Reference(element.get("name") or "", element.get("href") or "")


def _references(element: ET.Element, path: Sequence[str]) -> tuple[Reference, ...]:
    found = (_reference(child) for child in element.iterfind("/".join(vcloud(step) for step in path)))
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
        enabled=child_text(root, "IsEnabled") != "false",
        vm_quota=_int(child_text(root, "VmQuota")),
        hardware_versions=tuple(
            (entry.text or "").strip()
            for entry in root.iterfind(
                f"{vcloud('Capabilities')}/{vcloud('SupportedHardwareVersions')}/{vcloud('SupportedHardwareVersion')}"
            )
        ),
    )


def _up(element: ET.Element, kind: str) -> str | None:
    """href of the containing entity, by the link to it."""
    for link in element.iterfind(vcloud("Link")):
        if link.get("rel") == "up" and (link.get("type") or f".{kind}+xml").endswith(f".{kind}+xml"):
            return link.get("href")
    return None


def _vm(element: ET.Element) -> Vm:
    profile = _reference(element.find(vcloud("StorageProfile")))
    sizing = _reference(element.find(f"{vcloud('ComputePolicy')}/{vcloud('VmSizingPolicy')}"))
    specification = element.find(vcloud("VmSpecSection"))
    tools = element.find(f"{vcloud('RuntimeInfoSection')}/{vcloud('VMWareTools')}")
    return Vm(
        name=element.get("name") or "",
        href=element.get("href") or "",
        id=element.get("id") or "",
        status=_int(element.get("status")),
        deployed=_true(element.get("deployed")),
        storage_profile=profile.name if profile else None,
        storage_profile_href=profile.href if profile else None,
        vapp=_up(element, "vApp"),
        description=child_text(element, "Description") or "",
        sizing_policy=sizing.name if sizing else None,
        tools=None if tools is None else tools.get("version"),
        disks=() if specification is None else _disks(specification),
        tasks=_tasks(element),
    )


def _disks(specification: ET.Element) -> tuple[Disk, ...]:
    """In the order in which they hang on their controllers."""
    found = []
    for entry in specification.iterfind(f"{vcloud('DiskSection')}/{vcloud('DiskSettings')}"):
        profile = _reference(entry.find(vcloud("StorageProfile")))
        found.append(
            Disk(
                id=child_text(entry, "DiskId") or "",
                bus=_int(child_text(entry, "BusNumber")),
                unit=_int(child_text(entry, "UnitNumber")),
                adapter=child_text(entry, "AdapterType") or "",
                storage_profile=profile.href if profile else None,
                own_profile=_true(child_text(entry, "overrideVmDefault")),
            )
        )
    return tuple(sorted(found, key=lambda disk: (disk.bus, disk.unit)))


def read_vm(body: bytes) -> Vm:
    """A ``Vm``."""
    return _vm(expect(body, "Vm"))


def read_vapp(body: bytes) -> VApp:
    """A ``VApp``, also the half-made one that an import answers with."""
    root = expect(body, "VApp")
    return VApp(
        name=root.get("name") or "",
        href=root.get("href") or "",
        id=root.get("id") or "",
        status=_int(root.get("status")),
        deployed=_true(root.get("deployed")),
        vdc=_up(root, "vdc"),
        description=child_text(root, "Description") or "",
        runtime_lease=_int(root.findtext(f"{vcloud('LeaseSettingsSection')}/{vcloud('DeploymentLeaseInSeconds')}")),
        owner=_reference(root.find(f"{vcloud('Owner')}/{vcloud('User')}")),
        vms=tuple(_vm(vm) for vm in root.iterfind(f"{vcloud('Children')}/{vcloud('Vm')}")),
        tasks=_tasks(root),
    )


def read_records(body: bytes) -> Records:
    """``QueryResultRecords``."""
    root = expect(body, "QueryResultRecords")
    next_page = next(
        (link.get("href") for link in root.iterfind(vcloud("Link")) if link.get("rel") == "nextPage"), None
    )
    records = tuple(dict(child.attrib) for child in root if _local(child).endswith("Record"))
    return Records(records, next_page)


def read_vapp_networks(body: bytes) -> tuple[str, ...]:
    """Names of the networks in a ``NetworkConfigSection``."""
    root = expect(body, "NetworkConfigSection")
    return tuple(config.get("networkName") or "" for config in root.iterfind(vcloud("NetworkConfig")))


def read_nics(body: bytes) -> tuple[Nic, ...]:
    """The connections of a ``NetworkConnectionSection``, by index."""
    root = expect(body, "NetworkConnectionSection")
    nics = [
        Nic(
            index=_int(child_text(entry, "NetworkConnectionIndex")),
            network=entry.get("network") or NO_NETWORK,
            connected=_true(child_text(entry, "IsConnected")),
            mode=child_text(entry, "IpAddressAllocationMode") or "NONE",
            ip=child_text(entry, "IpAddress") or None,
            mac=child_text(entry, "MACAddress") or None,
            adapter=child_text(entry, "NetworkAdapterType") or None,
        )
        for entry in root.iterfind(vcloud("NetworkConnection"))
    ]
    return tuple(sorted(nics, key=lambda nic: nic.index))


def read_customization(body: bytes) -> tuple[bool, str | None]:
    """(enabled, computer name) of a ``GuestCustomizationSection``."""
    root = expect(body, "GuestCustomizationSection")
    return _true(child_text(root, "Enabled")), child_text(root, "ComputerName")


def read_metadata(body: bytes) -> dict[tuple[str, str], str]:
    """``Metadata`` as (domain, key) -> value, values of every type as text. Without a domain it is GENERAL."""
    root = expect(body, "Metadata")
    return {
        (child_text(entry, "Domain") or "GENERAL", child_text(entry, "Key") or ""): (
            entry.findtext(f"{vcloud('TypedValue')}/{vcloud('Value')}") or ""
        ).strip()
        for entry in root.iterfind(vcloud("MetadataEntry"))
    }


def read_question(body: bytes) -> str:
    """Text of a ``VmPendingQuestion``."""
    return child_text(expect(body, "VmPendingQuestion"), "Question") or ""


def read_subnets(body: bytes) -> tuple[str, ...]:
    """Subnets of an ``OrgVdcNetwork``, such as 192.0.2.1/24."""
    found = []
    for scope in parse(body).iter(vcloud("IpScope")):
        gateway = child_text(scope, "Gateway")
        size = child_text(scope, "SubnetPrefixLength") or child_text(scope, "Netmask")
        if gateway and size:
            found.append(f"{gateway}/{size}")
    return tuple(found)


def flag(body: bytes, name: str) -> bool | None:
    """A child of the document element that is true or false, in any namespace; None where there is none."""
    for child in parse(body):
        if _local(child) == name:
            return _true((child.text or "").strip())
    return None


def has_link(body: bytes, rel: str, media: str) -> bool:
    """Whether an entity offers this operation to the session that asked."""
    return any(
        link.get("rel") == rel and link.get("type") == media for link in parse(body).iter() if _local(link) == "Link"
    )
