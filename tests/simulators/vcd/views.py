# SPDX-License-Identifier: GPL-3.0-or-later
"""XML representations of what the simulated VCD knows."""

from __future__ import annotations

import datetime
import uuid
from dataclasses import dataclass
from typing import Any

from lxml import etree

from simulators.vcd.errors import ApiError
from simulators.vcd.markup import OVF, Media, el, leaf
from simulators.vcd.model import (
    NIC_TYPES,
    POWERED_OFF,
    POWERED_ON,
    UNRESOLVED,
    Entity,
    MetadataEntry,
    Network,
    Nic,
    Org,
    Profile,
    Session,
    Site,
    Task,
    User,
    VApp,
    VAppNetwork,
    Vdc,
    Vm,
)

_INFO = {
    "NetworkConfigSection": "The configuration parameters for logical networks",
    "NetworkConnectionSection": "Specifies the available VM network connections",
    "GuestCustomizationSection": "Specifies Guest OS Customization Settings",
}
_CONTROLLERS = {  # vSphere class → OVF resource type and sub-type, VCD's AdapterType, VCD's bus type
    "ParaVirtualSCSIController": (6, "VirtualSCSI", "5", "6"),
    "VirtualLsiLogicController": (6, "lsilogic", "3", "6"),
    "VirtualLsiLogicSASController": (6, "lsilogicsas", "4", "6"),
    "VirtualBusLogicController": (6, "buslogic", "2", "6"),
    "VirtualIDEController": (5, None, "1", "5"),
    "VirtualAHCIController": (20, "vmware.sata.ahci", "6", "20"),
    "VirtualNVMEController": (20, "vmware.nvme.controller", "7", "20"),
}


def info_text(text: str) -> etree._Element:
    """An ovf:Info with a text."""
    return el("ovf:Info", None, text)


def info(section: str) -> etree._Element:
    """The mandatory first child of a section."""
    return el("ovf:Info", None, _INFO[section])


@dataclass(frozen=True)
class Views:
    """Writes documents for one request: with its address of this site, its session and its API version."""

    site: Site
    base: str
    session: Session
    version: tuple[int, int]

    # addresses

    def href(self, path: str) -> str:
        return f"{self.base}/api/{path}"

    def org_href(self, org: Org, *, admin: bool = False) -> str:
        return self.href(f"admin/org/{org.id}" if admin else f"org/{org.id}")

    def vdc_href(self, vdc: Vdc, *, admin: bool = False) -> str:
        return self.href(f"admin/vdc/{vdc.id}" if admin else f"vdc/{vdc.id}")

    def profile_href(self, profile: Profile, *, admin: bool = False) -> str:
        return self.href(f"admin/vdcStorageProfile/{profile.id}" if admin else f"vdcStorageProfile/{profile.id}")

    def network_href(self, network: Network, *, admin: bool = False) -> str:
        return self.href(f"admin/network/{network.id}" if admin else f"network/{network.id}")

    def user_href(self, user: User) -> str:
        return self.href(f"admin/user/{user.id}")

    def vim_server_href(self) -> str:
        return self.href(f"admin/extension/vimServer/{self.site.vim_server_id}")

    def entity_href(self, entity: Entity) -> str:
        return self.href(f"vApp/{'vm' if isinstance(entity, Vm) else 'vapp'}-{entity.id}")

    @property
    def is_system(self) -> bool:
        return self.session.user.is_system

    # small parts

    @staticmethod
    def link(rel: str, href: str, media: str | None = None, name: str | None = None) -> etree._Element:
        return el("Link", {"rel": rel, "href": href, "type": media, "name": name})

    def user_ref(self, user: User, tag: str = "User") -> etree._Element:
        return el(
            tag,
            {"href": self.user_href(user), "type": Media.USER, "name": user.name, "id": f"urn:vcloud:user:{user.id}"},
        )

    def error(self, error: ApiError, tag: str = "Error") -> etree._Element:
        if tag == "TenantError" or not self.is_system:
            error = error.for_tenants()
        attributes: dict[str, object] = {
            "majorErrorCode": error.status,
            "minorErrorCode": error.minor,
            "message": error.message,
        }
        tenant = None
        if self.is_system and tag == "Error":
            if error.status >= 500:
                attributes["stackTrace"] = "com.vmware.vcloud.simulated.Trace"
            if error.tenant is not None:
                tenant = self.error(error, "TenantError")
        return el(tag, attributes, tenant)

    # sessions and roots

    def session_document(self) -> etree._Element:
        user = self.session.user
        links = [
            self.link("down", self.href("org/"), Media.ORG_LIST),
            self.link("down", self.href("admin/"), Media.ADMIN),
            self.link("down", self.org_href(user.org), Media.ORG, user.org.name),
            self.link("down", self.href("query"), Media.QUERY_LIST),
            self.link("remove", self.href("session"), None),
        ]
        if user.is_system:
            links.insert(0, self.link("down", self.href("admin/extension"), Media.EXTENSION))
        location = el(
            "AuthorizedLocations",
            None,
            el(
                "Location",
                {"name": "site-north"},
                el("LocationId", None, f"{user.org.id}@{self.site.vim_server_id}"),
                el("LocationName", None, "site-north"),
                el("OrgName", None, user.org.name),
                el("RestApiEndpoint", None, self.base),
                el("UIEndpoint", None, self.base),
                el("AuthContext", None, user.org.name),
            ),
        )
        return el(
            "Session",
            {
                "user": user.name,
                "org": user.org.name,
                "userId": f"urn:vcloud:user:{user.id}",
                "roles": user.role,
                "locationId": f"{user.org.id}@{self.site.vim_server_id}",
                "href": self.href("session"),
                "type": Media.SESSION,
            },
            *links,
            location,
        )

    def org_list(self, orgs: list[Org]) -> etree._Element:
        refs = [el("Org", {"href": self.org_href(org), "type": Media.ORG, "name": org.name}) for org in orgs]
        return el("OrgList", {"href": self.href("org/"), "type": Media.ORG_LIST}, *refs)

    def org(self, org: Org, *, admin: bool = False) -> etree._Element:
        kind = "adminOrgVdc" if self.is_system else "orgVdc"
        scope = f"&filter=org=={self.org_href(org)}" if self.is_system else ""
        links = [
            self.link("down", self.href(f"query?type={kind}&format=records{scope}"), Media.RECORDS, None),
            *(self.link("down", self.vdc_href(vdc), Media.VDC, vdc.name) for vdc in org.vdcs.values()),
            *(
                self.link("down", self.network_href(network), Media.ORG_NETWORK, network.name)
                for vdc in org.vdcs.values()
                for network in vdc.networks.values()
            ),
        ]
        attributes: dict[str, object] = {
            "name": org.name,
            "id": f"urn:vcloud:org:{org.id}",
            "href": self.org_href(org, admin=admin),
            "type": Media.ADMIN_ORG if admin else Media.ORG,
        }
        children = [
            *links,
            el("Description", None, ""),
            el("FullName", None, org.full_name),
            el("IsEnabled", None, True),
        ]
        if not admin:
            return el("Org", attributes, *children)
        users = [self.user_ref(user, "UserReference") for user in org.users.values()]
        vdcs = [
            el("Vdc", {"href": self.vdc_href(vdc, admin=True), "type": Media.ADMIN_VDC, "name": vdc.name})
            for vdc in org.vdcs.values()
        ]
        return el("AdminOrg", attributes, *children, el("Settings"), el("Users", None, *users), el("Vdcs", None, *vdcs))

    def extension(self) -> etree._Element:
        return el(
            "vmext:VMWExtension",
            {"href": self.href("admin/extension"), "type": Media.EXTENSION},
            self.link("down", self.href("admin/extension/vimServerReferences"), Media.VIM_SERVERS),
        )

    def vim_servers(self) -> etree._Element:
        reference = el(
            "vmext:VimServerReference",
            {"href": self.vim_server_href(), "type": Media.VIM_SERVER, "name": self.site.vim_server_name},
        )
        href = self.href("admin/extension/vimServerReferences")
        return el("vmext:VMWVimServerReferences", {"href": href, "type": Media.VIM_SERVERS}, reference)

    def vim_server(self) -> etree._Element:
        href = self.vim_server_href()
        return el(
            "vmext:VimServer",
            {
                "name": self.site.vim_server_name,
                "id": f"urn:vcloud:vimserver:{self.site.vim_server_id}",
                "href": href,
                "type": Media.VIM_SERVER,
            },
            self.link("add", f"{href}/importVmAsVApp", Media.IMPORT_AS_VAPP),
            self.link("add", f"{href}/importVmIntoExistingVApp", Media.IMPORT_INTO_VAPP),
            self.link("add", f"{href}/importVm", Media.IMPORT_VM),
            el("Description", None, ""),
            el("vmext:Username", None, self.site.vcenter_user),
            el("vmext:Url", None, self.site.vcenter_url),
            el("vmext:IsEnabled", None, True),
            el("vmext:IsConnected", None, True),
            el("vmext:Uuid", None, "5c1b4a5e-7f35-4c55-9a05-a3b9a2f6c0d1"),
            el("vmext:VcProxy", None, ""),
            el("vmext:VcVersion", None, "8.0.2"),
        )

    # VDC, storage, networks, users

    def vdc(self, vdc: Vdc, vapps: list[VApp], *, admin: bool = False) -> etree._Element:
        entities = [
            el(
                "ResourceEntity",
                {
                    "href": self.entity_href(vapp),
                    "type": Media.VAPP,
                    "name": vapp.name,
                    "id": f"urn:vcloud:vapp:{vapp.id}",
                },
            )
            for vapp in vapps
        ]
        networks = [
            el(
                "Network",
                {
                    "href": self.network_href(network),
                    "type": "application/vnd.vmware.vcloud.network+xml",
                    "name": network.name,
                },
            )
            for network in vdc.networks.values()
        ]
        profiles = [
            el(
                "VdcStorageProfile",
                {
                    "href": self.profile_href(profile),
                    "type": Media.STORAGE_PROFILE,
                    "name": profile.name,
                    "id": f"urn:vcloud:vdcstorageProfile:{profile.id}",
                },
            )
            for profile in vdc.profiles.values()
        ]
        versions = [
            el("SupportedHardwareVersion", None, f"vmx-{number}") for number in (13, 14, 15, 17, 18, 19, 20, 21)
        ]
        zero = [
            el("Units", None, "MHz"),
            el("Allocated", None, 0),
            el("Limit", None, 0),
            el("Reserved", None, 0),
            el("Used", None, 0),
        ]
        memory = [
            el("Units", None, "MB"),
            el("Allocated", None, 0),
            el("Limit", None, 0),
            el("Reserved", None, 0),
            el("Used", None, 0),
        ]
        return el(
            "AdminVdc" if admin else "Vdc",
            {
                "name": vdc.name,
                "id": f"urn:vcloud:vdc:{vdc.id}",
                "href": self.vdc_href(vdc, admin=admin),
                "type": Media.ADMIN_VDC if admin else Media.VDC,
                "status": 1,
            },
            self.link("up", self.org_href(vdc.org, admin=admin), Media.ADMIN_ORG if admin else Media.ORG, vdc.org.name),
            self.link("add", f"{self.vdc_href(vdc)}/action/composeVApp", Media.COMPOSE),
            el("Description", None, ""),
            el("AllocationModel", None, "AllocationVApp"),
            el("ComputeCapacity", None, el("Cpu", None, *zero), el("Memory", None, *memory)),
            el("ResourceEntities", None, *entities),
            el("AvailableNetworks", None, *networks),
            el("Capabilities", None, el("SupportedHardwareVersions", None, *versions)),
            el("NicQuota", None, 0),
            el("NetworkQuota", None, 20),
            el("UsedNetworkCount", None, len(networks)),
            el("VmQuota", None, self.site.vm_quota),
            el("IsEnabled", None, True),
            el("VdcStorageProfiles", None, *profiles),
        )

    def profile(self, profile: Profile) -> etree._Element:
        return el(
            "VdcStorageProfile",
            {
                "name": profile.name,
                "id": f"urn:vcloud:vdcstorageProfile:{profile.id}",
                "href": self.profile_href(profile),
                "type": Media.STORAGE_PROFILE,
            },
            self.link("up", self.vdc_href(profile.vdc), Media.VDC),
            el("Enabled", None, True),
            el("Units", None, "MB"),
            el("Limit", None, self.site.storage_limit_mb),
            el("Default", None, profile.default),
        )

    @staticmethod
    def _scope(network: Network, *, inherited: bool) -> etree._Element:
        ranges = el(
            "IpRanges",
            None,
            el("IpRange", None, el("StartAddress", None, network.first), el("EndAddress", None, network.last)),
        )
        return el(
            "IpScopes",
            None,
            el(
                "IpScope",
                None,
                el("IsInherited", None, inherited),
                el("Gateway", None, network.gateway),
                el("Netmask", None, str(network.subnet.netmask)),
                leaf("Dns1", network.dns),
                el("IsEnabled", None, True),
                ranges,
            ),
        )

    def network(self, network: Network) -> etree._Element:
        return el(
            "OrgVdcNetwork",
            {
                "name": network.name,
                "id": f"urn:vcloud:network:{network.id}",
                "href": self.network_href(network),
                "type": Media.ORG_NETWORK,
                "status": 1,
            },
            self.link("up", self.vdc_href(network.vdc), Media.VDC),
            el("Description", None, ""),
            el("Configuration", None, self._scope(network, inherited=False), el("FenceMode", None, "bridged")),
            el("IsShared", None, False),
        )

    def user(self, user: User) -> etree._Element:
        return el(
            "User",
            {"name": user.name, "id": f"urn:vcloud:user:{user.id}", "href": self.user_href(user), "type": Media.USER},
            el("FullName", None, user.name),
            el("IsEnabled", None, True),
            el("IsLocked", None, False),
            el("Role", {"href": self.href("admin/role/0"), "name": user.role}),
        )

    # tasks

    def task(self, task: Task) -> etree._Element:
        error = None
        if task.error is not None:
            error = self.error(task.error)
            if self.is_system and task.error.tenant is None:
                error.append(self.error(task.error, "TenantError"))
        expiry = datetime.datetime.fromisoformat(task.started) + datetime.timedelta(days=90)
        href = self.href(f"task/{task.id}")
        kind = Media.VM if isinstance(task.owner, Vm) else Media.VAPP
        return el(
            "Task",
            {
                "status": task.status,
                "startTime": task.started,
                "serviceNamespace": "com.vmware.vcloud",
                "operationName": task.operation_name,
                "operation": task.operation,
                "expiryTime": expiry.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "endTime": task.ended,
                "cancelRequested": task.cancel_requested,
                "name": "task",
                "id": f"urn:vcloud:task:{task.id}",
                "href": href,
                "type": Media.TASK,
            },
            None if task.is_over else self.link("task:cancel", f"{href}/action/cancel"),
            el("Description", None, task.operation),
            el("Owner", {"href": self.entity_href(task.owner), "type": kind, "name": task.owner.name}),
            error,
            self.user_ref(task.user),
            el("Organization", {"href": self.org_href(task.org), "type": Media.ORG, "name": task.org.name}),
            el("Progress", None, task.progress),
            el("Details", None, task.details),
        )

    def _tasks(self, entity: Entity) -> etree._Element | None:
        task = entity.task
        if task is None or task.status == "success":
            return None
        return el("Tasks", None, self.task(task))

    # sections

    def network_config(self, vapp: VApp) -> etree._Element:
        href = f"{self.entity_href(vapp)}/networkConfigSection/"
        configs = [self._vapp_network(network) for network in vapp.networks.values()]
        if any(nic.network == "none" for vm in vapp.vms for nic in vm.nics):
            configs.append(_NONE_NETWORK())
        return el(
            "NetworkConfigSection",
            {"href": href, "type": Media.NETWORK_CONFIG, "ovf:required": False},
            info("NetworkConfigSection"),
            self.link("edit", href, Media.NETWORK_CONFIG),
            *configs,
        )

    def _vapp_network(self, network: VAppNetwork) -> etree._Element:
        parent = None
        if network.parent is not None:
            scopes: etree._Element | None = self._scope(network.parent, inherited=True)
            parent = el(
                "ParentNetwork",
                {
                    "href": self.network_href(network.parent, admin=self.is_system),
                    "id": f"urn:vcloud:network:{network.parent.id}",
                    "name": network.parent.name,
                },
            )
        else:
            scope = el(
                "IpScope",
                None,
                el("IsInherited", None, False),
                el("Gateway", None, network.gateway or "192.168.254.1"),
                el("Netmask", None, network.netmask or "255.255.255.0"),
                el("IsEnabled", None, True),
            )
            scopes = el("IpScopes", None, scope)
        configuration = el(
            "Configuration",
            None,
            scopes,
            parent,
            el("FenceMode", None, network.fence),
            el("RetainNetInfoAcrossDeployments", None, False),
        )
        return el(
            "NetworkConfig",
            {"networkName": network.name},
            leaf("Description", network.description),
            configuration,
            el("IsDeployed", None, False),
        )

    def network_connections(self, vm: Vm) -> etree._Element:
        href = f"{self.entity_href(vm)}/networkConnectionSection/"
        connections = [self._connection(nic) for nic in vm.nics]
        return el(
            "NetworkConnectionSection",
            {"href": href, "type": Media.NETWORK_CONNECTION, "ovf:required": False},
            info("NetworkConnectionSection"),
            el("PrimaryNetworkConnectionIndex", None, vm.primary_nic) if vm.nics else None,
            *connections,
            self.link("edit", href, Media.NETWORK_CONNECTION),
        )

    def _connection(self, nic: Nic) -> etree._Element:
        return el(
            "NetworkConnection",
            {"network": nic.network, "needsCustomization": nic.needs_customization},
            el("NetworkConnectionIndex", None, nic.index),
            leaf("IpAddress", nic.ip),
            leaf("IpType", "IPV4") if nic.ip else None,
            el("IsConnected", None, nic.connected),
            el("MACAddress", None, nic.mac),
            el("IpAddressAllocationMode", None, nic.mode),
            el("NetworkAdapterType", None, nic.adapter),
        )

    def customization(self, vm: Vm) -> etree._Element:
        href = f"{self.entity_href(vm)}/guestCustomizationSection/"
        children = [leaf(key, value) for key, value in vm.customization.items() if key != "AdminPassword"]
        return el(
            "GuestCustomizationSection",
            {"href": href, "type": Media.CUSTOMIZATION, "ovf:required": False},
            info("GuestCustomizationSection"),
            *children,
            self.link("edit", href, Media.CUSTOMIZATION),
        )

    def hardware(self, vm: Vm, view: dict[str, Any]) -> etree._Element:
        href = f"{self.entity_href(vm)}/virtualHardwareSection/"
        system = el(
            "ovf:System",
            None,
            el("vssd:ElementName", None, "Virtual Hardware Family"),
            el("vssd:InstanceID", None, 0),
            el("vssd:VirtualSystemIdentifier", None, vm.name),
            el("vssd:VirtualSystemType", None, view["version"]),
        )
        return el(
            "ovf:VirtualHardwareSection",
            {
                "vcloud:href": href,
                "vcloud:type": "application/vnd.vmware.vcloud.virtualHardwareSection+xml",
                "ovf:transport": "",
            },
            el("ovf:Info", None, "Virtual hardware requirements"),
            system,
            *self._items(vm, view),
        )

    def _items(self, vm: Vm, view: dict[str, Any]) -> list[etree._Element]:
        items = []
        for nic in vm.nics:
            connection = el(
                "rasd:Connection",
                {
                    "vcloud:ipAddressingMode": nic.mode,
                    "vcloud:ipAddress": nic.ip,
                    "vcloud:primaryNetworkConnection": nic.index == vm.primary_nic,
                },
                nic.network,
            )
            items.append(
                el(
                    "ovf:Item",
                    None,
                    el("rasd:Address", None, nic.mac),
                    el("rasd:AddressOnParent", None, nic.index),
                    el("rasd:AutomaticAllocation", None, nic.connected),
                    connection,
                    el("rasd:Description", None, f"{nic.adapter} ethernet adapter"),
                    el("rasd:ElementName", None, f"Network adapter {nic.index}"),
                    el("rasd:InstanceID", None, 10 + nic.index),
                    el("rasd:ResourceSubType", None, nic.adapter),
                    el("rasd:ResourceType", None, 10),
                )
            )
        controllers: dict[int, dict[str, Any]] = {disk["controller_key"]: disk for disk in view["disks"]}
        for key, disk in controllers.items():
            kind, sub_type, _, _ = _CONTROLLERS[disk["controller"]]
            items.append(
                el(
                    "ovf:Item",
                    None,
                    el("rasd:Address", None, disk["bus"]),
                    el("rasd:Description", None, "Controller"),
                    el("rasd:ElementName", None, f"Controller {disk['bus']}"),
                    el("rasd:InstanceID", None, key),
                    leaf("rasd:ResourceSubType", sub_type),
                    el("rasd:ResourceType", None, kind),
                )
            )
        for disk in view["disks"]:
            _, sub_type, _, bus = _CONTROLLERS[disk["controller"]]
            resource = el(
                "rasd:HostResource",
                {
                    "vcloud:capacity": disk["capacity_bytes"] >> 20,
                    "vcloud:busType": bus,
                    "vcloud:busSubType": sub_type,
                    "vcloud:storageProfileHref": self.profile_href(vm.disk_profiles.get(disk["key"], vm.profile)),
                    "vcloud:storageProfileOverrideVmDefault": disk["key"] in vm.disk_profiles,
                },
            )
            items.append(
                el(
                    "ovf:Item",
                    None,
                    el("rasd:AddressOnParent", None, disk["unit"]),
                    el("rasd:Description", None, "Hard disk"),
                    el("rasd:ElementName", None, disk["label"]),
                    resource,
                    el("rasd:InstanceID", None, disk["key"]),
                    el("rasd:Parent", None, disk["controller_key"]),
                    el("rasd:ResourceType", None, 17),
                    el("rasd:VirtualQuantity", None, disk["capacity_bytes"]),
                    el("rasd:VirtualQuantityUnits", None, "byte"),
                )
            )
        items.append(
            el(
                "ovf:Item",
                None,
                el("rasd:AllocationUnits", None, "hertz * 10^6"),
                el("rasd:Description", None, "Number of Virtual CPUs"),
                el("rasd:ElementName", None, f"{view['cpus']} virtual CPU(s)"),
                el("rasd:InstanceID", None, 4),
                el("rasd:Reservation", None, 0),
                el("rasd:ResourceType", None, 3),
                el("rasd:VirtualQuantity", None, view["cpus"]),
                el("rasd:Weight", None, 0),
                el("vmw:CoresPerSocket", {"ovf:required": False}, view["cores_per_socket"] or 1),
            )
        )
        items.append(
            el(
                "ovf:Item",
                None,
                el("rasd:AllocationUnits", None, "byte * 2^20"),
                el("rasd:Description", None, "Memory Size"),
                el("rasd:ElementName", None, f"{view['memory_mb']} MB of memory"),
                el("rasd:InstanceID", None, 5),
                el("rasd:Reservation", None, 0),
                el("rasd:ResourceType", None, 4),
                el("rasd:VirtualQuantity", None, view["memory_mb"]),
                el("rasd:Weight", None, 0),
            )
        )
        return items

    def vm_spec(self, vm: Vm, view: dict[str, Any]) -> etree._Element:
        disks = []
        for disk in view["disks"]:
            profile = vm.disk_profiles.get(disk["key"], vm.profile)
            disks.append(
                el(
                    "DiskSettings",
                    None,
                    el("DiskId", None, disk["key"]),
                    el("SizeMb", None, disk["capacity_bytes"] >> 20),
                    el("UnitNumber", None, disk["unit"]),
                    el("BusNumber", None, disk["bus"]),
                    el("AdapterType", None, _CONTROLLERS[disk["controller"]][2]),
                    el("ThinProvisioned", None, True),
                    el(
                        "StorageProfile",
                        {
                            "href": self.profile_href(profile),
                            "type": Media.STORAGE_PROFILE,
                            "name": profile.name,
                            "id": f"urn:vcloud:vdcstorageProfile:{profile.id}",
                        },
                    ),
                    el("overrideVmDefault", None, disk["key"] in vm.disk_profiles),
                    el("VirtualQuantityUnit", None, "byte"),
                    el("VirtualQuantity", None, disk["capacity_bytes"]),
                )
            )
        return el(
            "VmSpecSection",
            {"Modified": False},
            el("ovf:Info", None, "VM specification"),
            el("OsType", None, view["guest_id"]),
            el("NumCpus", None, view["cpus"]),
            el("NumCoresPerSocket", None, view["cores_per_socket"] or 1),
            el(
                "CpuResourceMhz",
                None,
                el("Configured", None, 1000),
                el("Reservation", None, 0),
                el("SharesLevel", None, "NORMAL"),
            ),
            el(
                "MemoryResourceMb",
                None,
                el("Configured", None, view["memory_mb"]),
                el("Reservation", None, 0),
                el("SharesLevel", None, "NORMAL"),
            ),
            el("MediaSection"),
            el("DiskSection", None, *disks),
            el("HardwareVersion", {"href": self.href(f"vdc/{vm.vapp.vdc.id}/hwv/{view['version']}")}, view["version"]),
            el("VmToolsVersion", None, ""),
            el("TimeSyncWithHost", None, False),
            el("Firmware", None, view["firmware"] or "bios") if self.version >= (37, 1) else None,
        )

    # vApp and VM

    def vm(self, vm: Vm) -> etree._Element:
        view = self.site.hardware(vm)
        status = self.site.vm_status(vm, view)
        href = self.entity_href(vm)
        links = []
        if vm.task is None or vm.task.is_over:
            links = self._power_links(href, status, deployed=vm.deployed)
            links += [
                self.link("edit", href, Media.VM),
                self.link("reconfigureVm", f"{href}/action/reconfigureVm", Media.VM, vm.name),
            ]
        links += [
            self.link("down", f"{href}/metadata", Media.METADATA),
            self.link("up", self.entity_href(vm.vapp), Media.VAPP),
            self.link("storageProfile", self.profile_href(vm.profile), Media.STORAGE_PROFILE),
        ]
        sections: list[etree._Element | None] = []
        boot: etree._Element | None = None
        if view is not None:
            operating_system = el(
                "ovf:OperatingSystemSection",
                {
                    "ovf:id": 1,
                    "vmw:osType": view["guest_id"],
                    "vcloud:href": f"{href}/operatingSystemSection/",
                    "vcloud:type": "application/vnd.vmware.vcloud.operatingSystemSection+xml",
                },
                el("ovf:Info", None, "Specifies the operating system installed"),
                el("ovf:Description", None, view["guest_id"]),
            )
            tools = view.get("tools_version") if view["power"] == "poweredOn" else None
            sections = [
                self.hardware(vm, view),
                operating_system,
                el("RuntimeInfoSection", None, info_text("Runtime info"), el("VMWareTools", {"version": tools}))
                if tools
                else None,
                self.network_connections(vm),
                self.customization(vm),
                self.vm_spec(vm, view),
            ]
            boot = el(
                "BootOptions",
                None,
                el("BootDelay", None, 0),
                el("EnterBIOSSetup", None, False),
                *([el("EfiSecureBootEnabled", None, view["secure_boot"])] if self.version >= (37, 1) else []),
            )
        return el(
            "Vm",
            {
                "name": vm.name,
                "id": f"urn:vcloud:vm:{vm.id}",
                "href": href,
                "type": Media.VM,
                "status": status,
                "deployed": vm.deployed,
                "needsCustomization": bool(vm.customization.get("Enabled")),
                "nestedHypervisorEnabled": False,
            },
            self._vim_info(vm) if self.is_system and vm.moref else None,
            *links,
            el("Description", None, vm.description),
            self._tasks(vm),
            *sections,
            el("DateCreated", None, vm.created),
            el("VAppScopedLocalId", None, vm.local_id),
            el(
                "VmCapabilities",
                {"href": f"{href}/vmCapabilities/", "type": "application/vnd.vmware.vcloud.vmCapabilitiesSection+xml"},
                el("MemoryHotAddEnabled", None, False),
                el("CpuHotAddEnabled", None, False),
            ),
            el(
                "StorageProfile",
                {
                    "href": self.profile_href(vm.profile),
                    "type": Media.STORAGE_PROFILE,
                    "name": vm.profile.name,
                    "id": f"urn:vcloud:vdcstorageProfile:{vm.profile.id}",
                },
            ),
            el(
                "ComputePolicy",
                None,
                el("VmSizingPolicy", {"href": self._policy_href(vm.sizing_policy), "name": vm.sizing_policy}),
                el("VmSizingPolicyFinal", None, False),
            ),
            boot,
        )

    def _policy_href(self, name: str) -> str:
        key = uuid.uuid5(uuid.NAMESPACE_DNS, name)
        return f"{self.base}/cloudapi/2.0.0/vdcComputePolicies/urn:vcloud:vdcComputePolicy:{key}"

    def _vim_info(self, vm: Vm) -> etree._Element:
        def reference(tag: str, moref: str, kind: str) -> etree._Element:
            return el(
                tag,
                None,
                el(
                    "vmext:VimServerRef",
                    {"href": self.vim_server_href(), "type": Media.VIM_SERVER, "name": self.site.vim_server_name},
                ),
                el("vmext:MoRef", None, moref),
                el("vmext:VimObjectType", None, kind),
            )

        return el(
            "VCloudExtension",
            {"required": False},
            el(
                "vmext:VmVimInfo",
                None,
                reference("vmext:VmVimObjectRef", vm.moref, "VIRTUAL_MACHINE"),
                reference("vmext:DatastoreVimObjectRef", "datastore-1", "DATASTORE"),
                reference("vmext:HostVimObjectRef", "host-1", "HOST"),
                el("vmext:VirtualDisksMaxChainLength", None, 1),
            ),
        )

    def _power_links(self, href: str, status: int, *, deployed: bool) -> list[etree._Element]:
        def action(rel: str, name: str, media: str | None = None) -> etree._Element:
            return self.link(rel, f"{href}/{name}", media)

        links = []
        if status == POWERED_ON:
            links = [
                action("power:powerOff", "power/action/powerOff"),
                action("power:reset", "power/action/reset"),
                action("power:shutdown", "power/action/shutdown"),
                action("power:suspend", "power/action/suspend"),
            ]
        elif status not in (UNRESOLVED,):
            links = [action("power:powerOn", "power/action/powerOn")]
        if deployed:
            links.append(action("undeploy", "action/undeploy", Media.UNDEPLOY))
        else:
            links.append(action("deploy", "action/deploy", Media.DEPLOY))
        if status == POWERED_OFF and not deployed:
            links.append(self.link("remove", href))
        return links

    def vapp(self, vapp: VApp) -> etree._Element:
        status = self.site.vapp_status(vapp)
        href = self.entity_href(vapp)
        links = []
        if vapp.task is None or vapp.task.is_over:
            links = self._power_links(href, status, deployed=vapp.deployed)
            if not vapp.vms:
                links.append(self.link("remove", href))
            links.append(self.link("edit", href, Media.VAPP))
        links += [
            self.link("down", f"{href}/owner", Media.OWNER),
            self.link("down", f"{href}/metadata", Media.METADATA),
            self.link("up", self.vdc_href(vapp.vdc), Media.VDC),
        ]
        links += [
            self.link(
                "down",
                self.href(f"network/{vapp.id}-{index}"),
                "application/vnd.vmware.vcloud.vAppNetwork+xml",
                network,
            )
            for index, network in enumerate(vapp.networks)
        ]
        lease = el(
            "LeaseSettingsSection",
            {
                "href": f"{href}/leaseSettingsSection/",
                "type": "application/vnd.vmware.vcloud.leaseSettingsSection+xml",
                "ovf:required": False,
            },
            el("ovf:Info", None, "Lease settings section"),
            el("DeploymentLeaseInSeconds", None, self.site.runtime_lease),
            el("StorageLeaseInSeconds", None, 0),
        )
        networks = [el("ovf:Network", {"ovf:name": name}, el("ovf:Description", None, "")) for name in vapp.networks]
        network_section = el(
            "ovf:NetworkSection", None, el("ovf:Info", None, "The list of logical networks"), *networks
        )
        children = el("Children", None, *(self.vm(vm) for vm in vapp.vms)) if vapp.vms else None
        return el(
            "VApp",
            {
                "name": vapp.name,
                "id": f"urn:vcloud:vapp:{vapp.id}",
                "href": href,
                "type": Media.VAPP,
                "status": status,
                "deployed": vapp.deployed,
                "ovfDescriptorUploaded": True,
            },
            *links,
            el("Description", None, vapp.description),
            self._tasks(vapp),
            lease,
            network_section if networks else None,
            self.network_config(vapp),
            el("DateCreated", None, vapp.created),
            self.owner(vapp),
            el("autoNature", None, vapp.auto_nature),
            el("InMaintenanceMode", None, False),
            children,
        )

    def owner(self, vapp: VApp) -> etree._Element:
        return el(
            "Owner",
            {"type": Media.OWNER, "href": f"{self.entity_href(vapp)}/owner"},
            self.user_ref(vapp.owner),
        )

    # metadata

    def metadata_entry(self, entity: Entity, entry: MetadataEntry, tag: str = "MetadataEntry") -> etree._Element:
        place = f"{entry.domain}/{entry.key}" if entry.domain == "SYSTEM" else entry.key
        href = f"{self.entity_href(entity)}/metadata/{place}"
        return el(
            tag,
            {"href": href, "type": Media.METADATA_VALUE},
            self.link("up", f"{self.entity_href(entity)}/metadata", Media.METADATA),
            self.link("edit", href, Media.METADATA_VALUE),
            self.link("remove", href),
            el("Domain", {"visibility": entry.visibility}, entry.domain),
            el("Key", None, entry.key) if tag == "MetadataEntry" else None,
            el("TypedValue", {"xsi:type": entry.kind}, el("Value", None, entry.value)),
        )

    def metadata(self, entity: Entity, entries: list[MetadataEntry]) -> etree._Element:
        href = f"{self.entity_href(entity)}/metadata"
        return el(
            "Metadata",
            {"href": href, "type": Media.METADATA},
            self.link("up", self.entity_href(entity), Media.VM if isinstance(entity, Vm) else Media.VAPP),
            self.link("add", href, Media.METADATA),
            *(self.metadata_entry(entity, entry) for entry in entries),
        )


def _NONE_NETWORK() -> etree._Element:  # noqa: N802
    """The network that every vApp with a NIC on "none" shows."""
    scope = el(
        "IpScope",
        None,
        el("IsInherited", None, False),
        el("Gateway", None, "196.254.254.254"),
        el("Netmask", None, "255.255.0.0"),
        el("Dns1", None, "196.254.254.254"),
    )
    return el(
        "NetworkConfig",
        {"networkName": "none"},
        el("Description", None, "This is a special place-holder used for disconnected network interfaces."),
        el("Configuration", None, el("IpScopes", None, scope), el("FenceMode", None, "isolated")),
        el("IsDeployed", None, False),
    )


def adapter_of(nic: dict[str, Any]) -> str:
    """VCD's name of a vSphere NIC class."""
    return NIC_TYPES.get(nic["type"], "E1000")


OVF_INFO = f"{{{OVF}}}Info"
