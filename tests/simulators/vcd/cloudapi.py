# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON API below /cloudapi, and the token endpoints below /oauth."""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Any
from urllib.parse import parse_qs

from simulators.vcd.errors import ApiError, bad_request, forbidden
from simulators.vcd.http import Answer, Request, Routes
from simulators.vcd.model import ORG_ADMINISTRATOR, SYSTEM_ADMINISTRATOR, Network, Org, Session, User, Vdc
from simulators.vcd.query import compile_filter, paginate

routes = Routes()
_V = "/cloudapi/1.0.0"
_STATES = {"poweredOn": "ON", "poweredOff": "OFF", "suspended": "SUSPENDED"}


def _page(request: Request, values: list[dict[str, Any]]) -> Answer:
    """Filter, cut and wrap a list."""
    if "filter" in request.parameters:
        flat = [_flatten(value) for value in values]
        known = (
            set().union(*flat) if flat else {"id", "name", "orgRef.id", "ownerRef.id", "org.id", "moRef", "username"}
        )
        matches = compile_filter(request.parameters["filter"], known)
        values = [value for value, record in zip(values, flat, strict=True) if matches(record)]
    values.sort(key=lambda value: str(value.get("name") or value.get("username")))
    page = paginate(values, request.parameters)
    return Answer(
        200,
        {
            "resultTotal": page.total,
            "pageCount": -(-page.total // page.size),
            "page": page.number,
            "pageSize": page.size,
            "associations": None,
            "values": page.items,
        },
    )


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            found |= _flatten(item, f"{prefix}{key}.")
        else:
            found[prefix + key] = item
    return found


def _basic(request: Request) -> tuple[str, str, str]:
    """Read user, organization and password of a Basic login.

    Raises:
        ApiError: 401.
    """
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError
        login, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (ValueError, binascii.Error):
        raise ApiError(401, "UNAUTHORIZED", "A login needs Authorization: Basic") from None
    user, _, org = login.rpartition("@")
    return user, org, password


def _open(request: Request, *, provider: bool) -> Answer:
    name, org_name, password = _basic(request)
    site = request.site
    for org in site.orgs.values():
        if org.name.lower() != org_name.lower() or (org is site.system) != provider:
            continue
        user = org.users.get(name)
        if user is not None and secrets.compare_digest(user.password.encode(), password.encode()):
            session = site.login(user)
            headers = {"X-VMWARE-VCLOUD-ACCESS-TOKEN": session.token, "X-VMWARE-VCLOUD-TOKEN-TYPE": "Bearer"}
            return Answer(200, _session(request, session), None, headers)
    raise ApiError(401, "UNAUTHORIZED", "Authentication Error")


def _session(request: Request, session: Session) -> dict[str, Any]:
    user, site = session.user, request.site
    org = {"name": user.org.name, "id": f"urn:vcloud:org:{user.org.id}"}
    answer: dict[str, Any] = {
        "id": f"urn:vcloud:session:{session.id}",
        "user": {"name": user.name, "id": f"urn:vcloud:user:{user.id}"},
        "org": org,
        "location": f"{user.org.id}@{site.vim_server_id}",
        "roles": [user.role],
        "roleRefs": [{"name": user.role, "id": _role_id(user)}],
        "sessionIdleTimeoutMinutes": max(1, round(site.idle_seconds / 60)),
    }
    if request.version >= (37, 0):
        answer["site"] = {"name": "site-north", "id": f"urn:vcloud:site:{site.vim_server_id}"}
        answer["operatingOrg"] = dict(org)
    return answer


def _role_id(user: User) -> str:
    number = {SYSTEM_ADMINISTRATOR: 1, ORG_ADMINISTRATOR: 2}.get(user.role, 3)
    return f"urn:vcloud:role:00000000-0000-4000-8000-{number:012d}"


@routes.add("POST", f"{_V}/sessions", open_=True, family="json")
def tenant_login(request: Request) -> Answer:
    return _open(request, provider=False)


@routes.add("POST", f"{_V}/sessions/provider", open_=True, family="json")
def provider_login(request: Request) -> Answer:
    return _open(request, provider=True)


@routes.add("GET", f"{_V}/sessions/current", family="json")
def current(request: Request) -> Answer:
    assert request.session is not None
    return Answer(200, _session(request, request.session))


@routes.add("DELETE", f"{_V}/sessions/current", family="json")
def logout(request: Request) -> Answer:
    assert request.session is not None
    request.site.sessions.pop(request.session.token, None)
    return Answer(204)


@routes.add("GET", f"{_V}/sessions/{{key}}", family="json")
def session_by_id(request: Request, key: str) -> Answer:
    assert request.session is not None
    if key != f"urn:vcloud:session:{request.session.id}":
        raise forbidden(key)
    return current(request)


def _token(request: Request, org: Org | None) -> Answer:
    media = request.headers.get("content-type", "").partition(";")[0]
    if media != "application/x-www-form-urlencoded":
        raise ApiError(415, "UNSUPPORTED_MEDIA_TYPE", f"Content-Type is {media!r}")
    form = {key: values[0] for key, values in parse_qs(request.body.decode(errors="replace")).items()}
    if form.get("grant_type") != "refresh_token":
        return Answer(400, {"error": "unsupported_grant_type", "error_description": "the simulator has refresh_token"})
    given = form.get("refresh_token", "")
    if request.version >= (37, 0) and (answer := _service_account(request, org, given)) is not None:
        return answer
    if request.version < (36, 1):
        raise ApiError(404, "NOT_FOUND", "There are no API tokens before 36.1")
    for user in org.users.values() if org else ():
        if user.api_token and secrets.compare_digest(user.api_token.encode(), given.encode()):
            session = request.site.login(user, by_api_token=True)
            return Answer(
                200,
                {"access_token": session.token, "token_type": "Bearer", "expires_in": 2592000, "refresh_token": None},
            )
    return Answer(400, {"error": "invalid_grant", "error_description": "Invalid refresh token"})


def _service_account(request: Request, org: Org | None, given: str) -> Answer | None:
    """A session for a service account, and its next token: the one that was given is good no more."""
    for user in org.users.values() if org else ():
        if user.service_token and secrets.compare_digest(user.service_token.encode(), given.encode()):
            user.service_token = secrets.token_urlsafe(24)
            session = request.site.login(user, by_api_token=True)
            body = {
                "access_token": session.token,
                "token_type": "Bearer",
                "expires_in": 3600,
                "refresh_token": user.service_token,
            }
            return Answer(200, body)
    return None


@routes.add("POST", "/oauth/provider/token", open_=True, family="json")
def provider_token(request: Request) -> Answer:
    return _token(request, request.site.system)


@routes.add("POST", "/oauth/tenant/{org}/token", open_=True, family="json")
def tenant_token(request: Request, org: str) -> Answer:
    found = next(
        (item for item in request.site.orgs.values() if item.name == org and item is not request.site.system), None
    )
    return _token(request, found)


def _urn(key: str, kind: str) -> str:
    prefix = f"urn:vcloud:{kind}:"
    if not key.startswith(prefix):
        raise bad_request(f"{key} is not a {prefix}…")
    return key[len(prefix) :]


def _org(org: Org) -> dict[str, Any]:
    return {
        "id": f"urn:vcloud:org:{org.id}",
        "name": org.name,
        "displayName": org.full_name,
        "description": "",
        "isEnabled": True,
        "orgVdcCount": len(org.vdcs),
        "canManageOrgs": False,
        "canPublish": False,
    }


def _visible_orgs(request: Request) -> list[Org]:
    return list(request.site.orgs.values()) if request.user.is_system else [request.user.org]


@routes.add("GET", f"{_V}/orgs", family="json")
def orgs(request: Request) -> Answer:
    return _page(request, [_org(org) for org in _visible_orgs(request)])


@routes.add("GET", f"{_V}/orgs/{{key}}", family="json")
def org(request: Request, key: str) -> Answer:
    identifier = _urn(key, "org")
    for found in _visible_orgs(request):
        if found.id == identifier:
            return Answer(200, _org(found))
    raise forbidden(key)


def _vdc(vdc: Vdc) -> dict[str, Any]:
    return {
        "id": f"urn:vcloud:vdc:{vdc.id}",
        "name": vdc.name,
        "description": "",
        "allocationType": "AllocationVApp",
        "org": {"name": vdc.org.name, "id": f"urn:vcloud:org:{vdc.org.id}"},
    }


def _tenant_scope(request: Request, org: Org) -> bool:
    if not request.user.is_system:
        return org is request.user.org
    context = request.headers.get("x-vmware-vcloud-tenant-context")
    return context is None or org.id == context


@routes.add("GET", f"{_V}/vdcs", family="json")
def vdcs(request: Request) -> Answer:
    return _page(request, [_vdc(vdc) for vdc in request.site.vdcs.values() if _tenant_scope(request, vdc.org)])


@routes.add("GET", f"{_V}/vdcs/{{key}}", family="json")
def vdc(request: Request, key: str) -> Answer:
    found = request.site.vdcs.get(_urn(key, "vdc"))
    if found is None or not _tenant_scope(request, found.org):
        raise forbidden(key)
    return Answer(200, _vdc(found))


def _network(network: Network) -> dict[str, Any]:
    vdc = network.vdc
    return {
        "id": f"urn:vcloud:network:{network.id}",
        "name": network.name,
        "description": "",
        "subnets": {
            "values": [
                {
                    "gateway": network.gateway,
                    "prefixLength": network.prefix,
                    "dnsServer1": network.dns,
                    "ipRanges": {"values": [{"startAddress": network.first, "endAddress": network.last}]},
                    "enabled": True,
                }
            ]
        },
        "backingNetworkId": network.portgroup,
        "networkType": "DIRECT",
        "orgVdc": {"name": vdc.name, "id": f"urn:vcloud:vdc:{vdc.id}"},
        "ownerRef": {"name": vdc.name, "id": f"urn:vcloud:vdc:{vdc.id}"}
        if network.group is None
        else {"name": network.group.name, "id": f"urn:vcloud:vdcGroup:{network.group.id}"},
        "orgRef": {"name": vdc.org.name, "id": f"urn:vcloud:org:{vdc.org.id}"},
        "shared": False,
        "status": "REALIZED",
    }


@routes.add("GET", f"{_V}/orgVdcNetworks", family="json")
def networks(request: Request) -> Answer:
    found = [net for net in request.site.networks.values() if _tenant_scope(request, net.vdc.org)]
    return _page(request, [_network(net) for net in found])


@routes.add("GET", f"{_V}/orgVdcNetworks/{{key}}", family="json")
def network(request: Request, key: str) -> Answer:
    found = request.site.networks.get(_urn(key, "network"))
    if found is None or not _tenant_scope(request, found.vdc.org):
        raise forbidden(key)
    return Answer(200, _network(found))


@routes.add("GET", f"{_V}/vdcGroups/{{key}}", family="json")
def vdc_group(request: Request, key: str) -> Answer:
    found = request.site.groups.get(_urn(key, "vdcGroup"))
    if found is None or not _tenant_scope(request, found.vdcs[0].org):
        raise forbidden(key)
    org = found.vdcs[0].org
    members = [
        {
            "vdcRef": {"name": vdc.name, "id": f"urn:vcloud:vdc:{vdc.id}"},
            "orgRef": {"name": org.name, "id": f"urn:vcloud:org:{org.id}"},
            "status": "REALIZED",
        }
        for vdc in found.vdcs
    ]
    return Answer(
        200,
        {
            "id": key,
            "name": found.name,
            "orgId": f"urn:vcloud:org:{org.id}",
            "type": "LOCAL",
            "participatingOrgVdcs": members,
        },
    )


@routes.add("GET", f"{_V}/users", family="json")
def users(request: Request) -> Answer:
    user = request.user
    found = [
        {
            "id": f"urn:vcloud:user:{other.id}",
            "username": other.name,
            "fullName": other.name,
            "roleEntityRefs": [{"name": other.role, "id": _role_id(other)}],
            "orgEntityRef": {"name": other.org.name, "id": f"urn:vcloud:org:{other.org.id}"},
            "enabled": True,
        }
        for other in request.site.users.values()
        if other.role and _tenant_scope(request, other.org) and (user.is_system or user.is_org_admin or other is user)
    ]
    return _page(request, found)


def _center(request: Request) -> dict[str, Any]:
    site = request.site
    return {
        "vcId": f"urn:vcloud:vimserver:{site.vim_server_id}",
        "name": site.vim_server_name,
        "description": "",
        "username": site.vcenter_user,
        "url": site.vcenter_url,
        "isEnabled": True,
        "hasProxy": False,
        "isConnected": True,
        "mode": "IAAS",
        "listenerState": "CONNECTED",
        "clusterHealthStatus": "GREEN",
        "vcVersion": "8.0.2",
        "buildNumber": "22617221",
        "uuid": "5c1b4a5e-7f35-4c55-9a05-a3b9a2f6c0d1",
    }


@routes.add("GET", f"{_V}/virtualCenters", family="json")
def centers(request: Request) -> Answer:
    request.require_system("listing vCenter servers")
    return _page(request, [_center(request)])


@routes.add("GET", f"{_V}/virtualCenters/{{key}}", family="json")
def center(request: Request, key: str) -> Answer:
    request.require_system("viewing vCenter servers")
    if _urn(key, "vimserver") != request.site.vim_server_id:
        raise forbidden(key)
    return Answer(200, _center(request))


@routes.add("GET", f"{_V}/virtualCenters/{{key}}/unmanagedVirtualMachines", family="json")
def unmanaged(request: Request, key: str) -> Answer:
    center(request, key)
    found = [
        {
            "name": vm["name"],
            "moRef": vm["id"],
            "memory": vm["memory_mb"],
            "cpuCount": vm["cpus"],
            "storage": sum(disk["capacity_bytes"] for disk in vm["disks"]) >> 10,
            "path": vm["path"],
            "virtualHardwareVersion": vm["version"],
            "state": _STATES.get(vm["power"], "UNKNOWN"),
        }
        for vm in request.site.inventory()
        if not vm["managed_by"]
    ]
    return _page(request, found)
