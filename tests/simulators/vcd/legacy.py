# SPDX-License-Identifier: GPL-3.0-or-later
"""The XML API below /api."""

from __future__ import annotations

import ipaddress
import re
import secrets
import string
import uuid
from collections.abc import Callable
from typing import Any

from lxml import etree

from simulators.control import ControlError
from simulators.vcd.errors import ApiError, bad_request, duplicate, forbidden, no_right, quota
from simulators.vcd.http import Answer, Request, Routes
from simulators.vcd.markup import XSI, Media, el, name
from simulators.vcd.model import (
    DEFAULT_POLICY,
    FAILED_CREATION,
    POWERED_OFF,
    POWERED_ON,
    RESOLVED,
    SUSPENDED,
    UNRESOLVED,
    Entity,
    MetadataEntry,
    Network,
    Nic,
    Profile,
    Task,
    VApp,
    VAppNetwork,
    Vdc,
    Vm,
)
from simulators.vcd.records import KINDS, find_records
from simulators.vcd.schemas import ORDER
from simulators.vcd.views import adapter_of

routes = Routes()

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_COMPUTER_NAME = re.compile(r"(?!\d+$)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_ADAPTERS = ("VMXNET3", "E1000", "E1000E", "VMXNET2", "VLANCE")
_MODES = ("POOL", "DHCP", "MANUAL", "NONE")
_METADATA_KINDS = ("MetadataStringValue", "MetadataNumberValue", "MetadataBooleanValue", "MetadataDateTimeValue")
_MAX_NAME = 128
_MAX_NICS = 10


# looking up


def _visible_vdc(request: Request, vdc: Vdc) -> bool:
    return request.user.is_system or vdc.org is request.user.org


def _may_see(request: Request, vapp: VApp) -> bool:
    user = request.user
    if user.is_system:
        return True
    return vapp.vdc.org is user.org and (user.is_org_admin or vapp.owner is user)


def get_vapp(request: Request, key: str) -> VApp:
    """Give a vApp that the session may see.

    Raises:
        ApiError: 403, for one that is not there as well.
    """
    vapp = request.site.vapps.get(key)
    if vapp is None or not _may_see(request, vapp):
        raise forbidden(f"urn:vcloud:vapp:{key}")
    return vapp


def get_vm(request: Request, key: str) -> Vm:
    """Give a VM that the session may see, as get_vapp."""
    vm = request.site.vms.get(key)
    if vm is None or not _may_see(request, vm.vapp):
        raise forbidden(f"urn:vcloud:vm:{key}")
    return vm


def get_entity(request: Request, key: str) -> Vm | VApp:
    """Give what the last part of an /api/vApp/ address names: `vapp-<id>` or `vm-<id>`."""
    kind, _, identifier = key.partition("-")
    if kind == "vapp":
        return get_vapp(request, identifier)
    if kind == "vm":
        return get_vm(request, identifier)
    raise forbidden(key)


def _from_href(request: Request, element: etree._Element, kinds: tuple[str, ...]) -> str:
    """Give the id in a reference to this VCD."""
    href = element.get("href", "")
    for kind in kinds:
        prefix = f"{request.base}/api/{kind}"
        if href.startswith(prefix):
            return href[len(prefix) :].strip("/")
    raise bad_request(f"{etree.QName(element).localname}: {href!r} is not a reference to {kinds[0]} of this cloud")


def _vdc_of(request: Request, element: etree._Element) -> Vdc:
    key = _from_href(request, element, ("vdc/", "admin/vdc/"))
    vdc = request.site.vdcs.get(key)
    if vdc is None or not _visible_vdc(request, vdc):
        raise forbidden(f"urn:vcloud:vdc:{key}")
    return vdc


def _profile_of(request: Request, element: etree._Element, vdc: Vdc) -> Profile:
    key = _from_href(request, element, ("vdcStorageProfile/", "admin/vdcStorageProfile/"))
    profile = request.site.profiles.get(key)
    if profile is None or not _visible_vdc(request, profile.vdc):
        raise forbidden(f"urn:vcloud:vdcstorageProfile:{key}")
    if profile.vdc is not vdc:
        raise bad_request(f"The storage profile {profile.name} does not belong to the VDC {vdc.name}.")
    return profile


def _default_profile(vdc: Vdc) -> Profile:
    for profile in vdc.profiles.values():
        if profile.default:
            return profile
    raise bad_request(f"The VDC {vdc.name} has no default storage profile.")


def _child(element: etree._Element, tag: str) -> etree._Element | None:
    return element.find(name(tag))


def _text(element: etree._Element, tag: str) -> str | None:
    child = _child(element, tag)
    return None if child is None else (child.text or "").strip()


def _is_true(value: str | None, default: bool = False) -> bool:
    return default if value is None else value.strip() in ("true", "1")


def _task_answer(request: Request, task: Task, status: int = 202) -> Answer:
    return Answer(status, request.views.task(task), Media.TASK, {"Location": f"{request.base}/api/task/{task.id}"})


def _start(
    request: Request, entity: Vm | VApp, operation_name: str, operation: str, work: Callable[[Task], None]
) -> Answer:
    org = (entity.vapp if isinstance(entity, Vm) else entity).vdc.org
    return _task_answer(request, request.site.start(entity, org, request.user, (operation_name, operation), work))


def _describe(verb: str, entity: Entity) -> str:
    kind = "Virtual Machine" if isinstance(entity, Vm) else "Virtual Application"
    return f"{verb} {kind} {entity.name}({entity.id})"


# versions, session, roots


@routes.add("GET", "/api/versions", open_=True)
def versions(request: Request) -> Answer:
    infos = []
    for version in request.site.versions:
        url = f"{request.base}/cloudapi/1.0.0/sessions"
        info = etree.SubElement(etree.Element("x"), "{http://www.vmware.com/vcloud/versions}VersionInfo")
        info.set("deprecated", "false")
        for tag, value in (
            ("Version", f"{version[0]}.{version[1]}"), ("LoginUrl", url), ("ProviderLoginUrl", f"{url}/provider"),
        ):  # fmt: skip
            etree.SubElement(info, f"{{http://www.vmware.com/vcloud/versions}}{tag}").text = value
        infos.append(info)
    nsmap: dict[str | None, str] = {None: "http://www.vmware.com/vcloud/versions"}
    document = etree.Element("{http://www.vmware.com/vcloud/versions}SupportedVersions", nsmap=nsmap)  # type: ignore[arg-type]
    document.extend(infos)
    return Answer(200, document, "text/xml")


@routes.add("GET", "/api/session")
def session(request: Request) -> Answer:
    return Answer(200, request.views.session_document(), Media.SESSION)


@routes.add("DELETE", "/api/session")
def end_session(request: Request) -> Answer:
    """Gone from the API since 38.0."""
    if request.version >= (38, 0):
        raise ApiError(405, "METHOD_NOT_ALLOWED", "DELETE is not supported by /api/session since 38.0")
    assert request.session is not None
    request.site.sessions.pop(request.session.token, None)
    return Answer(204)


@routes.add("GET", "/api/org")
def orgs(request: Request) -> Answer:
    found = list(request.site.orgs.values()) if request.user.is_system else [request.user.org]
    return Answer(200, request.views.org_list(found), Media.ORG_LIST)


@routes.add("GET", "/api/org/{key}")
def org(request: Request, key: str) -> Answer:
    found = request.site.orgs.get(key)
    if found is None or not (request.user.is_system or found is request.user.org):
        raise forbidden(f"urn:vcloud:org:{key}")
    return Answer(200, request.views.org(found), Media.ORG)


@routes.add("GET", "/api/admin/org/{key}")
def admin_org(request: Request, key: str) -> Answer:
    found = request.site.orgs.get(key)
    user = request.user
    if found is None or not (user.is_system or (user.is_org_admin and found is user.org)):
        raise forbidden(f"urn:vcloud:org:{key}")
    return Answer(200, request.views.org(found, admin=True), Media.ADMIN_ORG)


@routes.add("GET", "/api/vdc/{key}")
def vdc(request: Request, key: str) -> Answer:
    return _vdc(request, key, admin=False)


@routes.add("GET", "/api/admin/vdc/{key}")
def admin_vdc(request: Request, key: str) -> Answer:
    return _vdc(request, key, admin=True)


def _vdc(request: Request, key: str, *, admin: bool) -> Answer:
    found = request.site.vdcs.get(key)
    if (
        found is None
        or not _visible_vdc(request, found)
        or (admin and not (request.user.is_system or request.user.is_org_admin))
    ):
        raise forbidden(f"urn:vcloud:vdc:{key}")
    vapps = [vapp for vapp in request.site.vapps.values() if vapp.vdc is found and _may_see(request, vapp)]
    media = Media.ADMIN_VDC if admin else Media.VDC
    return Answer(200, request.views.vdc(found, vapps, admin=admin), media)


@routes.add("GET", "/api/vdcStorageProfile/{key}")
@routes.add("GET", "/api/admin/vdcStorageProfile/{key}")
def storage_profile(request: Request, key: str) -> Answer:
    found = request.site.profiles.get(key)
    if found is None or not _visible_vdc(request, found.vdc):
        raise forbidden(f"urn:vcloud:vdcstorageProfile:{key}")
    return Answer(200, request.views.profile(found), Media.STORAGE_PROFILE)


@routes.add("GET", "/api/network/{key}")
@routes.add("GET", "/api/admin/network/{key}")
def network(request: Request, key: str) -> Answer:
    found = request.site.networks.get(key)
    if found is None or not _visible_vdc(request, found.vdc):
        raise forbidden(f"urn:vcloud:network:{key}")
    return Answer(200, request.views.network(found), Media.ORG_NETWORK)


@routes.add("GET", "/api/admin/user/{key}")
def admin_user(request: Request, key: str) -> Answer:
    found = request.site.users.get(key)
    user = request.user
    if found is None or not (user.is_system or found is user or (user.is_org_admin and found.org is user.org)):
        raise forbidden(f"urn:vcloud:user:{key}")
    return Answer(200, request.views.user(found), Media.USER)


@routes.add("GET", "/api/admin/extension")
def extension(request: Request) -> Answer:
    request.require_system("The extension API")
    return Answer(200, request.views.extension(), Media.EXTENSION)


@routes.add("GET", "/api/admin/extension/vimServerReferences")
def vim_servers(request: Request) -> Answer:
    request.require_system("The extension API")
    return Answer(200, request.views.vim_servers(), Media.VIM_SERVERS)


@routes.add("GET", "/api/admin/extension/vimServer/{key}")
def vim_server(request: Request, key: str) -> Answer:
    _check_vim_server(request, key)
    return Answer(200, request.views.vim_server(), Media.VIM_SERVER)


def _check_vim_server(request: Request, key: str) -> None:
    request.require_system("The extension API")
    if key != request.site.vim_server_id:
        raise forbidden(f"urn:vcloud:vimserver:{key}")


@routes.add("GET", "/api/task/{key}")
def task(request: Request, key: str) -> Answer:
    return Answer(200, request.views.task(_task(request, key)), Media.TASK)


def _task(request: Request, key: str) -> Task:
    found = request.site.tasks.get(key)
    if found is None or not (request.user.is_system or found.org is request.user.org):
        raise forbidden(f"urn:vcloud:task:{key}")
    return found


@routes.add("POST", "/api/task/{key}/action/cancel")
def cancel_task(request: Request, key: str) -> Answer:
    found = _task(request, key)
    if found.is_over:
        raise bad_request(f"The task {key} is over.")
    found.cancel_requested = True
    return Answer(204)


# imports

_IMPORT_TAIL = [
    "vmext:VmName",
    "vmext:VAppScopedLocalId",
    "vmext:ComputerName",
    "vmext:VmMoRef",
    "vmext:VdcStorageProfile",
]
_IMPORTS: dict[str, tuple[str, str, list[str], list[str]]] = {
    # operation: media, root, order of children, required ones
    "importVmAsVApp": (
        Media.IMPORT_AS_VAPP,
        "vmext:ImportVmAsVAppParams",
        ["Description", "VAppParent", "InstantiationParams", *_IMPORT_TAIL, "vmext:Vdc", "vmext:ImportedDisk"],
        ["vmext:VmMoRef", "vmext:Vdc"],
    ),
    "importVm": (
        Media.IMPORT_VM,
        "vmext:ImportVmParams",
        ["Description", *_IMPORT_TAIL, "vmext:Vdc", "vmext:ImportedDisk"],
        ["vmext:VmName", "vmext:VmMoRef", "vmext:Vdc"],
    ),
    "importVmIntoExistingVApp": (
        Media.IMPORT_INTO_VAPP,
        "vmext:ImportVmIntoExistingVAppParams",
        ["vmext:VmName", "vmext:VmDescription", *_IMPORT_TAIL[1:], "vmext:VApp", "vmext:ImportedDisk"],
        ["vmext:VmName", "vmext:VmMoRef", "vmext:VApp"],
    ),
}


_COMPOSE = ["Description", "VAppParent", "InstantiationParams", "SourcedItem", "AllEULAsAccepted"]


def _import_document(request: Request, operation: str) -> etree._Element:
    media, root, order, required = _IMPORTS[operation]
    document = request.document(name(root), media, {name(root): [name(tag) for tag in order]})
    for tag in required:
        if not _text(document, tag) and _child(document, tag) is None:
            raise bad_request(f"{root} needs {tag}")
    return document


def _check_name(value: str | None, what: str) -> str:
    if not value or len(value) > _MAX_NAME:
        raise bad_request(f"{what} must have 1 to {_MAX_NAME} characters, got {value!r}")
    return value


def _check_computer_name(value: str | None) -> None:
    if value is not None and not _COMPUTER_NAME.fullmatch(value):
        raise bad_request(
            f"The computer name {value!r} is not valid: letters, digits and hyphens, not only digits, "
            "at most 63 characters."
        )


def _source_vm(request: Request, document: etree._Element) -> dict[str, Any]:
    moref = _text(document, "vmext:VmMoRef") or ""
    for vm in request.site.inventory():
        if vm["id"] == moref:
            if vm["managed_by"]:
                raise bad_request(f"The VM {moref} is already managed by this cloud.")
            if vm["template"]:
                raise bad_request(f"The VM {moref} is a template.")
            return vm
    raise ApiError(
        400,
        "RESOLUTION_ERROR",
        f"Cannot find the VM with the moref {moref} in the inventory of {request.site.vim_server_name}.",
    )


def _make_vm(request: Request, document: etree._Element, vapp: VApp, source: dict[str, Any]) -> Vm:
    profile_element = _child(document, "vmext:VdcStorageProfile")
    profile = _default_profile(vapp.vdc) if profile_element is None else _profile_of(request, profile_element, vapp.vdc)
    disks = {disk["key"]: disk for disk in source["disks"]}
    disk_profiles = {}
    for imported in document.iterfind(name("vmext:ImportedDisk")):
        instance = imported.get("instanceId", "")
        if not instance.isdecimal() or int(instance) not in disks:
            raise bad_request(f"ImportedDisk: the VM has no disk with instanceId {instance!r}; it has {sorted(disks)}")
        reference = _child(imported, "vmext:VdcStorageProfile")
        if reference is not None:
            disk_profiles[int(instance)] = _profile_of(request, reference, vapp.vdc)
    _check_storage(request, source, profile, disk_profiles)
    computer_name = _text(document, "vmext:ComputerName")
    _check_computer_name(computer_name)
    vm_name = _check_name(_text(document, "vmext:VmName") or source["name"], "VmName")
    if any(vm.name == vm_name for vm in vapp.vms):
        raise duplicate(vm_name)
    _check_quota(request, vapp.vdc, vm_name)
    vm = Vm(
        id=str(uuid.uuid4()),
        name=vm_name,
        description=_text(document, "vmext:VmDescription") or "",
        vapp=vapp,
        profile=profile,
        disk_profiles=disk_profiles,
        local_id=_text(document, "vmext:VAppScopedLocalId") or str(uuid.uuid4()),
    )
    fallback = re.sub(r"[^A-Za-z0-9-]", "-", vm_name)[:15].strip("-") or "vm"
    # what VCD sets by itself: customization is on, and would run at the first power-on
    vm.customization = {
        "Enabled": True, "ChangeSid": False, "VirtualMachineId": vm.id, "JoinDomainEnabled": False,
        "UseOrgSettings": False, "AdminPasswordEnabled": True, "AdminPasswordAuto": True,
        "AdminAutoLogonEnabled": False, "AdminAutoLogonCount": 0,
        "ResetPasswordRequired": False, "ComputerName": computer_name or fallback,
    }  # fmt: skip
    return vm


def _check_quota(request: Request, target: Vdc, vm_name: str) -> None:
    limit = request.site.vm_quota
    if limit and sum(len(vapp.vms) for vapp in request.site.vapps.values() if vapp.vdc is target) >= limit:
        raise quota("VM", limit, f"{vm_name} in the VDC {target.name}")


def _check_storage(
    request: Request, source: dict[str, Any], profile: Profile, disk_profiles: dict[int, Profile]
) -> None:
    limit = request.site.storage_limit_mb
    for wanted in {profile, *disk_profiles.values()} if limit else ():
        needed = sum(
            disk["capacity_bytes"] >> 20
            for disk in source["disks"]
            if disk_profiles.get(disk["key"], profile) is wanted
        )
        if request.site.used_mb(wanted) + needed > limit:
            raise ApiError(
                400,
                "STORAGE_QUOTA_EXCEEDED",
                f"The storage profile {wanted.name} has no room for {needed} MB on {request.site.vim_server_name}.",
                tenant=f"The storage profile {wanted.name} has no room for {needed} MB.",
            )


def _finish_import(request: Request, vm: Vm, source: dict[str, Any], *, move: bool) -> None:
    """Take the VM over in vCenter: runs as the body of the import's task."""
    site = request.site
    view = site.vcenter.call("GET", f"vms/{source['id']}")
    if view["power"] != "poweredOff" and not move:
        raise bad_request(f"The VM {source['id']} must be powered off to be copied.")
    if view["power"] != "poweredOff":
        raise ApiError(
            400,
            "INVALID_STATE",
            f"The VM {source['id']} is not powered off; only a powered-off VM can be imported here.",
        )
    if view["leased"]:
        raise ApiError(400, "INVALID_STATE", f"The VM {source['id']} is locked by an import.")
    suffix = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(4))
    managed_name = f"{vm.name}-{suffix}"
    if not move:
        view = site.vcenter.call("POST", f"vms/{source['id']}/clone", {"name": managed_name})
    vapp = vm.vapp
    site.vcenter.call(
        "POST",
        f"vms/{view['id']}/adopt",
        {
            "by": f"urn:vcloud:vm:{vm.id}",
            "name": managed_name,
            "resource_pool": vapp.vdc.resource_pool,
            "folder": site.managed_folder,
        },
    )
    vm.moref = view["id"]
    for index, nic in enumerate(view["nics"]):
        network = nic["network"] or "none"
        if network != "none" and network not in vapp.networks:
            vapp.networks[network] = VAppNetwork(network, "isolated", None, portgroup=network)
        vm.nics.append(
            Nic(index, network, nic["mac"], adapter_of(nic), "DHCP", nic["connected"], needs_customization=True)
        )
    if vm not in vapp.vms:
        vapp.vms.append(vm)
    site.vms[vm.id] = vm
    vapp.state = POWERED_OFF


def _new_vapp(request: Request, document: etree._Element, vapp_name: str, *, auto: bool) -> VApp:
    site = request.site
    reference = _child(document, "vmext:Vdc")
    assert reference is not None
    target = _vdc_of(request, reference)
    if any(vapp.name == vapp_name and vapp.vdc is target for vapp in site.vapps.values()):
        raise duplicate(vapp_name)
    return VApp(
        id=str(uuid.uuid4()),
        name=vapp_name,
        description=_text(document, "Description") or "",
        vdc=target,
        owner=site.system_user,
        auto_nature=auto,
    )


@routes.add("POST", "/api/vdc/{key}/action/composeVApp")
def compose_vapp(request: Request, key: str) -> Answer:
    """A vApp without VMs; the simulator composes no others."""
    target = request.site.vdcs.get(key)
    if target is None or not _visible_vdc(request, target):
        raise forbidden(f"urn:vcloud:vdc:{key}")
    document = request.document(
        name("ComposeVAppParams"), Media.COMPOSE, {name("ComposeVAppParams"): [name(tag) for tag in _COMPOSE]}
    )
    vapp_name = _check_name(document.get("name"), "The attribute name")
    if any(child.tag == name("SourcedItem") for child in document):
        raise bad_request("The simulator composes empty vApps only.")
    if any(vapp.name == vapp_name and vapp.vdc is target for vapp in request.site.vapps.values()):
        raise duplicate(vapp_name)
    owner = request.site.system_user if request.user.is_system else request.user
    vapp = VApp(
        id=str(uuid.uuid4()),
        name=vapp_name,
        description=_text(document, "Description") or "",
        vdc=target,
        owner=owner,
    )

    def work(_: Task) -> None:
        vapp.state = RESOLVED

    request.site.vapps[vapp.id] = vapp
    request.site.start(vapp, target.org, request.user, ("vdcComposeVapp", _describe("Composing", vapp)), work)
    return Answer(201, request.views.vapp(vapp), Media.VAPP, {"Location": request.views.entity_href(vapp)})


@routes.add("POST", "/api/admin/extension/vimServer/{key}/importVmAsVApp")
def import_as_vapp(request: Request, key: str) -> Answer:
    _check_vim_server(request, key)
    document = _import_document(request, "importVmAsVApp")
    vapp_name = _check_name(document.get("name"), "The attribute name")
    source = _source_vm(request, document)
    vapp = _new_vapp(request, document, vapp_name, auto=False)
    vm = _make_vm(request, document, vapp, source)
    # both default to true by the schema
    power_on = _is_true(document.get("powerOn"), True)
    deploy = _is_true(document.get("deploy"), True) or power_on
    for nic in source["nics"]:
        if nic["network"]:
            vapp.networks[nic["network"]] = VAppNetwork(nic["network"], "isolated", None, portgroup=nic["network"])

    def work(_: Task) -> None:
        _finish_import(request, vm, source, move=_is_true(document.get("sourceMove")))
        vm.deployed = deploy
        if power_on:
            request.site.vcenter.call("POST", f"vms/{vm.moref}/power", {"state": "on"})

    request.site.vapps[vapp.id] = vapp
    request.site.start(
        vapp, vapp.vdc.org, request.site.system_user, ("importSingletonVapp", _describe("Importing", vapp)), work
    )
    return Answer(201, request.views.vapp(vapp), Media.VAPP, {"Location": request.views.entity_href(vapp)})


@routes.add("POST", "/api/admin/extension/vimServer/{key}/importVm")
def import_vm(request: Request, key: str) -> Answer:
    _check_vim_server(request, key)
    document = _import_document(request, "importVm")
    source = _source_vm(request, document)
    vm_name = _check_name(_text(document, "vmext:VmName"), "VmName")
    vapp = _new_vapp(request, document, f"{vm_name}-{uuid.uuid4()}", auto=True)
    vm = _make_vm(request, document, vapp, source)
    vm.description = vapp.description

    def work(_: Task) -> None:
        try:
            _finish_import(request, vm, source, move=_is_true(document.get("sourceMove")))
        except (ApiError, ControlError, OSError):
            vm.standalone_failed = True
            raise

    request.site.vapps[vapp.id] = vapp
    request.site.vms[vm.id] = vm
    vapp.vms.append(vm)
    request.site.start(vm, vapp.vdc.org, request.site.system_user, ("importVm", _describe("Importing", vm)), work)
    return Answer(201, request.views.vm(vm), Media.VM, {"Location": request.views.entity_href(vm)})


@routes.add("POST", "/api/admin/extension/vimServer/{key}/importVmIntoExistingVApp")
def import_into_vapp(request: Request, key: str) -> Answer:
    _check_vim_server(request, key)
    document = _import_document(request, "importVmIntoExistingVApp")
    reference = _child(document, "vmext:VApp")
    assert reference is not None
    vapp = get_vapp(request, _from_href(request, reference, ("vApp/vapp-",)))
    if vapp.state in (UNRESOLVED, FAILED_CREATION) and vapp.vms:
        raise bad_request(f"The vApp {vapp.name} is not resolved.")
    source = _source_vm(request, document)
    vm = _make_vm(request, document, vapp, source)

    def work(_: Task) -> None:
        _finish_import(request, vm, source, move=_is_true(document.get("sourceMove")))

    return _start(request, vapp, "importIntoExistingVapp", _describe("Importing VM into", vapp), work)


# vApps and VMs


@routes.add("GET", "/api/vApp/{key}")
def vapp_or_vm(request: Request, key: str) -> Answer:
    found = get_entity(request, key)
    if isinstance(found, Vm):
        return Answer(200, request.views.vm(found), Media.VM)
    return Answer(200, request.views.vapp(found), Media.VAPP)


@routes.add("PUT", "/api/vApp/{key}")
def rename_vapp(request: Request, key: str) -> Answer:
    entity = get_entity(request, key)
    if isinstance(entity, Vm):
        raise bad_request("Use action/reconfigureVm for a VM.")
    document = request.document(name("VApp"), Media.VAPP)
    new_name = _check_name(document.get("name"), "The attribute name")
    if any(
        other.name == new_name and other.vdc is entity.vdc and other is not entity
        for other in request.site.vapps.values()
    ):
        raise duplicate(new_name)
    description = _text(document, "Description")

    def work(_: Task) -> None:
        entity.name = new_name
        entity.description = description or ""

    return _start(request, entity, "vdcUpdateVapp", _describe("Updating", entity), work)


@routes.add("DELETE", "/api/vApp/{key}")
def delete(request: Request, key: str) -> Answer:
    site = request.site
    entity = get_entity(request, key)
    vms = [entity] if isinstance(entity, Vm) else entity.vms
    running = [vm for vm in vms if vm.deployed or site.vm_status(vm, site.hardware(vm)) in (POWERED_ON, SUSPENDED)]
    if running:
        raise bad_request(
            f"The requested operation will not be executed: {running[0].name} is not undeployed and powered off. "
            "Stop it and try again."
        )

    def work(_: Task) -> None:
        for vm in list(vms):
            if vm.moref and site.hardware(vm) is not None:
                site.vcenter.call("DELETE", f"vms/{vm.moref}")
            site.vms.pop(vm.id, None)
            vm.vapp.vms.remove(vm)
        if isinstance(entity, VApp) or entity.vapp.auto_nature:
            site.vapps.pop(entity.id if isinstance(entity, VApp) else entity.vapp.id, None)

    return _start(request, entity, "vdcDeleteVapp", _describe("Deleting", entity), work)


@routes.add("GET", "/api/vApp/{key}/owner")
def get_owner(request: Request, key: str) -> Answer:
    return Answer(200, request.views.owner(_only_vapp(request, key)), Media.OWNER)


def _only_vapp(request: Request, key: str) -> VApp:
    entity = get_entity(request, key)
    if isinstance(entity, Vm):
        raise ApiError(404, "NOT_FOUND", f"A VM has no such resource: {key}")
    return entity


def _only_vm(request: Request, key: str) -> Vm:
    entity = get_entity(request, key)
    if isinstance(entity, VApp):
        raise ApiError(404, "NOT_FOUND", f"A vApp has no such resource: {key}")
    return entity


@routes.add("PUT", "/api/vApp/{key}/owner")
def put_owner(request: Request, key: str) -> Answer:
    vapp = _only_vapp(request, key)
    if not (request.user.is_system or request.user.is_org_admin):
        raise no_right("changing the owner of a vApp")
    document = request.document(name("Owner"), Media.OWNER)
    reference = _child(document, "User")
    if reference is None:
        raise bad_request("Owner needs User")
    user = request.site.users.get(_from_href(request, reference, ("admin/user/",)))
    if user is None or user.org not in (vapp.vdc.org, request.site.system):
        raise forbidden(reference.get("href", ""))
    request.site.check_idle(vapp)
    vapp.owner = user
    return Answer(204)


# networks of a vApp


@routes.add("GET", "/api/vApp/{key}/networkConfigSection")
def get_network_config(request: Request, key: str) -> Answer:
    return Answer(200, request.views.network_config(_only_vapp(request, key)), Media.NETWORK_CONFIG)


@routes.add("PUT", "/api/vApp/{key}/networkConfigSection")
def put_network_config(request: Request, key: str) -> Answer:
    vapp = _only_vapp(request, key)
    if vapp.auto_nature and request.site.standalone_networks == "attached":
        raise bad_request("The networks of a standalone virtual machine are those that it is connected to.")
    document = request.document(name("NetworkConfigSection"), Media.NETWORK_CONFIG)
    networks: dict[str, VAppNetwork] = {}
    for element in document.iterfind(name("NetworkConfig")):
        network_name = element.get("networkName", "")
        if network_name == "none":
            continue
        if network_name in networks:
            raise duplicate(network_name)
        networks[network_name] = _vapp_network(request, vapp, network_name, element)
    used = {nic.network for vm in vapp.vms for nic in vm.nics} - {"none"}
    for missing in used - networks.keys():
        raise bad_request(
            f"The network {missing} cannot be removed from the vApp {vapp.name}: a virtual machine is connected to it."
        )

    def work(_: Task) -> None:
        vapp.networks = networks

    return _start(request, vapp, "vappUpdateVappNetwork", _describe("Updating the networks of", vapp), work)


def _vapp_network(request: Request, vapp: VApp, network_name: str, element: etree._Element) -> VAppNetwork:
    _check_name(network_name, "NetworkConfig: the attribute networkName")
    configuration = _child(element, "Configuration")
    fence = None if configuration is None else _text(configuration, "FenceMode")
    if configuration is None or fence not in ("bridged", "isolated", "natRouted"):
        raise bad_request(
            f"NetworkConfig {network_name}: FenceMode must be bridged, isolated or natRouted, not {fence!r}"
        )
    reference = _child(configuration, "ParentNetwork")
    parent: Network | None = None
    if reference is not None:
        key = _from_href(request, reference, ("network/", "admin/network/"))
        parent = request.site.networks.get(key)
        if parent is None or not _visible_vdc(request, parent.vdc):
            raise forbidden(f"urn:vcloud:network:{key}")
        if not parent.serves(vapp.vdc):
            raise bad_request(f"The network {parent.name} does not belong to the VDC {vapp.vdc.name}.")
    if fence != "isolated" and parent is None:
        raise bad_request(f"NetworkConfig {network_name}: FenceMode {fence} needs a ParentNetwork")
    old = vapp.networks.get(network_name)
    gateway = configuration.find(f".//{name('Gateway')}")
    netmask = configuration.find(f".//{name('Netmask')}")
    if fence == "isolated" and gateway is None:
        raise bad_request(f"NetworkConfig {network_name}: an isolated network needs an IpScope")
    return VAppNetwork(
        network_name,
        fence,
        parent,
        _text(element, "Description"),
        None if old is None else old.portgroup,
        None if gateway is None else gateway.text,
        None if netmask is None else netmask.text,
    )


# sections of a VM


@routes.add("GET", "/api/vApp/{key}/networkConnectionSection")
def get_connections(request: Request, key: str) -> Answer:
    return Answer(200, request.views.network_connections(_only_vm(request, key)), Media.NETWORK_CONNECTION)


@routes.add("PUT", "/api/vApp/{key}/networkConnectionSection")
def put_connections(request: Request, key: str) -> Answer:
    vm = _only_vm(request, key)
    document = request.document(name("NetworkConnectionSection"), Media.NETWORK_CONNECTION)
    change = _connection_change(request, vm, document)
    return _start(request, vm, "vappUpdateVm", _describe("Updating", vm), lambda _: change())


def _connection_change(request: Request, vm: Vm, document: etree._Element) -> Callable[[], None]:
    """Judge a NetworkConnectionSection and give what makes it so."""
    site = request.site
    powered_off = site.vm_status(vm, site.hardware(vm)) == POWERED_OFF
    nics: list[Nic] = []
    for element in document.iterfind(name("NetworkConnection")):
        nics.append(_nic(request, vm, element, nics, powered_off=powered_off))
    if len(nics) > _MAX_NICS:
        raise bad_request(f"A virtual machine has at most {_MAX_NICS} network adapters, not {len(nics)}")
    primary = int(_text(document, "PrimaryNetworkConnectionIndex") or (nics[0].index if nics else 0))
    if nics and primary not in {nic.index for nic in nics}:
        raise bad_request(f"PrimaryNetworkConnectionIndex {primary} is not the index of a NetworkConnection")
    if not powered_off and {nic.index for nic in nics} != {nic.index for nic in vm.nics}:
        raise bad_request(f"{vm.name} must be powered off to add or remove network adapters.")

    def apply() -> None:
        wanted = []
        if vm.vapp.auto_nature and site.standalone_networks == "attached":
            used = {nic.network for nic in nics}
            vm.vapp.networks = {
                network_name: _network_for(vm, network_name) for network_name in sorted(used - {"none"})
            }
        for nic in nics:
            network = vm.vapp.networks.get(nic.network)
            portgroup = None if network is None else (network.parent.portgroup if network.parent else network.portgroup)
            connected = nic.connected and portgroup is not None
            wanted.append(
                {
                    "index": nic.index, "type": nic.adapter, "mac": nic.mac,
                    "network": portgroup or "VM Network", "connected": connected,
                }
            )  # fmt: skip
        site.vcenter.call("POST", f"vms/{vm.moref}/nics", wanted)
        vm.nics = sorted(nics, key=lambda nic: nic.index)
        vm.primary_nic = primary

    return apply


def _nic(request: Request, vm: Vm, element: etree._Element, others: list[Nic], *, powered_off: bool) -> Nic:
    site = request.site
    index = int(_text(element, "NetworkConnectionIndex") or -1)
    label = f"NetworkConnection {index}"
    if index < 0 or any(nic.index == index for nic in others):
        raise bad_request(f"{label}: NetworkConnectionIndex must be 0 or more, and its own")
    network_name = element.get("network", "")
    network = vm.vapp.networks.get(network_name)
    if network is None and vm.vapp.auto_nature and site.standalone_networks == "attached":
        network = _network_for(vm, network_name) if network_name in vm.vapp.vdc.networks else None
    if network is None and network_name != "none":
        raise bad_request(
            f"{label}: the vApp {vm.vapp.name} has no network {network_name!r}; "
            f"it has {sorted(vm.vapp.networks)} and none"
        )
    old = next((nic for nic in vm.nics if nic.index == index), None)
    adapter = _text(element, "NetworkAdapterType") or (old.adapter if old else "VMXNET3")
    if adapter not in _ADAPTERS:
        raise bad_request(f"{label}: NetworkAdapterType {adapter!r} is none of {', '.join(_ADAPTERS)}")
    mac = (_text(element, "MACAddress") or "").lower()
    if mac and not _MAC.fullmatch(mac):
        raise bad_request(f"{label}: {mac!r} is not a MAC address")
    if mac and int(mac[:2], 16) & 1:
        raise bad_request(f"{label}: {mac} is a multicast address")
    mac = mac or site.new_mac()
    if mac in site.macs(besides=vm) or any(nic.mac == mac for nic in others):
        raise bad_request(f"{label}: the MAC address {mac} is in use")
    if old is not None and not powered_off and (mac != old.mac or adapter != old.adapter):
        raise bad_request(f"{vm.name} must be powered off to change a MAC address or an adapter type.")
    mode = _text(element, "IpAddressAllocationMode") or "NONE"
    if mode not in _MODES:
        raise bad_request(f"{label}: IpAddressAllocationMode {mode!r} is none of {', '.join(_MODES)}")
    connected = _is_true(_text(element, "IsConnected"))
    if network is None and (mode != "NONE" or connected):
        raise bad_request(f"{label}: on the network none the mode must be NONE, and the adapter not connected")
    return Nic(
        index,
        network_name,
        mac,
        adapter,
        mode,
        connected,
        _address(site, vm, network, mode=mode, given=_text(element, "IpAddress"), label=label),
        _is_true(element.get("needsCustomization")),
    )


def _network_for(vm: Vm, network_name: str) -> VAppNetwork:
    """The network of a standalone VM's vApp: the one that is there, or the VDC's."""
    return vm.vapp.networks.get(network_name) or VAppNetwork(
        network_name, "bridged", vm.vapp.vdc.networks[network_name]
    )


def _address(site: Any, vm: Vm, network: VAppNetwork | None, *, mode: str, given: str | None, label: str) -> str | None:
    parent = None if network is None else network.parent
    if mode == "POOL":
        if parent is None:
            raise bad_request(f"{label}: the network has no pool of IP addresses")
        old = next((nic.ip for nic in vm.nics if nic.network == parent.name and nic.mode == "POOL" and nic.ip), None)
        return old or str(site.free_address(parent, vm))
    if mode != "MANUAL":
        return None
    try:
        address = ipaddress.IPv4Address(given or "")
    except ValueError:
        raise bad_request(f"{label}: IpAddress {given!r} is not an IPv4 address, and MANUAL needs one") from None
    if parent is not None and address not in parent.subnet:
        raise bad_request(f"{label}: {address} is not in {parent.subnet} of the network {parent.name}")
    for other in site.vms.values():
        if other is not vm and any(
            nic.ip == str(address) and network and nic.network == network.name for nic in other.nics
        ):
            raise bad_request(f"{label}: the IP address {address} is in use")
    return str(address)


@routes.add("GET", "/api/vApp/{key}/guestCustomizationSection")
def get_customization(request: Request, key: str) -> Answer:
    return Answer(200, request.views.customization(_only_vm(request, key)), Media.CUSTOMIZATION)


@routes.add("PUT", "/api/vApp/{key}/guestCustomizationSection")
def put_customization(request: Request, key: str) -> Answer:
    vm = _only_vm(request, key)
    document = request.document(name("GuestCustomizationSection"), Media.CUSTOMIZATION)
    change = _customization_change(vm, document)
    return _start(request, vm, "vappUpdateVm", _describe("Updating", vm), lambda _: change())


def _customization_change(vm: Vm, document: etree._Element) -> Callable[[], None]:
    values: dict[str, object] = {}
    booleans = {
        "Enabled", "ChangeSid", "JoinDomainEnabled", "UseOrgSettings", "AdminPasswordEnabled", "AdminPasswordAuto",
        "AdminAutoLogonEnabled", "ResetPasswordRequired",
    }  # fmt: skip
    for child in document.iterchildren(tag=etree.Element):
        key = etree.QName(child).localname
        if key in ("Info", "Link"):
            continue
        text = (child.text or "").strip()
        values[key] = _is_true(text) if key in booleans else text
    if not values.get("ComputerName"):
        raise bad_request("GuestCustomizationSection needs ComputerName")
    _check_computer_name(str(values["ComputerName"]))
    if (
        values.get("Enabled")
        and values.get("AdminPasswordEnabled")
        and not values.get("AdminPasswordAuto")
        and not values.get("AdminPassword")
    ):
        raise bad_request("AdminPassword is needed when AdminPasswordEnabled is true and AdminPasswordAuto is not")
    values.setdefault("Enabled", False)
    values["VirtualMachineId"] = vm.id
    order = [*vm.customization, *values]
    merged = {key: values[key] for key in dict.fromkeys(order) if key in values}

    def apply() -> None:
        vm.customization = _in_schema_order(merged)

    return apply


def _in_schema_order(values: dict[str, object]) -> dict[str, object]:
    order = [etree.QName(tag).localname for tag in ORDER[name("GuestCustomizationSection")]]
    return {key: values[key] for key in order if key in values}


@routes.add("POST", "/api/vApp/{key}/action/reconfigureVm")
def reconfigure(request: Request, key: str) -> Answer:
    vm = _only_vm(request, key)
    document = request.document(name("Vm"), Media.VM)
    new_name = _check_name(document.get("name"), "Vm: the attribute name")
    if any(other.name == new_name and other is not vm for other in vm.vapp.vms):
        raise duplicate(new_name)
    changes: list[Callable[[], None]] = []
    connections = _child(document, "NetworkConnectionSection")
    if connections is not None:
        changes.append(_connection_change(request, vm, connections))
    customization = _child(document, "GuestCustomizationSection")
    if customization is not None:
        changes.append(_customization_change(vm, customization))
    description = _text(document, "Description")
    profile_element = _child(document, "StorageProfile")
    profile = None if profile_element is None else _profile_of(request, profile_element, vm.vapp.vdc)
    specification = _child(document, "VmSpecSection")
    hardware = _spec_change(request, vm, specification)
    disk_profiles = _disk_change(request, vm, specification)
    policy = document.find(f"{name('ComputePolicy')}/{name('VmSizingPolicy')}")

    def work(_: Task) -> None:
        for change in changes:
            change()
        vm.name = new_name
        if disk_profiles is not None:
            vm.disk_profiles = disk_profiles
        # a VM whose request names no policy falls back to that of its VDC
        vm.sizing_policy = DEFAULT_POLICY if policy is None else policy.get("name") or DEFAULT_POLICY
        if description is not None:
            vm.description = description
        if profile is not None:
            vm.profile = profile
        if hardware:
            request.site.vcenter.call("POST", f"vms/{vm.moref}/reconfigure", hardware)

    return _start(request, vm, "vappUpdateVm", _describe("Updating", vm), work)


def _spec_change(request: Request, vm: Vm, section: etree._Element | None) -> dict[str, Any]:
    if section is None or not _is_true(section.get("Modified")):
        return {}
    site = request.site
    if site.vm_status(vm, site.hardware(vm)) != POWERED_OFF:
        raise bad_request(f"{vm.name} must be powered off to change its hardware.")
    wanted = {}
    for tag, key in (("NumCpus", "cpus"), ("NumCoresPerSocket", "cores_per_socket")):
        if (value := _text(section, tag)) is not None:
            wanted[key] = int(value)
    memory = section.find(f"{name('MemoryResourceMb')}/{name('Configured')}")
    if memory is not None:
        wanted["memory_mb"] = int(memory.text or 0)
    return wanted


def _disk_change(request: Request, vm: Vm, section: etree._Element | None) -> dict[int, Profile] | None:
    """Storage profiles of the disks. One that is not in the list would be deleted; the simulator refuses that."""
    disks = None if section is None or not _is_true(section.get("Modified")) else _child(section, "DiskSection")
    if disks is None:
        return None
    present = {disk["key"]: disk for disk in (request.site.hardware(vm) or {"disks": []})["disks"]}
    wanted: dict[int, Profile] = {}
    listed = set()
    for element in disks.iterfind(name("DiskSettings")):
        key = int(_text(element, "DiskId") or 0)
        if key not in present:
            raise bad_request(f"DiskSettings: {vm.name} has no disk {key}; it has {sorted(present)}")
        listed.add(key)
        if int(_text(element, "SizeMb") or 0) != present[key]["capacity_bytes"] >> 20:
            raise bad_request(f"DiskSettings: the size of disk {key} differs; the simulator does not change sizes.")
        reference = _child(element, "StorageProfile")
        if reference is not None and _is_true(_text(element, "overrideVmDefault")):
            wanted[key] = _profile_of(request, reference, vm.vapp.vdc)
    if missing := present.keys() - listed:
        raise bad_request(f"DiskSection: the disks {sorted(missing)} of {vm.name} would be deleted.")
    return wanted


# power


def _power(request: Request, key: str, action: str) -> Answer:
    site = request.site
    entity = get_entity(request, key)
    vms = [entity] if isinstance(entity, Vm) else entity.vms
    if not vms:
        raise bad_request(f"{entity.name} has no virtual machines.")
    allowed = {
        "powerOn": (POWERED_OFF, SUSPENDED),
        "powerOff": (POWERED_ON, SUSPENDED),
        "shutdown": (POWERED_ON,),
        "suspend": (POWERED_ON,),
        "reset": (POWERED_ON,),
        "reboot": (POWERED_ON,),
    }[action]
    site.check_idle(entity)
    fitting = [vm for vm in vms if site.vm_status(vm, site.hardware(vm)) in allowed]
    if not fitting:
        state = site.vm_status(vms[0], site.hardware(vms[0]))
        raise bad_request(
            f"The requested operation {action} could not be executed on {entity.name}: its state is {state}, "
            f"and it must be in {', '.join(map(str, allowed))}."
        )
    states = {"powerOn": "on", "powerOff": "off", "shutdown": "off", "suspend": "suspended"}

    def work(_: Task) -> None:
        for vm in fitting:
            if action in states:
                site.vcenter.call("POST", f"vms/{vm.moref}/power", {"state": states[action]})
            if action == "powerOn":
                vm.deployed = True

    names = {"powerOn": "vappDeploy", "powerOff": "vappPowerOff"}
    return _start(request, entity, names.get(action, f"vapp{action.capitalize()}"), _describe(action, entity), work)


@routes.add("POST", "/api/vApp/{key}/power/action/{action}")
def power(request: Request, key: str, action: str) -> Answer:
    if action not in ("powerOn", "powerOff", "shutdown", "suspend", "reset", "reboot"):
        raise ApiError(404, "NOT_FOUND", f"No power action {action}")
    return _power(request, key, action)


@routes.add("POST", "/api/vApp/{key}/action/deploy")
def deploy(request: Request, key: str) -> Answer:
    document = request.document(name("DeployVAppParams"), Media.DEPLOY)
    if _is_true(document.get("powerOn"), True):
        return _power(request, key, "powerOn")
    entity = get_entity(request, key)
    vms = [entity] if isinstance(entity, Vm) else entity.vms

    def work(_: Task) -> None:
        for vm in vms:
            vm.deployed = True

    return _start(request, entity, "vappDeploy", _describe("Deploying", entity), work)


@routes.add("POST", "/api/vApp/{key}/action/undeploy")
def undeploy(request: Request, key: str) -> Answer:
    site = request.site
    entity = get_entity(request, key)
    document = request.document(name("UndeployVAppParams"), Media.UNDEPLOY)
    action = _text(document, "UndeployPowerAction") or "default"
    if action not in ("powerOff", "suspend", "shutdown", "force", "default"):
        raise bad_request(f"UndeployPowerAction {action!r} is not known")
    vms = [entity] if isinstance(entity, Vm) else entity.vms
    if not any(vm.deployed for vm in vms):
        raise bad_request(f"{entity.name} is not deployed.")

    def work(_: Task) -> None:
        for vm in vms:
            if site.vm_status(vm, site.hardware(vm)) == POWERED_ON:
                state = "suspended" if action == "suspend" else "off"
                site.vcenter.call("POST", f"vms/{vm.moref}/power", {"state": state})
            vm.deployed = False

    return _start(request, entity, "vappUndeploy", _describe("Stopping", entity), work)


# metadata


def _visible_entries(request: Request, entity: Entity) -> list[MetadataEntry]:
    entries = entity.metadata.values()
    if request.user.is_system:
        return list(entries)
    return [entry for entry in entries if entry.visibility != "PRIVATE"]


@routes.add("GET", "/api/vApp/{key}/metadata")
def get_metadata(request: Request, key: str) -> Answer:
    entity = get_entity(request, key)
    return Answer(200, request.views.metadata(entity, _visible_entries(request, entity)), Media.METADATA)


def _read_value(request: Request, element: etree._Element, key: str | None) -> MetadataEntry:
    key = key or _text(element, "Key")
    if not key or len(key) > 256:
        raise bad_request("MetadataEntry: Key must have 1 to 256 characters")
    typed = _child(element, "TypedValue")
    if typed is None:
        raise bad_request(f"MetadataEntry {key}: TypedValue is needed")
    kind = (typed.get(f"{{{XSI}}}type") or "").rpartition(":")[2]
    if kind not in _METADATA_KINDS:
        raise bad_request(f"MetadataEntry {key}: xsi:type of TypedValue must be one of {', '.join(_METADATA_KINDS)}")
    value = _text(typed, "Value") or ""
    domain_element = _child(element, "Domain")
    domain, visibility = "GENERAL", "READWRITE"
    if domain_element is not None:
        domain = (domain_element.text or "").strip()
        visibility = domain_element.get("visibility", "READWRITE")
    if domain == "SYSTEM" and not request.user.is_system:
        raise no_right("writing metadata of the domain SYSTEM")
    if domain == "GENERAL" and visibility != "READWRITE":
        raise bad_request(f"MetadataEntry {key}: in the domain GENERAL the visibility is READWRITE, not {visibility}")
    return MetadataEntry(key, kind, value, domain, visibility)


@routes.add("POST", "/api/vApp/{key}/metadata")
def post_metadata(request: Request, key: str) -> Answer:
    entity = get_entity(request, key)
    document = request.document(name("Metadata"), Media.METADATA)
    entries = [_read_value(request, element, None) for element in document.iterfind(name("MetadataEntry"))]

    def work(_: Task) -> None:
        for entry in entries:
            entity.metadata[entry.domain, entry.key] = entry

    return _start(request, entity, "metadataUpdate", _describe("Updating metadata for", entity), work)


def _entry(request: Request, key: str, domain: str, entry: str) -> tuple[Vm | VApp, MetadataEntry]:
    entity = get_entity(request, key)
    found = entity.metadata.get((domain, entry))
    if found is None or found not in _visible_entries(request, entity):
        raise forbidden(f"metadata {entry}")
    return entity, found


@routes.add("GET", "/api/vApp/{key}/metadata/{entry}")
def get_entry(request: Request, key: str, entry: str) -> Answer:
    return get_domain_entry(request, key, "GENERAL", entry)


@routes.add("GET", "/api/vApp/{key}/metadata/{domain}/{entry}")
def get_domain_entry(request: Request, key: str, domain: str, entry: str) -> Answer:
    entity, found = _entry(request, key, domain, entry)
    return Answer(200, request.views.metadata_entry(entity, found, "MetadataValue"), Media.METADATA_VALUE)


@routes.add("PUT", "/api/vApp/{key}/metadata/{entry}")
def put_entry(request: Request, key: str, entry: str) -> Answer:
    entity = get_entity(request, key)
    document = request.document(name("MetadataValue"), Media.METADATA_VALUE)
    value = _read_value(request, document, entry)

    def work(_: Task) -> None:
        entity.metadata[value.domain, value.key] = value

    return _start(request, entity, "metadataUpdate", _describe("Updating metadata for", entity), work)


@routes.add("DELETE", "/api/vApp/{key}/metadata/{entry}")
def delete_entry(request: Request, key: str, entry: str) -> Answer:
    return delete_domain_entry(request, key, "GENERAL", entry)


@routes.add("DELETE", "/api/vApp/{key}/metadata/{domain}/{entry}")
def delete_domain_entry(request: Request, key: str, domain: str, entry: str) -> Answer:
    entity, _found = _entry(request, key, domain, entry)

    def work(_: Task) -> None:
        entity.metadata.pop((domain, entry), None)

    return _start(request, entity, "metadataDelete", _describe("Deleting metadata of", entity), work)


# queries


@routes.add("GET", "/api/query")
def query(request: Request) -> Answer:
    kind = request.parameters.get("type")
    if kind is None:
        links = [
            request.views.link("down", request.views.href(f"query?type={key}&format=records"), Media.RECORDS, key)
            for key in KINDS
        ]
        return Answer(
            200,
            el("QueryList", {"href": request.views.href("query"), "type": Media.QUERY_LIST}, *links),
            Media.QUERY_LIST,
        )
    return Answer(200, find_records(request, kind), Media.RECORDS)
