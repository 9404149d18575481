# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""What the module ``vcd_vm`` does: look, compare, act.

The names of the destination are looked up first and before anything is changed. The import is by move: VCD takes over
the VM that ``vcenter_vm`` made. What an earlier run made is found by the gateway's notes, by the VM's moRef, by
metadata and by its description; every later step compares before it writes, so a run that was killed anywhere is
continued by the next.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping

from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_xml as xml
from ansible_collections.cda.coldmig.plugins.module_utils._destination import (
    Outcome,
    get_migration,
    require_at_least_one,
    require_id,
    require_staged,
    run_label,
)
from ansible_collections.cda.coldmig.plugins.module_utils._errors import StateError
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient, Migration
from ansible_collections.cda.coldmig.plugins.module_utils._import_notes import AT_VCD, note_success, noting_failures
from ansible_collections.cda.coldmig.plugins.module_utils._vcd import Vcd
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_config import (
    Configurator,
    computer_name,
    shown,
    wanted_nics,
)
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_import import Importer, Source, empty_vapp, is_settled
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_target import (
    Found,
    Target,
    arrival,
    find_existing,
    find_vcenter,
    look_up,
    require_provider,
    vcd_name,
)

Options = Mapping[str, t.Any]


def ensure_present(options: Options, *, check_mode: bool) -> Outcome:
    """The VM in VCD, configured as the migration wants it. Values: ``vm``, ``vapp``, ``migration``."""
    migration_id = require_id(options["migration"])
    require_at_least_one(options, "wait_timeout")
    timeout = options["wait_timeout"]
    with GatewayClient.from_options(options) as gateway:
        migration = get_migration(gateway, migration_id)
        require_staged(migration)
        if not check_mode and migration["state"] != "finished":
            # before it is looked what is there: another run may just be making it
            migration = gateway.claim(migration_id, run_label())
        with (
            noting_failures(gateway, migration_id, AT_VCD),
            Vcd.from_options(options, busy_timeout=timeout) as vcd,
        ):
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
            source = Source(moref, vcenter, tuple(str(key) for key in options["disk_keys"]))
            return _make(gateway, vcd, migration, target, found, source=source, options=options)


def _make(
    gateway: GatewayClient,
    vcd: Vcd,
    migration: Migration,
    target: Target,
    found: Found | None,
    *,
    source: Source,
    options: Options,
) -> Outcome:
    timeout = options["wait_timeout"]
    gateway.begin_import(migration["id"], run_label())
    importer = Importer(vcd, gateway, migration, timeout=timeout)
    outcome = Outcome(changed=True)  # at the least the migration is finished
    if found is not None and not is_settled(found):
        found = importer.settle(found, source, own_vapp=target.own_vapp)
    if found is None or found.vm is None:
        outcome.before["vm"], outcome.after["vm"] = None, vcd_name(migration["name"])
        found = importer.run(target, source, computer_name(migration))
    vm = t.cast(xml.Vm, found.vm)
    gateway.note_refs(migration["id"], {"vcd_vapp": found.vapp.href, "vcd_vm": vm.href})
    configurator = Configurator(
        vcd, migration, target, vapp=found.vapp, vm=vm, timeout=timeout, disk_keys=source.disk_keys
    )
    for change in configurator.changes():
        outcome.before[change.name], outcome.after[change.name] = change.before, change.after
        configurator.apply(change)
    note_success(gateway, migration)
    migration = gateway.finish(
        migration["id"],
        vcenter={"vm": source.moref, "name": vm.name},
        vcd={"vapp_href": found.vapp.href, "vm_href": vm.href},
        keep_staging_hours=options["keep_staging_hours"],
    )
    outcome.values = {**_describe(vcd, found.vapp.href, vm.href), "migration": migration}
    lease = outcome.values["vapp"]["runtime_lease"]
    if lease:
        outcome.notes.append(
            f"Cloud Director stops vApp {found.vapp.name!r} {lease / 86400:.3g} days after its start, because the "
            f"organization {migration['organization']!r} has a runtime lease; renew it, or set it to never expire"
        )
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
            "vapp": {"name": None if target.arrive == "standalone" else target.vapp_name},
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
            importer = Importer(vcd, gateway, migration, timeout=options["wait_timeout"])
            if found is None:
                empty = empty_vapp(vcd, migration)
                if empty is not None:
                    outcome.before, outcome.after = {"vapp": empty.name}, {"vapp": None}
                    outcome.changed = check_mode or importer.delete_empty(empty)
                return outcome
            outcome.changed = True
            outcome.before = {"vapp": found.vapp.name, "vm": found.vm.name if found.vm is not None else None}
            outcome.after = {"vapp": None, "vm": None}
            if check_mode:
                return outcome
            if arrival(migration) in ("vapp", "standalone"):
                importer.delete_vapp(found.vapp)
            elif found.vm is not None:
                outcome.after["vapp"] = found.vapp.name
                importer.delete_vm(found.vm, found.vapp)
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
            "runtime_lease": vapp.runtime_lease,
        },
        "vm": {
            "name": vm.name,
            "href": vm.href,
            "status": vm.status_name,
            "storage_profile": vm.storage_profile,
            "sizing_policy": vm.sizing_policy,
            "disks": [{"id": disk.id, "own_storage_profile": disk.own_profile} for disk in vm.disks],
            "nics": shown(nics),
        },
    }
