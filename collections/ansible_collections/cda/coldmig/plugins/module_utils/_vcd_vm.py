# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""What the module ``vcd_vm`` does: look, compare, act.

The names of the destination are looked up first and before anything is changed. The import is by move: VCD takes over
the VM that ``vcenter_vm`` made, nothing is copied. Its vApp exists before the VM does; when the import fails, the vApp
is deleted. What an earlier run made is found by the gateway's notes, by the VM's moRef, and by metadata; every later
step compares before it writes, so a run that was killed anywhere is continued by the next.
"""

from __future__ import annotations

import contextlib
import re
import time
import typing as t
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_xml as xml
from ansible_collections.cda.coldmig.plugins.module_utils._destination import (
    Outcome,
    get_migration,
    require_at_least_one,
    require_id,
    require_staged,
    run_label,
)
from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError, StateError
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient, Migration
from ansible_collections.cda.coldmig.plugins.module_utils._guest_hardware import choose_nic, wish_of
from ansible_collections.cda.coldmig.plugins.module_utils._vcd import (
    DUPLICATE_NAME,
    TaskFailedError,
    Vcd,
    VcdError,
    entity_id,
    same_entity,
)
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import listing

METADATA_ID = "coldmig.id"
LONGEST_NAME = 128
LISTING_PAUSE = 2.0
NOT_MADE = frozenset({xml.STATUS_UNRESOLVED, xml.STATUS_FAILED_CREATION})

Options = Mapping[str, t.Any]


class DestinationError(ColdmigError):
    """The destination names something that VCD does not have; lists what it has."""


@dataclass(frozen=True)
class Target:
    """The destination, looked up."""

    vdc: xml.Vdc
    storage_profile: xml.Reference | None
    networks: Mapping[str, xml.Reference]
    vapp: xml.Reference | None
    owner: xml.Reference | None


@dataclass(frozen=True)
class Found:
    """What exists of the migration in VCD. ``vm`` is None while, or after, an import that did not make one."""

    vapp: xml.VApp
    vm: xml.Vm | None


@dataclass
class Change:
    """One difference between what is and what is wanted, and how to remove it."""

    name: str
    before: t.Any
    after: t.Any
    apply: Callable[[], None] = field(repr=False)


# --- looking up ---------------------------------------------------------------------------------------------------


def require_provider(vcd: Vcd) -> None:
    """Raises VcdError unless the session may import."""
    session = vcd.session()
    if not session.is_provider:
        raise VcdError(
            f"user {session.user!r} belongs to organization {session.org!r}: importing from vCenter is restricted to "
            "system administrators; use an account of the organization 'System' (vcd_org)"
        )


def look_up(vcd: Vcd, migration: Migration, owner: str | None) -> Target:
    """Resolve every name of the migration's destination. Raises DestinationError for the first that is wrong."""
    destination, organization = migration["destination"], migration["organization"]
    vdc = _find_vdc(vcd, organization, destination["vdc"])
    where = f"VDC {vdc.name!r} of organization {organization!r}"
    profile = destination["storage_profile"]
    return Target(
        vdc=vdc,
        storage_profile=None
        if profile is None
        else _by_name("destination.storage_profile", profile, vdc.storage_profiles, where),
        networks={
            network["network"]: _by_name(
                f"destination.networks[{index}].network", network["network"], vdc.networks, where
            )
            for index, network in enumerate(destination["networks"])
        },
        vapp=None if destination["vapp"] is None else _find_vapp(vcd, vdc, destination["vapp"], where),
        owner=None if owner is None else _find_user(vcd, organization, owner),
    )


def _by_name(field_name: str, name: str, existing: Sequence[xml.Reference], where: str) -> xml.Reference:
    for reference in existing:
        if reference.name == name:
            return reference
    raise DestinationError(
        f"{field_name}: there is no {name!r} in {where}; there {listing(one.name for one in existing)}"
    )


def _find_vdc(vcd: Vcd, organization: str, name: str) -> xml.Vdc:
    what = f"looking for VDC {name!r}"
    for record in vcd.search("adminOrgVdc", "name", name, what=what):
        if record.get("orgName") == organization:
            return vcd.read(xml.read_vdc, record["href"], what=f"reading VDC {name!r}")
    others = [r["name"] for r in vcd.query("adminOrgVdc", what=what) if r.get("orgName") == organization]
    raise DestinationError(
        f"destination.vdc: organization {organization!r} has no VDC {name!r}; there {listing(others)}"
    )


def _find_vapp(vcd: Vcd, vdc: xml.Vdc, name: str, where: str) -> xml.Reference:
    what = f"looking for vApp {name!r}"
    named = [r for r in vcd.search("adminVApp", "name", name, what=what) if same_entity(r.get("vdc"), vdc.href)]
    if len(named) == 1:
        return xml.Reference(name, named[0]["href"])
    if named:
        raise DestinationError(f"destination.vapp: {len(named)} vApps are named {name!r} in {where}")
    others = [r["name"] for r in vcd.query("adminVApp", what=what) if same_entity(r.get("vdc"), vdc.href)]
    raise DestinationError(f"destination.vapp: there is no vApp {name!r} in {where}; there {listing(others)}")


def _find_user(vcd: Vcd, organization: str, name: str) -> xml.Reference:
    what = f"looking for user {name!r}"
    orgs = [record["href"] for record in vcd.search("organization", "name", organization, what=what)]
    found = [r for r in vcd.query("adminUser", what=what) if any(same_entity(r.get("org"), org) for org in orgs)]
    for record in found:
        if record.get("name") == name:
            return xml.Reference(name, record["href"])
    raise DestinationError(
        f"owner: organization {organization!r} has no user {name!r}; there {listing(r['name'] for r in found)}"
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
        raise DestinationError(f"vcenter: {trouble}; there {known}")
    return xml.Reference(matching[0].get("name", ""), matching[0]["href"])


def _names_of_vcenter(record: Mapping[str, str]) -> set[str]:
    host = urlsplit(record.get("url", "")).hostname or ""
    return {name.lower() for name in (record.get("name", ""), record.get("uuid", ""), host) if name}


def find_existing(vcd: Vcd, migration: Migration, moref: str | None, vcenter: xml.Reference | None) -> Found | None:
    """What an earlier run made. Raises DestinationError when VCD took the VM over by itself."""
    refs = migration["refs"]
    if refs.get("vcd_vm"):
        vm = vcd.read_or_none(xml.read_vm, str(refs["vcd_vm"]), what="reading the VM")
        if vm is not None and vm.vapp is not None:
            vapp = vcd.read_or_none(xml.read_vapp, vm.vapp, what="reading the vApp")
            if vapp is not None:
                return Found(vapp, vm)
    if moref is not None:
        record = _record_of_moref(vcd, moref, vcenter)
        if record is not None:
            if record.get("isAutoNature") == "true":
                raise DestinationError(
                    f"VCD has discovered VM {moref} by itself and made vApp {record.get('containerName')!r} of it, "
                    "because its resource pool backs a VDC: remove that vApp, and use a resource pool that backs none"
                )
            vapp = vcd.read(xml.read_vapp, record["container"], what="reading the vApp")
            return Found(vapp, vcd.read(xml.read_vm, record["href"], what="reading the VM"))
    # metadata and the gateway's note lead to a vApp of our own; one that was there before has no such metadata
    for href in _own_vapps(vcd, migration):
        vapp = vcd.read_or_none(xml.read_vapp, href, what="reading the vApp")
        if vapp is not None:
            return Found(vapp, vapp.vms[0] if len(vapp.vms) == 1 else None)
    return None


def _record_of_moref(vcd: Vcd, moref: str, vcenter: xml.Reference | None) -> Mapping[str, str] | None:
    for record in vcd.search("adminVM", "moref", moref, what=f"looking for VM {moref}"):
        elsewhere = vcenter is not None and record.get("vc") and not same_entity(record["vc"], vcenter.href)
        if record.get("isVAppTemplate") != "true" and not elsewhere:
            return record
    return None


def _own_vapps(vcd: Vcd, migration: Migration) -> Iterable[str]:
    if migration["destination"]["vapp"] is not None:
        return
    noted = migration["refs"].get("vcd_vapp")
    if noted:
        yield noted
    condition = f"metadata:{METADATA_ID}==STRING:{migration['id']}"
    try:
        yield from [r["href"] for r in vcd.query("adminVApp", condition, what="looking for the migration's vApp")]
    except VcdError as error:
        if error.status != 400:  # not every version takes every metadata filter; the other ways find it as well
            raise


# --- importing ----------------------------------------------------------------------------------------------------


class Importer:
    """Makes VCD take the VM over. *timeout* (seconds) bounds each wait."""

    def __init__(
        self,
        vcd: Vcd,
        gateway: GatewayClient,
        migration: Migration,
        *,
        timeout: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._vcd = vcd
        self._gateway = gateway
        self._migration = migration
        self._timeout = timeout
        self._sleep = sleep

    def settle(self, found: Found, moref: str, vcenter: xml.Reference) -> Found | None:
        """Wait for the import that an earlier run began. None, and nothing left in VCD, when it made no VM."""
        for task in found.vapp.tasks:
            if not task.ended:
                with contextlib.suppress(TaskFailedError):
                    self._vcd.wait_for(task, what="waiting for the import of an earlier run", timeout=self._timeout)
        again = find_existing(self._vcd, self._migration, moref, vcenter)
        if again is not None and again.vm is not None and again.vm.status not in NOT_MADE:
            return again
        if again is not None and self._migration["destination"]["vapp"] is None:
            self.delete_vapp(again.vapp)
        return None

    def run(self, target: Target, moref: str, vcenter: xml.Reference) -> Found:
        """Import the VM. Raises VcdError; then no vApp of this import is left."""
        found = self._wait_until_listed(moref, vcenter)
        if found is not None:
            return found
        if target.vapp is not None:
            self._into_existing(target.vapp, target, moref, vcenter)
        else:
            self._as_vapp(target, moref, vcenter)
        done = find_existing(self._vcd, self._migration, moref, vcenter)
        if done is None or done.vm is None:
            raise VcdError(f"importing VM {moref}: VCD reports success, but shows no VM with this moRef")
        return done

    def _wait_until_listed(self, moref: str, vcenter: xml.Reference) -> Found | None:
        """VCD learns of new VMs in vCenter with some delay. A VM that it already manages is given back instead."""
        path = f"/1.0.0/virtualCenters/urn:vcloud:vimserver:{entity_id(vcenter.href)}/unmanagedVirtualMachines"
        deadline = time.monotonic() + self._timeout
        while True:
            listed = self._vcd.cloudapi_items(path, what=f"listing the VMs of vCenter {vcenter.name!r}")
            if any(item.get("moRef") == moref for item in listed):
                return None
            found = find_existing(self._vcd, self._migration, moref, vcenter)
            if found is not None and found.vm is not None:
                return found
            if time.monotonic() + LISTING_PAUSE > deadline:
                raise VcdError(
                    f"VM {moref} does not show among the VMs of vCenter {vcenter.name!r} that VCD could import, after "
                    f"{self._timeout:g} seconds; is it in this vCenter, and is VCD connected to it?"
                )
            self._sleep(LISTING_PAUSE)

    def _parameters(self, target: Target, moref: str) -> dict[str, t.Any]:
        windows = (self._migration["machine"].get("guest") or {}).get("os_type") == "windows"
        return {
            "vm_name": vcd_name(self._migration["name"]),
            "computer_name": xml.safe_computer_name(self._migration["name"], windows=windows),
            "vm_moref": moref,
            "storage_profile": target.storage_profile.href if target.storage_profile is not None else None,
            "description": f"Cold migration {self._migration['id']}",
        }

    def _into_existing(self, vapp: xml.Reference, target: Target, moref: str, vcenter: xml.Reference) -> None:
        body = xml.import_into_vapp(vapp=vapp.href, **self._parameters(target, moref))
        self._vcd.run(
            "POST",
            f"{vcenter.href}/importVmIntoExistingVApp",
            what=f"importing VM {moref} into vApp {vapp.name!r}",
            media=xml.MEDIA_IMPORT_INTO_VAPP,
            body=body,
            timeout=self._timeout,
        )

    def _as_vapp(self, target: Target, moref: str, vcenter: xml.Reference) -> None:
        what = f"importing VM {moref} into VDC {target.vdc.name!r}"
        name = vcd_name(self._migration["name"])
        suffix = f"-{self._migration['id'][:8]}"
        try:
            vapp = self._post_import(target, moref, vcenter, name, what)
        except VcdError as error:
            if error.minor != DUPLICATE_NAME:
                raise
            vapp = self._post_import(target, moref, vcenter, name[: LONGEST_NAME - len(suffix)] + suffix, what)
        # from here on a run that takes over finds the vApp
        self._gateway.note_refs(self._migration["id"], {"vcd_vapp": vapp.href})
        try:
            self._wait_until_made(vapp, what)
        except TaskFailedError as error:
            # not after other errors: an import that is only slow is waited for by the next run
            try:
                self.delete_vapp(vapp)
            except ColdmigError as second:
                raise VcdError(f"{error}; also, the half-made vApp {vapp.name!r} is left: {second}") from error
            raise

    def _wait_until_made(self, vapp: xml.VApp, what: str) -> None:
        deadline = time.monotonic() + self._timeout
        tasks = vapp.tasks
        while True:
            for task in tasks:
                self._vcd.wait_for(task, what=what, timeout=max(1.0, deadline - time.monotonic()))
            vapp = self._vcd.read(xml.read_vapp, vapp.href, what=what)
            tasks = tuple(task for task in vapp.tasks if not task.ended)
            if not tasks:
                break
        if vapp.status in NOT_MADE or not vapp.vms:
            raise TaskFailedError(f"{what}: VCD made no VM (the vApp is '{vapp.status_name}')")

    def _post_import(self, target: Target, moref: str, vcenter: xml.Reference, name: str, what: str) -> xml.VApp:
        body = xml.import_as_vapp(name=name, vdc=target.vdc.href, **self._parameters(target, moref))
        answer = self._vcd.api(
            "POST", f"{vcenter.href}/importVmAsVApp", what=what, media=xml.MEDIA_IMPORT_AS_VAPP, body=body
        )
        return xml.read_vapp(answer)

    def delete_vapp(self, vapp: xml.VApp) -> None:
        """Delete a vApp with its VMs, powered on or not; one that is gone is fine."""
        self._delete(vapp.href, f"vApp {vapp.name!r}", deployed=vapp.deployed)
        self._gateway.note_refs(self._migration["id"], {"vcd_vapp": None, "vcd_vm": None})

    def delete_vm(self, vm: xml.Vm) -> None:
        """Delete one VM of a vApp that is not ours."""
        self._delete(vm.href, f"VM {vm.name!r}", deployed=vm.deployed)
        self._gateway.note_refs(self._migration["id"], {"vcd_vapp": None, "vcd_vm": None})

    def _delete(self, href: str, name: str, *, deployed: bool) -> None:
        try:
            if deployed:
                self._vcd.run(
                    "POST",
                    f"{href}/action/undeploy",
                    what=f"stopping {name}",
                    media=xml.MEDIA_UNDEPLOY,
                    body=xml.undeploy(),
                    timeout=self._timeout,
                )
            self._vcd.run("DELETE", href, what=f"deleting {name}", timeout=self._timeout)
        except VcdError as error:
            if error.status not in (403, 404):
                raise
            if self._vcd.read_or_none(lambda body: body, href, what=f"deleting {name}") is not None:
                raise


# --- configuring --------------------------------------------------------------------------------------------------


def vcd_name(name: str) -> str:
    """A name for vApp and VM."""
    return re.sub(r"[\x00-\x1f/\\%]+", "-", name)[:LONGEST_NAME] or "vm"


def wanted_nics(migration: Migration, current: Sequence[xml.Nic]) -> tuple[xml.Nic, ...]:
    """One NIC for each of the source. Those without an entry in the destination arrive disconnected.

    A MAC that is not to be kept is VCD's business: the one that a NIC has stays.
    """
    existing = {nic.index: nic for nic in current}
    system = migration.get("guest") or migration["machine"].get("guest") or {}
    adapter = (wish_of(migration.get("hardware")).nic or choose_nic(system, []).name).upper()
    networks = migration["destination"]["networks"]
    nics = []
    for index, source in enumerate(migration["machine"]["nics"]):
        present = existing.get(index)
        nic = xml.Nic(index=index, mac=present.mac if present else None, adapter=adapter)
        if index < len(networks):
            entry = networks[index]
            nic = replace(
                nic,
                network=entry["network"],
                connected=entry["connected"],
                mode=entry["ip_mode"],
                ip=entry["ip"] if entry["ip_mode"] == "MANUAL" else None,
            )
            if entry["keep_mac"]:
                nic = replace(nic, mac=(source["permanent_mac"] or source["mac"]).lower())
        nics.append(nic)
    return tuple(nics)


def comparable(nic: xml.Nic) -> xml.Nic:
    """A NIC without what VCD fills in by itself."""
    return replace(
        nic,
        ip=nic.ip if nic.mode == "MANUAL" else None,
        mac=nic.mac.lower() if nic.mac else None,
        connected=nic.connected and nic.network != xml.NO_NETWORK,
    )


def shown(nics: Iterable[xml.Nic]) -> list[dict[str, t.Any]]:
    """NICs as the module returns them."""
    return [
        {
            "index": nic.index,
            "network": None if nic.network == xml.NO_NETWORK else nic.network,
            "connected": nic.connected,
            "ip_mode": nic.mode,
            "ip": nic.ip,
            "mac": nic.mac,
            "adapter": nic.adapter,
        }
        for nic in nics
    ]


class Configurator:
    """Compares the VM with the migration and changes what differs, one task at a time, as VCD locks the vApp."""

    def __init__(
        self, vcd: Vcd, migration: Migration, target: Target, *, vapp: xml.VApp, vm: xml.Vm, timeout: float
    ) -> None:
        self._vcd = vcd
        self._migration = migration
        self._target = target
        self._vapp = vapp
        self._vm = vm
        self._own_vapp = target.vapp is None
        self._timeout = timeout

    def changes(self) -> list[Change]:
        """What differs, in the order in which it must be changed. Reads only."""
        changes = [*self._metadata(self._vm.href, "metadata")]
        if self._own_vapp:
            changes += self._metadata(self._vapp.href, "vapp_metadata")
        # A VM that runs was configured before it was started; since then it is its owner's.
        if self._vm.status != xml.STATUS_POWERED_ON:
            changes += [*self._networks_and_nics(), *self._customization(), *self._names()]
        if self._own_vapp and self._target.owner is not None:
            changes += self._owner(self._target.owner)
        if self._migration["power_on"] and self._vm.status != xml.STATUS_POWERED_ON:
            changes.append(Change("power", self._vm.status_name, "powered_on", self._power_on))
        return changes

    def _put(self, href: str, what: str, media: str, body: bytes, *, method: str = "PUT") -> None:
        self._vcd.run(
            method, href, what=f"{what} of VM {self._vm.name!r}", media=media, body=body, timeout=self._timeout
        )

    def _metadata(self, href: str, name: str) -> Iterable[Change]:
        wanted = {METADATA_ID: self._migration["id"]}
        current = self._vcd.read(xml.read_metadata, f"{href}/metadata", what="reading the metadata")
        present = {key: current.get(key) for key in wanted}
        if present != wanted:
            body = xml.metadata(wanted)
            yield Change(
                name,
                present,
                wanted,
                lambda: self._put(f"{href}/metadata", "setting metadata", xml.MEDIA_METADATA, body, method="POST"),
            )

    def _networks_and_nics(self) -> Iterable[Change]:
        section = f"{self._vapp.href}/networkConfigSection/"
        names = self._vcd.read(xml.read_vapp_networks, section, what="reading the vApp's networks")
        current = self._vcd.read(
            xml.read_nics, f"{self._vm.href}/networkConnectionSection/", what="reading the network connections"
        )
        nics = wanted_nics(self._migration, current)
        used = {nic.network for nic in nics} - {xml.NO_NETWORK}
        missing = [self._target.networks[name] for name in sorted(used - set(names))]
        if missing:
            yield Change("vapp_networks", sorted(names), sorted(used | set(names)), lambda: self._attach(missing))
        if [comparable(nic) for nic in current] != [comparable(nic) for nic in nics]:
            primary = next((nic.index for nic in nics if nic.connected), 0)
            yield Change(
                "nics",
                shown(current),
                shown(nics),
                lambda: self._put(
                    f"{self._vm.href}/networkConnectionSection/",
                    "setting the network connections",
                    xml.MEDIA_NETWORK_CONNECTION,
                    xml.network_connections(nics, primary),
                ),
            )
        # VCD makes a network of the port group that the VM had in vCenter; in a vApp that was there before, others are
        # not ours to judge
        left_over = sorted(set(names) - used - {xml.NO_NETWORK}) if self._own_vapp else []
        if left_over:
            yield Change("left_over_networks", left_over, [], lambda: self._detach(left_over))

    def _attach(self, missing: Sequence[xml.Reference]) -> None:
        self._change_networks("attaching the networks", add=missing)

    def _detach(self, names: Sequence[str]) -> None:
        self._change_networks("removing left-over networks", drop=names)

    def _change_networks(self, what: str, *, add: Sequence[xml.Reference] = (), drop: Sequence[str] = ()) -> None:
        href = f"{self._vapp.href}/networkConfigSection/"
        section = self._vcd.api("GET", href, what="reading the vApp's networks")
        self._put(href, what, xml.MEDIA_NETWORK_CONFIG, xml.change_vapp_networks(section, add=add, drop=drop))

    def _customization(self) -> Iterable[Change]:
        href = f"{self._vm.href}/guestCustomizationSection/"
        enabled, _unused = self._vcd.read(xml.read_customization, href, what="reading the guest customization")
        if enabled:
            windows = (self._migration["machine"].get("guest") or {}).get("os_type") == "windows"
            body = xml.customization_off(xml.safe_computer_name(self._migration["name"], windows=windows))
            yield Change(
                "guest_customization",
                True,
                False,
                lambda: self._put(href, "turning guest customization off", xml.MEDIA_CUSTOMIZATION, body),
            )

    def _names(self) -> Iterable[Change]:
        wanted = vcd_name(self._migration["name"])
        if self._vm.name != wanted:
            href = f"{self._vm.href}/action/reconfigureVm"
            body = xml.rename_vm(wanted)
            yield Change(
                "name", self._vm.name, wanted, lambda: self._put(href, "renaming", xml.MEDIA_VM, body, method="POST")
            )

    def _owner(self, owner: xml.Reference) -> Iterable[Change]:
        current = self._vapp.owner
        if current is None or not same_entity(current.href, owner.href):
            body = xml.owner(owner.href)
            yield Change(
                "owner",
                current.name if current else None,
                owner.name,
                lambda: self._put(f"{self._vapp.href}/owner", "setting the owner", xml.MEDIA_OWNER, body),
            )

    def _power_on(self) -> None:
        self._vcd.run(
            "POST",
            f"{self._vm.href}/power/action/powerOn",
            what=f"powering on VM {self._vm.name!r}",
            timeout=self._timeout,
        )


# --- the module's states ------------------------------------------------------------------------------------------


def ensure_present(options: Options, *, check_mode: bool) -> Outcome:
    """The VM in VCD, configured as the migration wants it. Values: ``vm``, ``vapp``, ``migration``."""
    migration_id = require_id(options["migration"])
    require_at_least_one(options, "wait_timeout")
    timeout = options["wait_timeout"]
    with GatewayClient.from_options(options) as gateway:
        migration = get_migration(gateway, migration_id)
        require_staged(migration)
        with Vcd.from_options(options, busy_timeout=timeout) as vcd:
            require_provider(vcd)
            if migration["state"] == "finished":
                return _as_it_is(vcd, migration)
            target = look_up(vcd, migration, options["owner"])
            vcenter = find_vcenter(vcd, options["vcenter"])
            moref = options["moid"] or migration["refs"]["vcenter_vm"]
            found = find_existing(vcd, migration, moref, vcenter)
            if check_mode:
                return _predict(vcd, migration, target, found, timeout=timeout)
            if moref is None:
                raise StateError(
                    f"migration {migration['name']} ({migration_id}) has no VM in vCenter yet; run vcenter_vm first"
                )
            return _make(gateway, vcd, migration, target, found, vcenter=vcenter, moref=moref, timeout=timeout)


def _make(
    gateway: GatewayClient,
    vcd: Vcd,
    migration: Migration,
    target: Target,
    found: Found | None,
    *,
    vcenter: xml.Reference,
    moref: str,
    timeout: float,
) -> Outcome:
    gateway.begin_import(migration["id"], run_label())
    importer = Importer(vcd, gateway, migration, timeout=timeout)
    outcome = Outcome(changed=True)  # at the least the migration is finished
    if found is not None and (found.vm is None or any(not task.ended for task in found.vapp.tasks)):
        found = importer.settle(found, moref, vcenter)
    if found is None or found.vm is None:
        outcome.before["vm"], outcome.after["vm"] = None, vcd_name(migration["name"])
        found = importer.run(target, moref, vcenter)
    vm = t.cast(xml.Vm, found.vm)
    gateway.note_refs(migration["id"], {"vcd_vapp": found.vapp.href, "vcd_vm": vm.href})
    for change in Configurator(vcd, migration, target, vapp=found.vapp, vm=vm, timeout=timeout).changes():
        outcome.before[change.name], outcome.after[change.name] = change.before, change.after
        change.apply()
    migration = gateway.finish(
        migration["id"],
        vcenter={"vm": moref, "name": vm.name},
        vcd={"vapp_href": found.vapp.href, "vm_href": vm.href},
    )
    outcome.values = {**_describe(vcd, found.vapp.href, vm.href), "migration": migration}
    return outcome


def _predict(vcd: Vcd, migration: Migration, target: Target, found: Found | None, *, timeout: float) -> Outcome:
    outcome = Outcome(changed=True)
    name = vcd_name(migration["name"])
    if found is not None and found.vm is not None:
        for change in Configurator(vcd, migration, target, vapp=found.vapp, vm=found.vm, timeout=timeout).changes():
            outcome.before[change.name], outcome.after[change.name] = change.before, change.after
        outcome.values = _describe(vcd, found.vapp.href, found.vm.href)
    else:
        nics = shown(wanted_nics(migration, ()))
        outcome.before, outcome.after = {"vm": None}, {"vm": name, "nics": nics}
        outcome.values = {
            "vm": {"name": name, "nics": nics},
            "vapp": {"name": target.vapp.name if target.vapp is not None else name},
        }
    outcome.values["migration"] = migration
    return outcome


def _as_it_is(vcd: Vcd, migration: Migration) -> Outcome:
    """A finished migration's VM is its owner's: nothing is changed any more."""
    found = find_existing(vcd, migration, migration["refs"]["vcenter_vm"], None)
    if found is None or found.vm is None:
        raise StateError(
            f"migration {migration['name']} ({migration['id']}) is finished, but VCD has no VM of it any more"
        )
    return Outcome(values={**_describe(vcd, found.vapp.href, found.vm.href), "migration": migration})


def ensure_absent(options: Options, *, check_mode: bool) -> Outcome:
    """No VM of this migration in VCD, nor the vApp that was made for it. The VM's disks go with it."""
    migration_id = require_id(options["migration"])
    with GatewayClient.from_options(options) as gateway:
        migration = get_migration(gateway, migration_id)
        outcome = Outcome(values={"migration": migration, "vm": None, "vapp": None})
        with Vcd.from_options(options, busy_timeout=options["wait_timeout"]) as vcd:
            require_provider(vcd)
            found = find_existing(vcd, migration, options["moid"] or migration["refs"]["vcenter_vm"], None)
            if found is None:
                return outcome
            outcome.changed = True
            outcome.before = {"vapp": found.vapp.name, "vm": found.vm.name if found.vm is not None else None}
            outcome.after = {"vapp": None, "vm": None}
            if check_mode:
                return outcome
            importer = Importer(vcd, gateway, migration, timeout=options["wait_timeout"])
            if migration["destination"]["vapp"] is None:
                importer.delete_vapp(found.vapp)
            elif found.vm is not None:
                outcome.after["vapp"] = found.vapp.name
                importer.delete_vm(found.vm)
            outcome.values["migration"] = gateway.migration(migration_id)
    return outcome


def _describe(vcd: Vcd, vapp_href: str, vm_href: str) -> dict[str, t.Any]:
    vapp = vcd.read(xml.read_vapp, vapp_href, what="reading the vApp")
    vm = vcd.read(xml.read_vm, vm_href, what="reading the VM")
    nics = vcd.read(xml.read_nics, f"{vm_href}/networkConnectionSection/", what="reading the network connections")
    return {
        "vapp": {
            "name": vapp.name,
            "href": vapp.href,
            "status": vapp.status_name,
            "owner": vapp.owner.name if vapp.owner is not None else None,
        },
        "vm": {
            "name": vm.name,
            "href": vm.href,
            "status": vm.status_name,
            "storage_profile": vm.storage_profile,
            "nics": shown(nics),
        },
    }
