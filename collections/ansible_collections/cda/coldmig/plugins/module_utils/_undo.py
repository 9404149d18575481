# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""What the module ``undo`` does: removes what a migration made at the destination, as long as nobody has used it.

From the first power-on of a VM there may be something in it that is nowhere else, so only a test boot of ours, whose
changes were dropped, does not count.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping

from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_vm, _vcenter_vm
from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_xml as xml
from ansible_collections.cda.coldmig.plugins.module_utils._destination import (
    Outcome,
    get_migration,
    require_at_least_one,
    require_id,
    run_label,
)
from ansible_collections.cda.coldmig.plugins.module_utils._errors import StateError
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient, Migration
from ansible_collections.cda.coldmig.plugins.module_utils._vcd import Vcd
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_target import find_existing, require_provider
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import Vcenter
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_boot import (
    begun_boots,
    first_use,
    is_left_over,
    put_back,
)

BEGUN = ("importing", "finished")
"""In these states there may be something at the destination, and the gateway has to be told that it is gone."""
NOTHING_YET = ("waiting", "confirmed", "copying", "assessed")
OFF = frozenset({xml.STATUS_UNRESOLVED, xml.STATUS_FAILED_CREATION, 1, 8})
"""Of VMs in VCD that do not run: half made, resolved, powered off."""

Options = Mapping[str, t.Any]


class UsedError(StateError):
    """The VM runs, or did."""


def undo(options: Options, *, check_mode: bool) -> Outcome:
    """Nothing of the migration at the destination. Values: ``migration``, ``removed``."""
    migration_id = require_id(options["migration"])
    require_at_least_one(options, "wait_timeout")
    with GatewayClient.from_options(options) as gateway:
        migration = get_migration(gateway, migration_id)
        outcome = Outcome(values={"migration": migration, "removed": []})
        if migration["state"] in NOTHING_YET:
            return outcome
        if options["to"] == "copied":
            _require_staged(migration)
        if not check_mode:
            migration = gateway.claim(migration_id, run_label())
        in_vcd, in_vcenter = _look(options, migration, check_mode=check_mode)
        outcome.before = {"vapp": in_vcd, "vm": in_vcenter}
        outcome.after = {"vapp": None, "vm": None}
        outcome.values["removed"] = [name for name in (in_vcd, in_vcenter) if name]
        outcome.changed = bool(outcome.values["removed"]) or migration["state"] in BEGUN
        if check_mode or not outcome.changed:
            return outcome
        # an import that VCD is still at may end with a VM, so VCD comes first
        if in_vcd is not None:
            _vcd_vm.ensure_absent({**options, "moid": None}, check_mode=False)
        elif migration["refs"]["vcd_vm"] or migration["refs"]["vcd_vapp"]:
            gateway.note_refs(migration_id, {"vcd_vapp": None, "vcd_vm": None})
        _vcenter_vm.ensure_absent(options, check_mode=False)
        if migration["state"] in BEGUN or options["to"] == "copied":
            outcome.values["migration"] = gateway.undone(migration_id, run_label(), options["to"])
        else:
            outcome.values["migration"] = get_migration(gateway, migration_id)
    return outcome


def _require_staged(migration: Migration) -> None:
    if migration.get("staging_removed_at") is not None or migration["state"] not in (*BEGUN, "copied"):
        raise StateError(
            f"migration {migration['name']} ({migration['id']}) is {migration['state']}"
            f"{' and not staged any more' if migration.get('staging_removed_at') else ''}: it cannot be copied again; "
            "undo it with to=canceled"
        )


def _look(options: Options, migration: Migration, *, check_mode: bool) -> tuple[str | None, str | None]:
    """The names of vApp and VM that are there. Raises UsedError when the VM may hold what is nowhere else."""
    in_vcd = in_vcenter = None
    with Vcd.from_options(options, busy_timeout=options["wait_timeout"]) as vcd:
        require_provider(vcd)
        found = find_existing(vcd, migration, migration["refs"]["vcenter_vm"], None)
        if found is not None:
            in_vcd = found.vapp.name
            if found.vm is not None and found.vm.status not in OFF:
                raise _used(migration, f"is {found.vm.status_name} in Cloud Director", "power it off, and set force")
    with Vcenter.from_options(options) as vcenter:
        vm = vcenter.find_vm(migration["id"], hint=migration["refs"]["vcenter_vm"])
        if vm is not None:
            in_vcenter = vm.name
            tested = is_left_over(vcenter, vm)  # by a run that was killed
            if tested and not check_mode:
                put_back(vcenter, vm, timeout=options["wait_timeout"])
            if not (tested and check_mode) and not vcenter.is_off(vm):
                raise _used(migration, "is not powered off in vCenter", "power it off, and set force")
            used = None if options["force"] else first_use(vcenter.power_ons(vm), begun_boots(vcenter, vm))
            if used is not None:
                moment = used.strftime("%Y-%m-%d %H:%M:%S")
                raise _used(migration, f"was powered on ({moment} UTC)", "set force to remove it nevertheless")
    return in_vcd, in_vcenter


def _used(migration: Migration, how: str, what_to_do: str) -> UsedError:
    return UsedError(
        f"the VM of migration {migration['name']} ({migration['id']}) {how}: "
        f"it may hold what is nowhere else, so it is not removed; {what_to_do}"
    )
