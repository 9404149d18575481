# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Where a VM goes in VCD: the names of a migration's destination looked up, and what exists of the migration there.

Nothing here changes anything in VCD.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_xml as xml
from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import Migration, NetworkSettings
from ansible_collections.cda.coldmig.plugins.module_utils._vcd import Vcd, entity_id, equals, same_entity
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_errors import DestinationError, VcdError
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import listing

METADATA_ID = "coldmig.id"
METADATA_VAPP = "coldmig.vapp"
"""On a vApp that was made for several VMs: it goes when the last of them does."""
ID = (xml.SYSTEM_DOMAIN, METADATA_ID)
MADE_HERE = (xml.SYSTEM_DOMAIN, METADATA_VAPP)
LONGEST_NAME = 128


@dataclass(frozen=True)
class Target:
    """The destination, looked up.

    ``arrive`` is how the VM arrives: vapp, shared, existing or standalone. ``vapp_name`` is the name of the vApp,
    ``vapp`` the one that is there. ``disks`` has the storage profiles of those disks of the source that name one.
    """

    arrive: str
    vdc: xml.Vdc
    storage_profile: xml.Reference | None
    disks: Mapping[int, xml.Reference]
    networks: Mapping[str, xml.Reference]
    vapp_name: str
    vapp: xml.Reference | None
    owner: xml.Reference | None

    @property
    def own_vapp(self) -> bool:
        """Whether everything in the vApp is this migration's."""
        return self.arrive in ("vapp", "standalone")


@dataclass(frozen=True)
class Found:
    """What exists of the migration in VCD. ``vm`` is None while, or after, an import that did not make one."""

    vapp: xml.VApp
    vm: xml.Vm | None


def vcd_name(name: str) -> str:
    """A name for vApp and VM."""
    return re.sub(r"[\x00-\x1f/\\%]+", "-", name)[:LONGEST_NAME] or "vm"


def arrival(migration: Migration) -> str:
    """How the VM arrives: vapp, shared, existing or standalone."""
    destination = migration["destination"]
    return destination.get("import_as") or ("vapp" if destination["vapp"] is None else "existing")


def vapp_name(migration: Migration) -> str:
    """The name of the vApp, its pattern filled in; the VM's name where there is none."""
    pattern = migration["destination"]["vapp"]
    if pattern is None:
        return vcd_name(migration["name"])
    if migration["destination"].get("import_as") is None:  # of before there were patterns
        return pattern
    template = migration.get("template") or {}
    values = {
        "name": migration["name"],
        "serial": migration["machine"].get("serial") or "",
        "id": migration["id"][:8],
        "template": str(template.get("name") or ""),
    }
    filled = re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), pattern)
    return vcd_name(filled.strip()) if filled.strip() else vcd_name(migration["name"])


def mark(migration_id: str) -> str:
    """The description with which everything is made: by it an import is known whose answer never came."""
    return f"Cold migration {migration_id}"


# --- the destination ----------------------------------------------------------------------------------------------


def require_provider(vcd: Vcd) -> None:
    """Raises VcdError unless the session may import."""
    session = vcd.session()
    if not session.is_provider:
        text = (
            f"user {session.user!r} belongs to organization {session.org!r}: importing from vCenter is restricted to "
            "system administrators; use an account of the organization 'System' (vcd_org)"
        )
        raise VcdError(text, tenant=text)


def look_up(vcd: Vcd, migration: Migration, owner: str | None) -> Target:
    """Resolve every name of the migration's destination. Raises DestinationError for the first that is wrong."""
    target, problems = survey(vcd, migration, owner)
    for problem in problems:
        raise problem
    return t.cast(Target, target)


def survey(vcd: Vcd, migration: Migration, owner: str | None) -> tuple[Target | None, list[ColdmigError]]:
    """Resolve every name of the migration's destination, and say all that is wrong with it.

    *owner* is for a destination that names none. The target is None where something is wrong.
    """
    destination, organization = migration["destination"], migration["organization"]
    problems: list[ColdmigError] = []
    try:
        vdc = _find_vdc(vcd, organization, destination["vdc"])
    except DestinationError as error:
        return None, [error]
    where = f"VDC {vdc.name!r} of organization {organization!r}"

    def profile(field: str, name: str) -> xml.Reference | None:
        return _by_name(field, name, vdc.storage_profiles, where, problems)

    wanted = destination["storage_profile"]
    storage_profile = None if wanted is None else profile("destination.storage_profile", wanted)
    disks = {
        index: found
        for index, disk in enumerate(destination.get("disks") or ())
        if disk["storage_profile"] is not None
        and (found := profile(f"destination.disks[{index}].storage_profile", disk["storage_profile"])) is not None
    }
    networks = _find_networks(vcd, destination["networks"], vdc, where, problems)
    arrive, name, vapp = arrival(migration), vapp_name(migration), None
    if arrive in ("shared", "existing"):
        try:
            vapp = find_vapp(vcd, vdc, name)
            if vapp is None and arrive == "existing":
                problems.append(_no_vapp(vcd, vdc, name, where))
        except DestinationError as error:
            problems.append(error)
    user = None
    try:
        wanted_owner = destination.get("owner")
        if wanted_owner is not None:
            user = _find_user(vcd, organization, "destination.owner", wanted_owner)
        elif owner is not None:
            user = _find_user(vcd, organization, "owner", owner)
    except DestinationError as error:
        problems.append(error)
    if problems:
        return None, problems
    return Target(arrive, vdc, storage_profile, disks, networks, name, vapp, user), []


def _find_networks(
    vcd: Vcd, wanted: Sequence[NetworkSettings], vdc: xml.Vdc, where: str, problems: list[ColdmigError]
) -> dict[str, xml.Reference]:
    """The networks by name: those that the VDC offers, and those of groups of VDCs that it belongs to."""
    found: dict[str, xml.Reference] = {}
    for index, entry in enumerate(wanted):
        name = entry["network"]
        if name == xml.NO_NETWORK or name in found:
            continue
        offered = next((one for one in vdc.networks if one.name == name), None) or _of_a_group(vcd, vdc, name)
        if offered is None:
            offered = _by_name(f"destination.networks[{index}].network", name, vdc.networks, where, problems)
        if offered is not None:
            found[name] = offered
    return found


def _of_a_group(vcd: Vcd, vdc: xml.Vdc, name: str) -> xml.Reference | None:
    """A network of a data center group; the VDC must take part in the group."""
    what = f"looking for network {name!r}"
    for network in vcd.cloudapi_items("/1.0.0/orgVdcNetworks", what=what, condition=equals("name", name)):
        group = str((network.get("ownerRef") or {}).get("id", ""))
        if network.get("name") != name or not group.startswith("urn:vcloud:vdcGroup:"):
            continue
        members = vcd.cloudapi("GET", f"/1.0.0/vdcGroups/{group}", what=what).get("participatingOrgVdcs") or ()
        if any(same_entity((member.get("vdcRef") or {}).get("id"), vdc.href) for member in members):
            return xml.Reference(name, f"{vcd.url}/api/network/{entity_id(str(network['id']))}")
    return None


def _by_name(
    field: str, name: str, existing: Sequence[xml.Reference], where: str, problems: list[ColdmigError]
) -> xml.Reference | None:
    for reference in existing:
        if reference.name == name:
            return reference
    there = listing(one.name for one in existing)
    problems.append(DestinationError(f"{field}: there is no {name!r} in {where}; there {there}"))
    return None


def _find_vdc(vcd: Vcd, organization: str, name: str) -> xml.Vdc:
    what = f"looking for VDC {name!r}"
    for record in vcd.search("adminOrgVdc", "name", name, what=what):
        if record.get("orgName") == organization:
            return vcd.read(xml.read_vdc, record["href"], what=f"reading VDC {name!r}")
    others = [r["name"] for r in vcd.query("adminOrgVdc", what=what) if r.get("orgName") == organization]
    raise DestinationError(
        f"destination.vdc: organization {organization!r} has no VDC {name!r}; there {listing(others)}"
    )


def find_vapp(vcd: Vcd, vdc: xml.Vdc, name: str) -> xml.Reference | None:
    """The vApp of this name in the VDC. Raises DestinationError when there are several."""
    what = f"looking for vApp {name!r}"
    named = [r for r in vcd.search("adminVApp", "name", name, what=what) if same_entity(r.get("vdc"), vdc.href)]
    if len(named) > 1:
        raise DestinationError(f"destination.vapp: {len(named)} vApps are named {name!r} in VDC {vdc.name!r}")
    return xml.Reference(name, named[0]["href"]) if named else None


def _no_vapp(vcd: Vcd, vdc: xml.Vdc, name: str, where: str) -> DestinationError:
    records = vcd.query("adminVApp", what=f"looking for vApp {name!r}")
    others = [r["name"] for r in records if same_entity(r.get("vdc"), vdc.href) and r.get("isAutoNature") != "true"]
    return DestinationError(f"destination.vapp: there is no vApp {name!r} in {where}; there {listing(others)}")


def _find_user(vcd: Vcd, organization: str, field: str, name: str) -> xml.Reference:
    what = f"looking for user {name!r}"
    orgs = [record["href"] for record in vcd.search("organization", "name", organization, what=what)]

    def of_the_organization(records: Iterable[Mapping[str, str]]) -> list[Mapping[str, str]]:
        return [record for record in records if any(same_entity(record.get("org"), org) for org in orgs)]

    for record in of_the_organization(vcd.search("adminUser", "name", name, what=what)):
        return xml.Reference(name, record["href"])
    others = of_the_organization(vcd.query("adminUser", what=what))
    raise DestinationError(
        f"{field}: organization {organization!r} has no user {name!r}; there {listing(r['name'] for r in others)}"
    )


def find_vcenter(vcd: Vcd, wanted: str | None) -> xml.Reference:
    """The vCenter in VCD by its name there, its host name or its instance UUID; the only one when none is named."""
    records = list(vcd.query("virtualCenter", what="listing the vCenters"))
    known = listing(record.get("name", "") for record in records)
    if wanted is None:
        matching, trouble = records, "VCD manages not exactly one vCenter, so name the one that has the VM"
    else:
        matching = [record for record in records if wanted.lower() in _names_of_vcenter(record)]
        trouble = f"VCD manages no vCenter with the name, host name or UUID {wanted!r}"
    if len(matching) != 1:
        raise DestinationError(f"vcenter: {trouble}; there {known}", for_tenants=False)
    return xml.Reference(matching[0].get("name", ""), matching[0]["href"])


def _names_of_vcenter(record: Mapping[str, str]) -> set[str]:
    host = urlsplit(record.get("url", "")).hostname or ""
    return {name.lower() for name in (record.get("name", ""), record.get("uuid", ""), host) if name}


# --- what exists already ------------------------------------------------------------------------------------------


def find_existing(vcd: Vcd, migration: Migration, moref: str | None, vcenter: xml.Reference | None) -> Found | None:
    """What an earlier run made. Raises DestinationError when VCD took the VM over by itself.

    Found by the gateway's notes, by the moref, by metadata and by description; the last two only within the
    organization, as what others write there is nothing to go by.
    """
    found = _noted(vcd, migration)
    if found is None and moref is not None:
        found = _of_moref(vcd, migration, moref, vcenter)
    return found or _own_vapp(vcd, migration)


def _noted(vcd: Vcd, migration: Migration) -> Found | None:
    refs = migration["refs"]
    if not refs.get("vcd_vm"):
        return None
    vm = vcd.read_or_none(xml.read_vm, str(refs["vcd_vm"]), what="reading the VM")
    if vm is None or vm.vapp is None:
        return None
    vapp = vcd.read_or_none(xml.read_vapp, vm.vapp, what="reading the vApp")
    return None if vapp is None else Found(vapp, vm)


def _of_moref(vcd: Vcd, migration: Migration, moref: str, vcenter: xml.Reference | None) -> Found | None:
    record = _record_of_moref(vcd, moref, vcenter)
    if record is None:
        return None
    vm = vcd.read(xml.read_vm, record["href"], what="reading the VM")
    if record.get("isAutoNature") == "true" and not _is_ours(vcd, migration, vm):
        raise DestinationError(
            f"VCD has discovered VM {moref} by itself and made vApp {record.get('containerName')!r} of it, "
            "because its resource pool backs a VDC: remove that vApp, and use a resource pool that backs none",
            for_tenants=False,
        )
    vapp = vcd.read(xml.read_vapp, record["container"], what="reading the vApp")
    return Found(vapp, vm)


def _is_ours(vcd: Vcd, migration: Migration, vm: xml.Vm) -> bool:
    """A standalone VM has a vApp of VCD's own making, as a discovered one has."""
    if vm.description == mark(migration["id"]):
        return True
    metadata = vcd.read(xml.read_metadata, f"{vm.href}/metadata", what="reading the metadata")
    return metadata.get(ID) == migration["id"]


def _record_of_moref(vcd: Vcd, moref: str, vcenter: xml.Reference | None) -> Mapping[str, str] | None:
    for record in vcd.search("adminVM", "moref", moref, what=f"looking for VM {moref}"):
        elsewhere = vcenter is not None and record.get("vc") and not same_entity(record["vc"], vcenter.href)
        if record.get("isVAppTemplate") != "true" and not elsewhere:
            return record
    return None


def _own_vapp(vcd: Vcd, migration: Migration) -> Found | None:
    if arrival(migration) not in ("vapp", "standalone"):
        return None
    seen = set()
    for href in _own_vapps(vcd, migration):
        if entity_id(href) in seen:
            continue
        seen.add(entity_id(href))
        vapp = vcd.read_or_none(xml.read_vapp, href, what="reading the vApp")
        if vapp is not None:
            return Found(vapp, vapp.vms[0] if len(vapp.vms) == 1 else None)
    return None


def _own_vapps(vcd: Vcd, migration: Migration) -> Iterator[str]:
    """What a tenant may have made look like ours is left out: metadata that he may write, descriptions elsewhere."""
    noted = migration["refs"].get("vcd_vapp")
    if noted:
        yield noted
    condition = f"metadata@SYSTEM:{METADATA_ID}==STRING:{migration['id']}"
    what = "looking for the migration's vApp"
    try:
        yield from [r["href"] for r in vcd.query("adminVApp", condition, what=what)]
    except VcdError as error:
        if error.status != 400:  # not every version takes every metadata filter; the other ways find it as well
            raise
    yield from _half_made(vcd, migration)


def _half_made(vcd: Vcd, migration: Migration) -> Iterable[str]:
    """What an import made whose answer never came, and that has no metadata yet."""
    what = "looking for the migration's vApp"
    expected = mark(migration["id"])
    if arrival(migration) == "standalone":
        for record in vcd.search("adminVM", "name", vcd_name(migration["name"]), what=what):
            if record.get("isAutoNature") != "true":
                continue
            vm = vcd.read_or_none(xml.read_vm, record["href"], what=what)
            if vm is not None and vm.description == expected and vm.vapp and _system_owns(vcd, vm.vapp):
                yield vm.vapp
        return
    for name in vapp_names(migration):
        for record in vcd.search("adminVApp", "name", name, what=what):
            if record.get("vdcName", migration["destination"]["vdc"]) != migration["destination"]["vdc"]:
                continue
            vapp = vcd.read_or_none(xml.read_vapp, record["href"], what=what)
            if vapp is not None and vapp.description == expected and owned_by_system(vapp):
                yield vapp.href


def _system_owns(vcd: Vcd, href: str) -> bool:
    vapp = vcd.read_or_none(xml.read_vapp, href, what="looking for the migration's vApp")
    return vapp is not None and owned_by_system(vapp)


def owned_by_system(vapp: xml.VApp) -> bool:
    """As it is after an import, and as a tenant can make none."""
    return vapp.owner is None or vapp.owner.name == "system"


def vapp_names(migration: Migration) -> tuple[str, str]:
    """The name of a vApp of its own, and the one that it gets when the first is taken."""
    name, suffix = vapp_name(migration), f"-{migration['id'][:8]}"
    return name, name[: LONGEST_NAME - len(suffix)] + suffix
