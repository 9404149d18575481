# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""VCD takes a VM over that lies in vCenter, by move: nothing is copied.

Three ways: into a vApp of its own, into one that is there (or made for several VMs), or without one. The vApp of an
import exists before its VM does; when the import fails, it is removed. An import whose answer never came is looked for,
and sent again only when VCD shows nothing of it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_bodies as bodies
from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_xml as xml
from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient, Migration
from ansible_collections.cda.coldmig.plugins.module_utils._http import backoff
from ansible_collections.cda.coldmig.plugins.module_utils._vcd import Vcd, entity_id, equals, same_entity
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_errors import (
    DUPLICATE_NAME,
    TaskFailedError,
    VcdError,
    is_uncertain,
)
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_lock import alone_with
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_target import (
    MADE_HERE,
    Found,
    Target,
    arrival,
    find_existing,
    find_vapp,
    mark,
    owned_by_system,
    vapp_name,
    vapp_names,
    vcd_name,
)

NOT_MADE = frozenset({xml.STATUS_UNRESOLVED, xml.STATUS_FAILED_CREATION})
SHARED = "Cold migrations"
"""Description with which a vApp for several VMs is made."""
LISTING_FIRST = 1.0
LISTING_LONGEST = 10.0
TRIES = 5
"""How often an import is sent whose answer did not come, and of which VCD shows nothing."""


@dataclass(frozen=True)
class Source:
    """The VM in vCenter. ``disk_keys`` are vSphere's device keys in the order of the migration's disks, if known."""

    moref: str
    vcenter: xml.Reference
    disk_keys: tuple[str, ...] = ()


class Importer:
    """Makes VCD take the VM over, and removes what was made. *timeout* (seconds) bounds each wait."""

    def __init__(
        self,
        vcd: Vcd,
        gateway: GatewayClient,
        migration: Migration,
        *,
        timeout: float,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._vcd = vcd
        self._gateway = gateway
        self._migration = migration
        self._timeout = timeout
        self._sleep = sleep
        self._clock = clock

    # -- what an earlier run began

    def settle(self, found: Found, source: Source, *, own_vapp: bool) -> Found | None:
        """Wait for the import that an earlier run began. None, and nothing left in VCD, when it made no VM."""
        self._wait_for_tasks(found.vapp, "waiting for the import of an earlier run")
        again = find_existing(self._vcd, self._migration, source.moref, source.vcenter)
        if again is not None and again.vm is not None and again.vm.status not in NOT_MADE:
            return again
        if again is not None and own_vapp:
            self.delete_vapp(again.vapp)
        elif again is not None and again.vm is not None:
            self.delete_vm(again.vm, again.vapp)
        return None

    def _wait_for_tasks(self, vapp: xml.VApp, what: str) -> None:
        """However they end."""
        for task in (*vapp.tasks, *(task for vm in vapp.vms for task in vm.tasks)):
            if not task.ended:
                with contextlib.suppress(TaskFailedError):
                    self._vcd.wait_for(task, what=what, timeout=self._timeout)

    # -- importing

    def run(self, target: Target, source: Source, computer_name: str) -> Found:
        """Import the VM. Raises VcdError; then nothing of this import is left."""
        found = self._wait_until_listed(source)
        if found is not None:
            return found
        imported = bodies.Import(
            vm_name=vcd_name(self._migration["name"]),
            computer_name=computer_name,
            moref=source.moref,
            storage_profile=target.storage_profile.href if target.storage_profile is not None else None,
            description=mark(self._migration["id"]),
            disks=disk_profiles(target, source),
        )
        if target.arrive == "vapp":
            self._as_vapp(target, source, imported)
        elif target.arrive == "standalone":
            self._standalone(target, source, imported)
        else:
            self._into_vapp(target, source, imported)
        done = find_existing(self._vcd, self._migration, source.moref, source.vcenter)
        if done is None or done.vm is None:
            raise VcdError(f"importing VM {source.moref}: VCD reports success, but shows no VM with this moRef")
        return done

    def _wait_until_listed(self, source: Source) -> Found | None:
        """VCD learns of new VMs in vCenter with some delay. A VM that it already manages is given back instead."""
        deadline = self._clock() + self._timeout
        pause = LISTING_FIRST
        while True:
            listed = self._listed(source)
            if listed is not None:
                if listed.get("state") in ("ON", "SUSPENDED"):
                    raise VcdError(f"VM {source.moref} is {listed['state']} in vCenter, and must be OFF to be imported")
                return None
            found = find_existing(self._vcd, self._migration, source.moref, source.vcenter)
            if found is not None and found.vm is not None:
                return found
            if self._clock() + pause > deadline:
                raise VcdError(
                    f"VM {source.moref} does not show among the VMs of vCenter {source.vcenter.name!r} that VCD could "
                    f"import, after {self._timeout:g} seconds; is it in this vCenter, and is VCD connected to it?"
                )
            self._sleep(pause)
            pause = min(LISTING_LONGEST, pause * 1.5)

    def _listed(self, source: Source) -> Mapping[str, object] | None:
        vcenter = source.vcenter
        path = f"/1.0.0/virtualCenters/urn:vcloud:vimserver:{entity_id(vcenter.href)}/unmanagedVirtualMachines"
        what = f"listing the VMs of vCenter {vcenter.name!r}"
        condition = equals("moRef", source.moref)
        try:
            items = list(self._vcd.cloudapi_items(path, what=what, condition=condition))
        except VcdError as error:
            if error.status != 400 or condition is None:
                raise
            items = list(self._vcd.cloudapi_items(path, what=what))
        return next((item for item in items if item.get("moRef") == source.moref), None)

    # -- a vApp of its own

    def _as_vapp(self, target: Target, source: Source, imported: bodies.Import) -> None:
        what = f"importing VM {source.moref} into VDC {target.vdc.name!r}"
        name, other = vapp_names(self._migration)

        def begin(vapp: str) -> xml.VApp:
            body = bodies.import_as_vapp(imported, name=vapp, vdc=target.vdc.href)
            return self._begin(source, what, "importVmAsVApp", bodies.MEDIA_IMPORT_AS_VAPP, body)

        try:
            vapp = begin(name)
        except VcdError as error:
            if error.minor != DUPLICATE_NAME:
                raise
            vapp = begin(other)
        self._follow(vapp, what)

    def _begin(self, source: Source, what: str, operation: str, media: str, body: bytes) -> xml.VApp:
        """The vApp in which the import runs. One whose answer never came is looked for before it is sent again."""
        attempt = 1
        while True:
            try:
                answer = self._vcd.api(
                    "POST", f"{source.vcenter.href}/{operation}", what=what, media=media, body=body, repeatable=False
                )
            except ColdmigError as error:
                if not (is_uncertain(error) or attempt > 1):
                    raise
                # after an attempt of unknown outcome a refusal may mean that this one is done already
                found = find_existing(self._vcd, self._migration, source.moref, source.vcenter)
                if found is not None:
                    return found.vapp
                if not is_uncertain(error) or attempt == TRIES:
                    raise
                self._sleep(backoff(attempt))
                attempt += 1
            else:
                return self._vapp_of(answer, what)

    def _vapp_of(self, answer: bytes, what: str) -> xml.VApp:
        """Of the VApp, or the Vm, that an import answers with."""
        if xml.local_name(answer) == "VApp":
            return xml.read_vapp(answer)
        vm = xml.read_vm(answer)
        self._gateway.note_refs(self._migration["id"], {"vcd_vm": vm.href})
        # the link to its vApp may come later than the VM
        deadline = self._clock() + self._timeout
        while vm.vapp is None:
            for task in vm.tasks:
                self._vcd.wait_for(task, what=what, timeout=self._timeout)
            if self._clock() > deadline:
                raise VcdError(f"{what}: VCD does not say in which vApp the VM is")
            self._sleep(LISTING_FIRST)
            vm = self._vcd.read(xml.read_vm, vm.href, what=what)
        return self._vcd.read(xml.read_vapp, vm.vapp, what=what)

    def _follow(self, vapp: xml.VApp, what: str) -> None:
        """To the end of the import; when it fails, its vApp is removed."""
        # from here on a run that takes over finds the vApp
        self._gateway.note_refs(self._migration["id"], {"vcd_vapp": vapp.href})
        try:
            self._wait_until_made(vapp, what)
        except TaskFailedError as error:
            # not after other errors: an import that is only slow is waited for by the next run
            try:
                self.delete_vapp(vapp)
            except ColdmigError as second:
                raise VcdError(
                    f"{error}; also, the half-made vApp {vapp.name!r} is left: {second}", tenant=error.tenant
                ) from error
            raise

    def _wait_until_made(self, vapp: xml.VApp, what: str) -> None:
        deadline = self._clock() + self._timeout
        while True:
            running = [task for task in (*vapp.tasks, *(task for vm in vapp.vms for task in vm.tasks)) if _counts(task)]
            for task in running:
                self._vcd.wait_for(task, what=what, timeout=max(1.0, deadline - self._clock()))
            vapp = self._vcd.read(xml.read_vapp, vapp.href, what=what)
            if not any(not task.ended for task in vapp.tasks):
                break
        if vapp.status in NOT_MADE or not vapp.vms or any(vm.status in NOT_MADE for vm in vapp.vms):
            failed = [task.error for task in vapp.tasks if task.error is not None]
            why = str(failed[0]) if failed else f"VCD made no VM (the vApp is '{vapp.status_name}')"
            raise TaskFailedError(f"{what}: {why}", tenant=failed[0].tenant if failed else None)

    # -- without a vApp

    def _standalone(self, target: Target, source: Source, imported: bodies.Import) -> None:
        what = f"importing VM {source.moref} into VDC {target.vdc.name!r}"
        body = bodies.import_standalone(imported, vdc=target.vdc.href)
        self._follow(self._begin(source, what, "importVm", bodies.MEDIA_IMPORT_STANDALONE, body), what)

    # -- a vApp that others use as well

    def _into_vapp(self, target: Target, source: Source, imported: bodies.Import) -> None:
        name = target.vapp_name
        what = f"importing VM {source.moref} into vApp {name!r}"
        # the lock makes runs here queue; VCD itself lets only one task at a time work on a vApp
        with alone_with(self._vcd, target.vdc.href, name, self._timeout):
            attempt = 1
            while True:
                vapp = self._shared_vapp(target)
                body = bodies.import_into_vapp(imported, vapp=vapp.href)
                try:
                    self._vcd.run(
                        "POST",
                        f"{source.vcenter.href}/importVmIntoExistingVApp",
                        what=what,
                        media=bodies.MEDIA_IMPORT_INTO_VAPP,
                        body=body,
                        timeout=self._timeout,
                        repeatable=False,
                    )
                    return
                except ColdmigError as error:
                    if self._has_arrived(source, vapp, what):
                        return
                    gone = target.arrive == "shared" and isinstance(error, VcdError) and error.status in (403, 404)
                    if not (is_uncertain(error) or gone) or attempt == TRIES:
                        if isinstance(error, TaskFailedError | VcdError):
                            self._remove_if_empty(vapp.href)
                        raise
                self._sleep(backoff(attempt))
                attempt += 1

    def _has_arrived(self, source: Source, vapp: xml.Reference, what: str) -> bool:
        """Whether the VM is there although the import seemed to fail: its answer was lost, or it was sent before."""
        now = self._vcd.read_or_none(xml.read_vapp, vapp.href, what=what)
        if now is not None:
            self._wait_for_tasks(now, what)
        found = find_existing(self._vcd, self._migration, source.moref, source.vcenter)
        return found is not None and found.vm is not None and found.vm.status not in NOT_MADE

    def _shared_vapp(self, target: Target) -> xml.Reference:
        """The vApp of this name; made if it is not there and may be made."""
        if target.arrive == "existing" and target.vapp is not None:
            return target.vapp
        name, vdc = target.vapp_name, target.vdc
        what = f"making vApp {name!r} in VDC {vdc.name!r}"
        present = find_vapp(self._vcd, vdc, name)
        if present is not None:
            vapp = self._vcd.read(xml.read_vapp, present.href, what=what)
            self._wait_for_tasks(vapp, what)
            if target.arrive == "shared" and not vapp.vms and vapp.description == SHARED and owned_by_system(vapp):
                self._note_made_here(vapp, what)  # a run that made it may not have come to that
            return present
        try:
            answer = self._vcd.api(
                "POST",
                f"{vdc.href.replace('/api/admin/vdc/', '/api/vdc/')}/action/composeVApp",
                what=what,
                media=bodies.MEDIA_COMPOSE,
                body=bodies.compose_empty(name, SHARED),
                repeatable=False,
            )
            vapp = xml.read_vapp(answer)
        except ColdmigError as error:
            made = find_vapp(self._vcd, vdc, name)
            if made is None or not (is_uncertain(error) or _is_duplicate(error)):
                raise
            vapp = self._vcd.read(xml.read_vapp, made.href, what=what)
        for task in vapp.tasks:
            self._vcd.wait_for(task, what=what, timeout=self._timeout)
        self._note_made_here(vapp, what)
        return xml.Reference(name, vapp.href)

    def _note_made_here(self, vapp: xml.VApp, what: str) -> None:
        self._vcd.run(
            "POST",
            f"{vapp.href}/metadata",
            what=what,
            media=bodies.MEDIA_METADATA,
            body=bodies.metadata({MADE_HERE: "shared"}),
            timeout=self._timeout,
            repeatable=True,
        )

    def _remove_if_empty(self, href: str) -> bool:
        """A vApp that was made for several VMs goes when there is none in it. Whether it was there, and went."""
        if not is_empty_and_ours(self._vcd, href):
            return False
        vapp = self._vcd.read_or_none(xml.read_vapp, href, what="reading the vApp")
        if vapp is not None:
            self._delete(href, f"vApp {vapp.name!r}", deployed=vapp.deployed)
        return vapp is not None

    # -- removing

    def delete_vapp(self, vapp: xml.VApp) -> None:
        """Delete a vApp with its VMs, powered on or not; one that is gone is fine."""
        self._delete(vapp.href, f"vApp {vapp.name!r}", deployed=vapp.deployed)
        self._forget()

    def delete_vm(self, vm: xml.Vm, vapp: xml.VApp) -> None:
        """Delete one VM of a vApp that is not ours alone, and the vApp if it was made for migrations and is empty."""
        with alone_with(self._vcd, vapp.vdc or "", vapp.name, self._timeout):
            self._delete(vm.href, f"VM {vm.name!r}", deployed=vm.deployed)
            self._remove_if_empty(vapp.href)
        self._forget()

    def delete_empty(self, vapp: xml.VApp) -> bool:
        """Delete a vApp that was made for several VMs and has none. Whether it was there, and went."""
        with alone_with(self._vcd, vapp.vdc or "", vapp.name, self._timeout):
            return self._remove_if_empty(vapp.href)

    def _forget(self) -> None:
        self._gateway.note_refs(self._migration["id"], {"vcd_vapp": None, "vcd_vm": None})

    def _delete(self, href: str, name: str, *, deployed: bool) -> None:
        if deployed:
            try:
                self._vcd.run(
                    "POST",
                    f"{href}/action/undeploy",
                    what=f"stopping {name}",
                    media=bodies.MEDIA_UNDEPLOY,
                    body=bodies.undeploy(),
                    timeout=self._timeout,
                    repeatable=True,
                )
            except VcdError as error:
                # refused because it was stopped already (the answer of an earlier attempt was lost), or is gone
                if error.status not in (400, 403, 404):
                    raise
        try:
            self._vcd.run("DELETE", href, what=f"deleting {name}", timeout=self._timeout)
        except VcdError as error:
            if error.status not in (403, 404):
                raise
            if self._vcd.read_or_none(lambda body: body, href, what=f"deleting {name}") is not None:
                raise


def is_empty_and_ours(vcd: Vcd, href: str) -> bool:
    """Whether a vApp was made here for several VMs, and has none."""
    vapp = vcd.read_or_none(xml.read_vapp, href, what="reading the vApp")
    if vapp is None or vapp.vms or any(not task.ended for task in vapp.tasks):
        return False
    metadata = vcd.read(xml.read_metadata, f"{href}/metadata", what="reading the metadata")
    return MADE_HERE in metadata or (vapp.description == SHARED and owned_by_system(vapp))


def empty_vapp(vcd: Vcd, migration: Migration) -> xml.VApp | None:
    """The vApp that a run made for this migration and others, and into which no VM came."""
    if arrival(migration) != "shared":
        return None
    name, organization = vapp_name(migration), migration["organization"]
    what = f"looking for vApp {name!r}"
    records = vcd.search("adminOrgVdc", "name", migration["destination"]["vdc"], what=what)
    vdcs = [record["href"] for record in records if record.get("orgName") == organization]
    for record in vcd.search("adminVApp", "name", name, what=what):
        there = any(same_entity(record.get("vdc"), vdc) for vdc in vdcs)
        if there and is_empty_and_ours(vcd, record["href"]):
            return vcd.read_or_none(xml.read_vapp, record["href"], what="reading the vApp")
    return None


def is_settled(found: Found) -> bool:
    """Whether the import is over and made a VM."""
    if found.vm is None or found.vm.status in NOT_MADE:
        return False
    return all(task.ended for task in (*found.vapp.tasks, *found.vm.tasks))


def _counts(task: xml.Task) -> bool:
    """A task whose end decides; one that failed before this import is none of ours."""
    return not task.ended or task.operation_name.lower().startswith("import")


def _is_duplicate(error: ColdmigError) -> bool:
    return isinstance(error, VcdError) and error.minor == DUPLICATE_NAME


def disk_profiles(target: Target, source: Source) -> dict[str, str]:
    """Device key -> href of the storage profile, of the disks that have one other than the VM's, as far as known."""
    vm_profile = target.storage_profile.href if target.storage_profile is not None else None
    return {
        source.disk_keys[index]: profile.href
        for index, profile in target.disks.items()
        if index < len(source.disk_keys) and not same_entity(profile.href, vm_profile)
    }
