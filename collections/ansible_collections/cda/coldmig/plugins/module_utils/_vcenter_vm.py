# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""What the modules ``vcenter_vm`` and ``vcenter_test_boot`` do: look, compare, act.

Everything that can be wrong about names, sizes and hardware is found out before the gateway is told that the import
begins: until then the tenant can still correct the migration.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ansible_collections.cda.coldmig.plugins.module_utils._destination import (
    Outcome,
    get_migration,
    give_up_if_lost,
    require_at_least_one,
    require_id,
    require_staged,
    run_label,
    staged_image,
)
from ansible_collections.cda.coldmig.plugins.module_utils._errors import HttpError, InputError, StateError
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient, Migration
from ansible_collections.cda.coldmig.plugins.module_utils._guest_hardware import Hardware, Host
from ansible_collections.cda.coldmig.plugins.module_utils._import_notes import (
    AT_TEST_BOOT,
    AT_VCENTER,
    note_repetition,
    noting_failures,
)
from ansible_collections.cda.coldmig.plugins.module_utils._migration import mac_of
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import FoundVm, Placement, Vcenter, VcenterError
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_boot import boot_test, put_back, recorded
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_import import VmRequest, import_vm
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_policy import policy_id
from ansible_collections.cda.coldmig.plugins.module_utils._vm_hardware import check_sizes, plan_for

LONGEST_NAME = 80
"""vCenter's limit."""
CHUNK = 1 << 20

Options = Mapping[str, t.Any]


def ensure_present(options: Options, *, check_mode: bool) -> Outcome:
    """The VM with all its disks. Values: ``vm``, ``vcenter``, ``migration``."""
    migration_id = require_id(options["migration"])
    require_at_least_one(options, "parallel_disks", "wait_timeout", "import_attempts")
    check_sizes(options)
    with GatewayClient.from_options(options) as gateway:
        migration = get_migration(gateway, migration_id)
        require_staged(migration)
        if not check_mode and migration["state"] != "finished":
            # before it is looked what is there: another run may just be making it
            migration = gateway.claim(migration_id, run_label())
            require_staged(migration)
        with noting_failures(gateway, migration_id, AT_VCENTER), Vcenter.from_options(options) as vcenter:
            found = vcenter.find_vm(migration_id, hint=migration["refs"]["vcenter_vm"])
            if found is not None and found.complete:
                if gateway.holds(migration_id) and not migration["refs"]["vcd_vm"]:
                    # what a run left that was killed in a test boot: nobody can take a VM over that runs
                    put_back(vcenter, found, timeout=options["wait_timeout"])
                outcome = _keep(gateway, vcenter, migration, found, check_mode=check_mode)
            elif migration["state"] == "finished":
                raise StateError(
                    f"migration {migration['name']} ({migration_id}) is finished, "
                    f"but vCenter {vcenter.hostname} has no VM of it any more"
                )
            else:
                outcome = _create(options, gateway, vcenter, migration, found, check_mode=check_mode)
            outcome.values["vcenter"] = vcenter.about()
    return outcome


def ensure_absent(options: Options, *, check_mode: bool) -> Outcome:
    """No VM of this migration. One that Cloud Director manages is left to ``vcd_vm``. Values: ``migration``."""
    migration_id = require_id(options["migration"])
    with GatewayClient.from_options(options) as gateway, Vcenter.from_options(options) as vcenter:
        migration = gateway.migration(migration_id)
        refs = migration["refs"] if migration is not None else {}
        found = vcenter.find_vm(migration_id, hint=refs.get("vcenter_vm"))
        outcome = Outcome(values={"migration": migration, "vcenter": vcenter.about()})
        if found is None:
            return outcome
        if refs.get("vcd_vm"):
            raise StateError(
                f"VM {found.name} ({found.moid}) belongs to Cloud Director, "
                "which has to remove it (vcd_vm, state=absent)"
            )
        outcome.changed = True
        outcome.before = vcenter.describe_leftover(found)
        if not check_mode:
            vcenter.remove_vm(found, timeout=options["wait_timeout"])
            if migration is not None and refs.get("vcenter_vm"):
                outcome.values["migration"] = gateway.note_refs(migration_id, {"vcenter_vm": None})
        return outcome


def ensure_booted(options: Options, *, check_mode: bool) -> Outcome:
    """A VM that was booted once to see whether it starts. Values: ``test_boot``, ``screenshot``."""
    migration_id = require_id(options["migration"])
    require_at_least_one(options, "timeout", "without_tools", "wait_timeout")
    with GatewayClient.from_options(options) as gateway, Vcenter.from_options(options) as vcenter:
        refs = get_migration(gateway, migration_id)["refs"]
        found = vcenter.find_vm(migration_id, hint=refs["vcenter_vm"])
        if found is None or not found.complete:
            raise StateError(f"vCenter {vcenter.hostname} has no complete VM of migration {migration_id} to boot")
        outcome = Outcome()
        known = recorded(vcenter, found)
        if known is not None:
            outcome.values["test_boot"] = asdict(known)
            if not options["again"]:
                return outcome
        if refs["vcd_vm"]:
            raise StateError(f"VM {found.name} ({found.moid}) belongs to Cloud Director; a test boot comes before that")
        outcome.changed = True
        if check_mode:
            return outcome
        gateway.claim(migration_id, run_label())

        def keep(data: bytes) -> None:
            path = options["screenshot"]
            if path:
                try:
                    Path(path).write_bytes(data)
                except OSError as error:
                    raise InputError("screenshot", path, f"a path that can be written ({error.strerror})") from error
                outcome.values["screenshot"] = path

        with noting_failures(gateway, migration_id, AT_TEST_BOOT):
            result = boot_test(
                vcenter,
                found,
                timeout=options["timeout"],
                without_tools=options["without_tools"],
                wait_timeout=options["wait_timeout"],
                picture=keep,
            )
        outcome.values["test_boot"] = asdict(result)
        gateway.note_check(migration_id, "test-boot", {"passed": result.passed, "detail": result.detail})
    return outcome


def _keep(
    gateway: GatewayClient, vcenter: Vcenter, migration: Migration, found: FoundVm, *, check_mode: bool
) -> Outcome:
    """The VM is there. The gateway may not know it yet if the run that made it died just then."""
    described = vcenter.describe_vm(found)
    unknown = migration["refs"]["vcenter_vm"] != found.moid and migration["state"] != "finished"
    if unknown and not check_mode:
        gateway.begin_import(migration["id"], run_label())
        migration = gateway.note_refs(migration["id"], {"vcenter_vm": found.moid})
    return Outcome(before=described, after=described, values={"vm": described, "migration": migration})


def _create(
    options: Options,
    gateway: GatewayClient,
    vcenter: Vcenter,
    migration: Migration,
    half_made: FoundVm | None,
    *,
    check_mode: bool,
) -> Outcome:
    place = vcenter.place(
        datacenter=options["datacenter"],
        cluster=options["cluster"],
        resource_pool=options["resource_pool"],
        folder=options["folder"],
        datastore=options["datastore"],
        network=options["network"],
    )
    hardware = _plan(options, vcenter, place, migration)
    _require_space(place, migration)
    request = VmRequest(
        migration_id=migration["id"],
        name=options["name"] or vm_name(migration["name"], migration["id"]),
        annotation=f"Cold migration {migration['id']} of {migration['name']} ({migration['organization']})",
        hardware=hardware,
        hardware_version=options["hardware_version"],
        thin=options["thin"],
        nics=_macs(migration) if place.network is not None else (),
        policy_id=policy_id(vcenter, options["storage_policy"], place) if options["storage_policy"] else None,
    )
    outcome = Outcome(changed=True, after=_predicted(request), notes=list(hardware.notes))
    chosen = {"controller": hardware.choices[0].as_result(), "nic": hardware.choices[1].as_result()}
    outcome.values = {"vm": outcome.after, "migration": migration, "chosen": chosen}
    if half_made is not None:
        outcome.before = vcenter.describe_leftover(half_made)
    if check_mode:
        return outcome

    def repeated(text: str) -> None:
        outcome.notes.append(text)
        note_repetition(gateway, migration["id"], AT_VCENTER)

    gateway.begin_import(migration["id"], run_label())
    if half_made is not None:
        vcenter.remove_vm(half_made, timeout=options["wait_timeout"])
    try:
        made = import_vm(
            vcenter,
            place,
            request,
            lambda index: staged_image(options, migration["id"], migration["disks"][index]["index"]),
            parallel=options["parallel_disks"],
            timeout=options["wait_timeout"],
            network_name=options["network"] or "",
            attempts=options["import_attempts"],
            note=repeated,
        )
    except HttpError as error:
        give_up_if_lost(gateway, migration["id"], error)
        raise
    outcome.values["migration"] = gateway.note_refs(migration["id"], {"vcenter_vm": made.moid})
    outcome.after = outcome.values["vm"] = vcenter.describe_vm(made)
    return outcome


def _plan(options: Options, vcenter: Vcenter, place: Placement, migration: Migration) -> Hardware:
    host = Host(
        offered=tuple(vcenter.offered_guests(place.compute, options["hardware_version"])),
        api_version=vcenter.api_version(),
        hardware_version=options["hardware_version"],
    )
    return plan_for(migration, host, options)


def _require_space(place: Placement, migration: Migration) -> None:
    """Thin or not, what holds data needs room; running out of it in the middle costs the whole upload."""
    needed = sum((disk["data_chunks"] or 0) * CHUNK for disk in migration["disks"])
    free = place.datastore_free_bytes
    if free is not None and needed > free:
        raise VcenterError(
            f"datastore: {place.datastore_name!r} has {free} bytes free, the data of the disks needs {needed}"
        )


def _macs(migration: Migration) -> tuple[str | None, ...]:
    """For each NIC of the source the MAC to keep, or None."""
    networks = migration["destination"]["networks"]
    return tuple(
        mac_of(nic) if index < len(networks) and networks[index]["keep_mac"] else None
        for index, nic in enumerate(migration["machine"]["nics"])
    )


def vm_name(name: str, migration_id: str) -> str:
    """A name that is unique in the folder and needs no escaping; Cloud Director gives the VM its own name later."""
    suffix = f"-{migration_id[:8]}"
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "vm"
    return plain[: LONGEST_NAME - len(suffix)] + suffix


def _predicted(request: VmRequest) -> dict[str, t.Any]:
    """What describe_vm will say, as far as it is known before."""
    hardware = request.hardware
    return {
        "name": request.name,
        "guest_id": hardware.guest_id,
        "firmware": hardware.firmware,
        "secure_boot": hardware.secure_boot,
        "num_cpus": hardware.num_cpus,
        "cores_per_socket": hardware.cores_per_socket,
        "memory_mb": hardware.memory_mb,
        "controller": hardware.controller,
        "disks": [
            {
                "index": disk.index,
                "controller": hardware.controller,
                "capacity_bytes": disk.capacity_kb * 1024,
                "bus": disk.bus,
                "unit": disk.unit,
            }
            for disk in hardware.disks
        ],
        "nics": [{"type": hardware.nic, "mac": mac} for mac in request.nics],
    }
