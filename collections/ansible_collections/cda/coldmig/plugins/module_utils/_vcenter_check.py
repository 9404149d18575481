# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Whether a VM could be made in vCenter: everything that is in its way, not only the first thing.

Asks with the account that will do the work. Changes nothing.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterator, Mapping

from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError
from ansible_collections.cda.coldmig.plugins.module_utils._findings import Finding
from ansible_collections.cda.coldmig.plugins.module_utils._guest_hardware import Host
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import Placement, Vcenter
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_policy import policy_id
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_rights import needed
from ansible_collections.cda.coldmig.plugins.module_utils._vm_hardware import HardwareChoiceError, plan_for

FOR_TENANTS = "The provider's vCenter is not ready for it; the provider knows more"
MIB = 1 << 20


def check(vcenter: Vcenter, wanted: Mapping[str, t.Any], migration: Mapping[str, t.Any] | None) -> list[Finding]:
    """All that is in the way. *wanted* has the places and ``hardware_version``, ``storage_policy`` (or None each).

    Without a migration, as for a template, only what does not depend on a machine.
    """
    findings: list[Finding] = []
    try:
        place, problems = vcenter.survey(
            **{
                name: wanted[name]
                for name in ("datacenter", "cluster", "resource_pool", "folder", "datastore", "network")
            }
        )
    except ColdmigError as error:
        return [_error("vcenter-failed", "vCenter", str(error))]
    findings += [_wrong_name(problem) for problem in problems]
    if place is None:
        return findings
    known = place
    checks: list[Callable[[], Iterator[Finding]]] = [
        lambda: _rights(vcenter, known, wanted),
        lambda: _policy(vcenter, known, wanted["storage_policy"]),
        lambda: _hardware(vcenter, known, wanted, migration),
    ]
    if migration is not None:
        machine = migration
        checks.append(lambda: _space(known, machine))
    for one in checks:
        try:
            findings += one()
        except ColdmigError as error:
            findings.append(_error("vcenter-failed", "vCenter", str(error)))
    return findings


def _error(code: str, subject: str, message: str, expected: str = "", tenant: str = FOR_TENANTS) -> Finding:
    return Finding(code, "error", subject, message, expected, tenant)


def _wrong_name(error: ColdmigError) -> Finding:
    """``datastore: there is no 'x' in …; there are …``."""
    field, _colon, text = str(error).partition(": ")
    wrong, _semicolon, right = text.partition("; ")
    return _error("vcenter-name", field, wrong or str(error), right)


def _rights(vcenter: Vcenter, place: Placement, wanted: Mapping[str, t.Any]) -> Iterator[Finding]:
    objects = {
        "vCenter": (vcenter.root(), vcenter.hostname),
        "resource pool": (place.pool, wanted["resource_pool"] or wanted["cluster"]),
        "folder": (place.folder, wanted["folder"] or "the datacenter's VM folder"),
        "datastore": (place.datastore, place.datastore_name),
        "network": (place.network, wanted["network"]),
    }
    for one in needed(
        network=place.network is not None,
        storage_policy=wanted["storage_policy"] is not None,
        test_boot=bool(wanted.get("test_boot")),
    ):
        entity, name = objects[one.kind]
        missing = vcenter.missing_rights(entity, one.rights)
        if missing:
            yield Finding(
                "vcenter-right",
                "warning" if one.dispensable else "error",
                one.kind,
                f"the account lacks privileges on {one.kind} {name!r}: {', '.join(missing)}"
                f"{' (for a picture of the console)' if one.dispensable else ''}",
                "a role with these privileges there",
                FOR_TENANTS,
            )


def _policy(vcenter: Vcenter, place: Placement, name: str | None) -> Iterator[Finding]:
    if name is not None:
        try:
            policy_id(vcenter, name, place)
        except ColdmigError as error:
            yield _error("storage-policy", "storage_policy", str(error))


def _hardware(
    vcenter: Vcenter, place: Placement, wanted: Mapping[str, t.Any], migration: Mapping[str, t.Any] | None
) -> Iterator[Finding]:
    version = wanted["hardware_version"]
    offered = tuple(vcenter.offered_guests(place.compute, version))
    if not offered and version is not None:
        yield _error(
            "hardware-version",
            "hardware_version",
            f"the hosts do not offer the hardware version {version}",
            "one that all hosts of the cluster offer, or none, for their default",
        )
        return
    asked = (migration or {}).get("hardware") or wanted.get("hardware") or {}
    guest_id = wanted.get("guest_id") or asked.get("guest_id")
    if guest_id and offered and guest_id not in {guest.id for guest in offered}:
        yield _error(
            "guest-id",
            "hardware.guest_id",
            f"the hosts do not offer the guest type {guest_id!r}",
            "one that they offer with this hardware version",
            tenant=f"the guest type {guest_id!r} is not offered at the destination",
        )
        return
    if migration is None:
        return
    host = Host(offered=offered, api_version=vcenter.api_version(), hardware_version=version)
    try:
        plan = plan_for(migration, host, wanted)
    except HardwareChoiceError as error:
        yield _error("hardware", "hardware", str(error), tenant=str(error))
        return
    for note in plan.notes:
        yield Finding("hardware-note", "warning", "hardware", note, "", note)


def _space(place: Placement, migration: Mapping[str, t.Any]) -> Iterator[Finding]:
    """Before the copy it is not known what the disks hold: then what they could hold at most."""
    known = all(disk["data_chunks"] is not None for disk in migration["disks"])
    needed = sum(
        disk["data_chunks"] * MIB if known else disk.get("used_bytes") or disk["size_bytes"]
        for disk in migration["disks"]
    )
    free = place.datastore_free_bytes
    if free is not None and needed > free:
        most = "" if known else " at most"
        yield Finding(
            "datastore-space",
            "error" if known else "warning",
            "datastore",
            f"{place.datastore_name!r} has {free} bytes free, and the disks need {needed}{most}",
            "a datastore with more room",
            FOR_TENANTS,
        )
