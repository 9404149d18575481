# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of /api/query."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from lxml import etree

from simulators.vcd.errors import bad_request, no_right
from simulators.vcd.http import Request
from simulators.vcd.markup import Media, el
from simulators.vcd.model import STATUS_NAMES, Entity, VApp
from simulators.vcd.query import compile_filter, paginate

Record = dict[str, Any]


def _metadata(entity: Entity) -> Record:
    found = {}
    for (domain, key), entry in entity.metadata.items():
        found[f"metadata@SYSTEM:{key}" if domain == "SYSTEM" else f"metadata:{key}"] = entry.value
    return found


def _vapps(request: Request) -> Iterator[VApp]:
    user = request.user
    for vapp in request.site.vapps.values():
        mine = vapp.vdc.org is user.org and (user.is_org_admin or vapp.owner is user)
        if user.is_system or mine:
            yield vapp


def _vapp_record(request: Request, vapp: VApp, *, admin: bool) -> Record:
    views = request.views
    record: Record = {
        "href": views.entity_href(vapp),
        "name": vapp.name,
        "vdc": views.vdc_href(vapp.vdc, admin=admin),
        "vdcName": vapp.vdc.name,
        "isEnabled": True,
        "isBusy": vapp.task is not None and not vapp.task.is_over,
        "creationDate": vapp.created,
        "status": STATUS_NAMES[request.site.vapp_status(vapp)],
        "ownerName": vapp.owner.name,
        "isDeployed": vapp.deployed,
        "isInMaintenanceMode": False,
        "isAutoNature": vapp.auto_nature,
        "isExpired": False,
    }
    if admin:
        record |= {"org": views.org_href(vapp.vdc.org, admin=True), "isVdcEnabled": True, "numberOfVMs": len(vapp.vms)}
    else:
        record |= {"isPublic": False}
    return record | _metadata(vapp)


def _vm_records(request: Request, *, admin: bool) -> list[Record]:
    views = request.views
    found = []
    for vapp in _vapps(request):
        for vm in vapp.vms:
            hardware = request.site.hardware(vm)
            record: Record = {
                "href": views.entity_href(vm),
                "name": vm.name,
                "containerName": vapp.name,
                "container": views.entity_href(vapp),
                "vdc": views.vdc_href(vapp.vdc, admin=admin),
                "isVAppTemplate": False,
                "isDeleted": False,
                "guestOs": hardware["guest_id"] if hardware else "",
                "numberOfCpus": hardware["cpus"] if hardware else 0,
                "memoryMB": hardware["memory_mb"] if hardware else 0,
                "status": STATUS_NAMES[request.site.vm_status(vm, hardware)],
                "isDeployed": vm.deployed,
                "isAutoNature": vapp.auto_nature,
                "storageProfileName": vm.profile.name,
            }
            if admin:
                record |= {
                    "org": views.org_href(vapp.vdc.org, admin=True),
                    "vc": views.vim_server_href(),
                    "moref": vm.moref,
                    "isVdcEnabled": True,
                }
            else:
                record |= {
                    "ownerName": vapp.owner.name,
                    "isBusy": vm.task is not None and not vm.task.is_over,
                    "isInMaintenanceMode": False,
                }
            found.append(record | _metadata(vm))
    return found


def _vdcs(request: Request, *, admin: bool) -> list[Record]:
    views = request.views
    found = []
    for vdc in request.site.vdcs.values():
        if not (request.user.is_system or vdc.org is request.user.org):
            continue
        record: Record = {
            "href": views.vdc_href(vdc, admin=admin),
            "name": vdc.name,
            "description": "",
            "isEnabled": True,
            "orgName": vdc.org.name,
            "providerVdcName": "pvdc-north",
            "isBusy": False,
            "status": "READY",
            "isSystemVdc": False,
        }
        if admin:
            record |= {
                "org": views.org_href(vdc.org, admin=True),
                "vc": views.vim_server_href(),
                "vcName": request.site.vim_server_name,
            }
        found.append(record)
    return found


def _profiles(request: Request, *, admin: bool) -> list[Record]:
    views = request.views
    found = []
    for profile in request.site.profiles.values():
        vdc = profile.vdc
        if not (request.user.is_system or vdc.org is request.user.org):
            continue
        record: Record = {
            "href": views.profile_href(profile, admin=admin),
            "name": profile.name,
            "isEnabled": True,
            "isDefaultStorageProfile": profile.default,
            "storageUsedMB": request.site.used_mb(profile) if request.site.storage_limit_mb else 0,
            "storageLimitMB": request.site.storage_limit_mb,
            "vdc": views.vdc_href(vdc, admin=admin),
            "vdcName": vdc.name,
        }
        record |= {"org": views.org_href(vdc.org, admin=True)} if admin else {"isVdcBusy": False}
        found.append(record)
    return found


def _networks(request: Request) -> list[Record]:
    views = request.views
    return [
        {
            "href": views.network_href(network),
            "name": network.name,
            "defaultGateway": network.gateway,
            "netmask": str(network.subnet.netmask),
            "dns1": network.dns,
            "vdc": views.vdc_href(network.vdc),
            "vdcName": network.vdc.name,
            "linkType": 0,
            "isBusy": False,
            "isShared": False,
            "isIpScopeInherited": True,
        }
        for network in request.site.networks.values()
        if request.user.is_system or network.vdc.org is request.user.org
    ]


def _organizations(request: Request) -> list[Record]:
    site = request.site
    orgs = site.orgs.values() if request.user.is_system else [request.user.org]
    return [
        {
            "href": request.views.org_href(org, admin=request.user.is_system),
            "name": org.name,
            "displayName": org.full_name,
            "isEnabled": True,
            "isReadOnly": org is site.system,
            "numberOfVdcs": len(org.vdcs),
        }
        for org in orgs
    ]


def _virtual_centers(request: Request) -> list[Record]:
    site = request.site
    return [
        {
            "href": request.views.vim_server_href(),
            "name": site.vim_server_name,
            "url": site.vcenter_url,
            "userName": site.vcenter_user,
            "isEnabled": True,
            "vcVersion": "8.0.2",
            "status": "READY",
            "isBusy": False,
            "listenerState": "CONNECTED",
            "uuid": "5c1b4a5e-7f35-4c55-9a05-a3b9a2f6c0d1",
            "isSupported": True,
        }
    ]


def _users(request: Request, *, admin: bool) -> list[Record]:
    user = request.user
    found = []
    for other in request.site.users.values():
        if not (user.is_system or other.org is user.org):
            continue
        record: Record = {
            "href": request.views.user_href(other),
            "name": other.name,
            "fullName": other.name,
            "isEnabled": True,
            "isLdapUser": False,
            "identityProviderType": "INTEGRATED",
        }
        found.append(record | ({"org": request.views.org_href(other.org, admin=True)} if admin else {}))
    return found


def _tasks(request: Request, *, admin: bool) -> list[Record]:
    user = request.user
    return [
        {
            "href": request.views.href(f"task/{task.id}"),
            "name": task.operation_name,
            "orgName": task.org.name,
            "org": request.views.org_href(task.org),
            "startDate": task.started,
            "endDate": task.ended,
            "status": task.status,
            "progress": task.progress,
            "ownerName": task.user.name,
            "object": request.views.entity_href(task.owner),
            "objectName": task.owner.name,
            "objectType": "vapp" if isinstance(task.owner, VApp) else "vm",
            "serviceNamespace": "com.vmware.vcloud",
        }
        for task in request.site.tasks.values()
        if (user.is_system and admin) or task.org is user.org
    ]


# type: record element, needs a system administrator (None: also organization administrators), where the records come from
KINDS: dict[str, tuple[str, str, Callable[[Request], list[Record]]]] = {
    "virtualCenter": ("VirtualCenterRecord", "system", _virtual_centers),
    "organization": ("OrgRecord", "all", _organizations),
    "orgVdc": ("OrgVdcRecord", "all", lambda request: _vdcs(request, admin=False)),
    "adminOrgVdc": ("AdminVdcRecord", "system", lambda request: _vdcs(request, admin=True)),
    "orgVdcStorageProfile": ("OrgVdcStorageProfileRecord", "all", lambda request: _profiles(request, admin=False)),
    "adminOrgVdcStorageProfile": (
        "AdminOrgVdcStorageProfileRecord", "system", lambda request: _profiles(request, admin=True)
    ),
    "orgVdcNetwork": ("OrgVdcNetworkRecord", "all", _networks),
    "vApp": ("VAppRecord", "all", lambda r: [_vapp_record(r, vapp, admin=False) for vapp in _vapps(r)]),
    "adminVApp": ("AdminVAppRecord", "admin", lambda r: [_vapp_record(r, vapp, admin=True) for vapp in _vapps(r)]),
    "vm": ("VMRecord", "all", lambda request: _vm_records(request, admin=False)),
    "adminVM": ("AdminVMRecord", "admin", lambda request: _vm_records(request, admin=True)),
    "user": ("UserRecord", "admin", lambda request: _users(request, admin=False)),
    "adminUser": ("AdminUserRecord", "system", lambda request: _users(request, admin=True)),
    "task": ("TaskRecord", "all", lambda request: _tasks(request, admin=False)),
    "adminTask": ("AdminTaskRecord", "system", lambda request: _tasks(request, admin=True)),
}  # fmt: skip

_ATTRIBUTES: dict[str, set[str]] = {
    "vApp": {"isPublic"},
    "adminVApp": {"org", "isVdcEnabled", "numberOfVMs"},
}
_VAPP_ATTRIBUTES = {
    "href", "name", "vdc", "vdcName", "isEnabled", "isBusy", "creationDate", "status", "ownerName", "isDeployed",
    "isInMaintenanceMode", "isAutoNature", "isExpired",
}  # fmt: skip
_VM_ATTRIBUTES = {
    "href", "name", "containerName", "container", "vdc", "isVAppTemplate", "isDeleted", "guestOs", "numberOfCpus",
    "memoryMB", "status", "isDeployed", "isAutoNature", "storageProfileName", "org", "vc", "moref", "ownerName",
    "isBusy",
}  # fmt: skip


def find_records(request: Request, kind: str) -> etree._Element:
    """Run a query.

    Raises:
        ApiError: 400 for an unknown type, format, filter or page; 403 for a type that the session may not ask for.
    """
    if kind not in KINDS:
        raise bad_request(f"Unknown query type {kind}; known are {', '.join(KINDS)}")
    element, access, source = KINDS[kind]
    user = request.user
    if (access == "system" and not user.is_system) or (access == "admin" and not (user.is_system or user.is_org_admin)):
        raise no_right(f"the query {kind}")
    wanted_format = request.parameters.get("format", "records")
    if wanted_format not in ("records", "idrecords"):
        raise bad_request(f"The format {wanted_format!r} is not records (the simulator has no other)")
    records = source(request)
    tenant = request.headers.get("x-vmware-vcloud-tenant-context")
    if tenant and user.is_system:
        records = [record for record in records if "org" not in record or record["org"].rstrip("/").endswith(tenant)]
    if "filter" in request.parameters:
        known = set().union(*(record.keys() for record in records)) if records else set()
        known |= {"name", "href"} | _ATTRIBUTES.get(kind, set())
        if kind in ("vApp", "adminVApp"):
            known |= _VAPP_ATTRIBUTES
        elif kind in ("vm", "adminVM"):
            known |= _VM_ATTRIBUTES
        elif not records:
            known |= {"org", "orgName", "vdc", "vdcName", "status"}
        matches = compile_filter(request.parameters["filter"], known)
        records = [record for record in records if matches(record)]
    records.sort(key=lambda record: str(record.get("name")))
    page = paginate(records, request.parameters)
    base = request.views.href(f"query?type={kind}")
    scope = "&format=records" + (
        f"&filter={quote(request.parameters['filter'])}" if "filter" in request.parameters else ""
    )

    def place(number: int) -> str:
        return f"{base}&page={number}&pageSize={page.size}{scope}"

    links = []
    if page.number < page.last:
        links.append(request.views.link("nextPage", place(page.number + 1), Media.RECORDS))
    if page.number > 1:
        links.append(request.views.link("previousPage", place(page.number - 1), Media.RECORDS))
    return el(
        "QueryResultRecords",
        {
            "total": page.total,
            "pageSize": page.size,
            "page": page.number,
            "name": kind,
            "type": Media.RECORDS,
            "href": place(page.number),
        },
        *links,
        *(
            el(element, {key: value for key, value in record.items() if not key.startswith("metadata")})
            for record in page.items
        ),
    )
