# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Whether a migration's VM could arrive in VCD: everything that is in its way, not only the first thing.

Asks with the account that will do the work. Changes nothing.
"""

from __future__ import annotations

import ipaddress
import typing as t
from collections.abc import Iterator
from dataclasses import dataclass

from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_bodies as bodies
from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_xml as xml
from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import Migration
from ansible_collections.cda.coldmig.plugins.module_utils._migration import mac_of
from ansible_collections.cda.coldmig.plugins.module_utils._vcd import Vcd
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_errors import VcdError
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_target import (
    Target,
    find_existing,
    find_vapp,
    find_vcenter,
    require_provider,
    survey,
    vcd_name,
)

MOST_NICS = 10
MIB = 1 << 20
_FOR_TENANTS = "The provider's account at Cloud Director cannot do what is needed; the provider knows more"
_IMPORTS = {
    "vapp": bodies.MEDIA_IMPORT_AS_VAPP,
    "shared": bodies.MEDIA_IMPORT_INTO_VAPP,
    "existing": bodies.MEDIA_IMPORT_INTO_VAPP,
    "standalone": bodies.MEDIA_IMPORT_STANDALONE,
}


@dataclass(frozen=True)
class Finding:
    """Something that is in the way (``error``) or should be known (``warning``). *tenant* is what a tenant may read."""

    code: str
    severity: str
    message: str
    tenant: str

    def as_dict(self) -> dict[str, str]:
        """For a module's result."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "tenant_message": self.tenant,
        }


def check(
    vcd: Vcd,
    migration: Migration,
    *,
    owner: str | None = None,
    vcenter: str | None = None,
    hardware_version: str | None = None,
) -> list[Finding]:
    """All that is in the way of this migration's import, as far as VCD can be asked before it.

    *vcenter* is its name, host name or UUID; *hardware_version* such as ``vmx-19``, None for one that is not known yet.
    A request that fails is a finding too, so that the others are made nevertheless.
    """
    findings: list[Finding] = []
    try:
        require_provider(vcd)
    except VcdError as error:
        return [_error("vcd-account", str(error), _FOR_TENANTS)]
    target = None
    try:
        target, problems = survey(vcd, migration, owner)
        findings += [_wrong_name(problem) for problem in problems]
    except ColdmigError as error:
        findings.append(_failed(error))
    checks: list[t.Callable[[], Iterator[Finding]]] = [lambda: _vcenter(vcd, migration, target, vcenter)]
    if target is not None:
        known = target
        checks += [
            lambda: _vdc(known, hardware_version),
            lambda: _vm_quota(vcd, known),
            lambda: _storage(vcd, migration, known),
            lambda: _names(vcd, migration, known),
            lambda: _addresses(vcd, migration, known),
        ]
    checks.append(lambda: _nics(migration))
    for one in checks:
        try:
            findings += one()
        except ColdmigError as error:
            findings.append(_failed(error))
    return findings


def _error(code: str, message: str, tenant: str | None = None) -> Finding:
    return Finding(code, "error", message, message if tenant is None else tenant)


def _failed(error: ColdmigError) -> Finding:
    return _error("vcd-failed", str(error), error.details().get("tenant_msg", _FOR_TENANTS))


def _wrong_name(error: ColdmigError) -> Finding:
    return _error("vcd-name", str(error), error.details().get("tenant_msg", _FOR_TENANTS))


def _vcenter(vcd: Vcd, migration: Migration, target: Target | None, name: str | None) -> Iterator[Finding]:
    """Whether VCD has the vCenter, sees it, and lets this account import from it."""
    try:
        vcenter = find_vcenter(vcd, name)
    except ColdmigError as error:
        yield _error("vcd-vcenter", str(error), _FOR_TENANTS)
        return
    body = vcd.api("GET", vcenter.href, what=f"reading vCenter {vcenter.name!r}")
    arrive = target.arrive if target is not None else "vapp"
    if not xml.has_link(body, "add", _IMPORTS[arrive]):
        yield _error(
            "vcd-right",
            f"this account may not import from vCenter {vcenter.name!r}: VCD does not offer it "
            f"({_IMPORTS[arrive].removesuffix('+xml')}); it needs the rights to view vCenters and to import from them",
            _FOR_TENANTS,
        )
    for flag, trouble in (("IsEnabled", "is disabled in VCD"), ("IsConnected", "is not connected to VCD")):
        if xml.flag(body, flag) is False:
            yield _error("vcd-vcenter", f"vCenter {vcenter.name!r} {trouble}", _FOR_TENANTS)
    path = f"/1.0.0/virtualCenters/urn:vcloud:vimserver:{vcenter.href.rsplit('/', 1)[-1]}/unmanagedVirtualMachines"
    try:
        vcd.cloudapi("GET", path, what="listing VMs of vCenter", params={"page": "1", "pageSize": "1"})
    except VcdError as error:
        yield _error(
            "vcd-right", f"this account may not list the VMs of vCenter {vcenter.name!r}: {error}", _FOR_TENANTS
        )


def _vdc(target: Target, hardware_version: str | None) -> Iterator[Finding]:
    vdc = target.vdc
    if not vdc.enabled:
        yield _error("vdc-disabled", f"VDC {vdc.name!r} is disabled")
    if hardware_version is not None and vdc.hardware_versions and hardware_version not in vdc.hardware_versions:
        yield _error(
            "hardware-version",
            f"VDC {vdc.name!r} does not offer the hardware version {hardware_version}; "
            f"it offers {', '.join(vdc.hardware_versions)}",
        )


def _vm_quota(vcd: Vcd, target: Target) -> Iterator[Finding]:
    vdc = target.vdc
    if not vdc.vm_quota:
        return
    records = vcd.related("adminVM", "vdc", vdc.href, what="counting the VMs of the VDC")
    used = sum(record.get("isVAppTemplate") != "true" for record in records)
    if used >= vdc.vm_quota:
        yield _error("vm-quota", f"VDC {vdc.name!r} may have {vdc.vm_quota} VMs, and has {used}")


def _storage(vcd: Vcd, migration: Migration, target: Target) -> Iterator[Finding]:
    """Room in the storage profiles; each disk takes whole MiB."""
    sizes = [-(-disk["size_bytes"] // MIB) for disk in migration["machine"]["disks"]]
    what = "reading the storage profiles"
    records = list(vcd.related("adminOrgVdcStorageProfile", "vdc", target.vdc.href, what=what))
    usual = target.storage_profile
    needed: dict[str, int] = {}
    for index, size in enumerate(sizes):
        profile = target.disks.get(index, usual)
        name = profile.name if profile is not None else _default(records)
        needed[name] = needed.get(name, 0) + size
    if not needed and usual is not None:
        needed[usual.name] = 0
    for record in records:
        name = record.get("name", "")
        if name not in needed:
            continue
        if record.get("isEnabled") == "false":
            yield _error("storage-disabled", f"storage profile {name!r} of VDC {target.vdc.name!r} is disabled")
        limit, used = _number(record.get("storageLimitMB")), _number(record.get("storageUsedMB"))
        if limit and used + needed[name] > limit:
            yield _error(
                "storage-limit",
                f"storage profile {name!r} of VDC {target.vdc.name!r} has {max(0, limit - used)} MiB left of {limit}, "
                f"and the disks need {needed[name]}",
            )


def _default(records: list[t.Mapping[str, str]]) -> str:
    return next((r.get("name", "") for r in records if r.get("isDefaultStorageProfile") == "true"), "")


def _number(value: str | None) -> int:
    try:
        return int(value or 0)
    except ValueError:
        return 0


def _names(vcd: Vcd, migration: Migration, target: Target) -> Iterator[Finding]:
    """Names that are taken. What this migration made itself is none of them."""
    name = vcd_name(migration["name"])
    found = find_existing(vcd, migration, migration["refs"].get("vcenter_vm"), None)
    if found is not None:
        return
    if target.arrive == "vapp":
        if find_vapp(vcd, target.vdc, target.vapp_name) is not None:
            message = (
                f"VDC {target.vdc.name!r} has a vApp {target.vapp_name!r}; the migration's id is added to the name"
            )
            yield Finding("vapp-name", "warning", message, message)
    elif target.vapp is not None:
        vapp = vcd.read(xml.read_vapp, target.vapp.href, what=f"reading vApp {target.vapp.name!r}")
        if any(vm.name == name for vm in vapp.vms):
            yield _error(
                "vm-name", f"vApp {vapp.name!r} has a VM {name!r}; give the migration another name, or remove that VM"
            )
        if vapp.status == xml.STATUS_FAILED_CREATION:
            yield _error("vapp-failed", f"vApp {vapp.name!r} was never made completely; remove it")


def _addresses(vcd: Vcd, migration: Migration, target: Target) -> Iterator[Finding]:
    """Addresses that do not belong to their network."""
    scopes: dict[str, tuple[str, ...]] = {}
    for index, entry in enumerate(migration["destination"]["networks"]):
        network = target.networks.get(entry["network"])
        if entry["ip_mode"] != "MANUAL" or not entry["ip"] or network is None:
            continue
        if network.name not in scopes:
            found = vcd.read_or_none(xml.read_subnets, network.href, what=f"reading network {network.name!r}")
            scopes[network.name] = found or ()
        subnets = scopes[network.name]
        address = ipaddress.ip_address(entry["ip"])
        if subnets and not any(address in ipaddress.ip_network(subnet, strict=False) for subnet in subnets):
            yield _error(
                "address",
                f"destination.networks[{index}].ip: {address} is not in network {network.name!r}, "
                f"which is {', '.join(subnets)}",
            )


def _nics(migration: Migration) -> Iterator[Finding]:
    nics = migration["machine"]["nics"]
    if len(nics) > MOST_NICS:
        yield _error("nics", f"the machine has {len(nics)} network adapters, and a VM has {MOST_NICS} at most")
    kept: dict[str, int] = {}
    for index, (entry, nic) in enumerate(zip(migration["destination"]["networks"], nics, strict=False)):
        if not entry["keep_mac"]:
            continue
        mac = mac_of(nic).lower()
        if int(mac[:2], 16) & 1:
            yield _error(
                "mac", f"network adapter {index} has the MAC address {mac}, which is for groups; do not keep it"
            )
        if mac in kept:
            yield _error(
                "mac", f"network adapters {kept[mac]} and {index} have the same MAC address {mac}; keep one of them"
            )
        kept[mac] = index
