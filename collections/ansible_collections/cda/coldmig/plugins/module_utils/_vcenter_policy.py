# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Storage policies of vCenter (its service pbm), which VDCs of Cloud Director offer as storage profiles.

A VM that has the policy of its storage profile, on a datastore that fits the policy, is imported by Cloud Director
without being moved to another datastore.
"""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import (
    NotFoundError,
    Placement,
    Vcenter,
    VcenterError,
    translated,
)

with contextlib.suppress(ImportError):  # Vcenter() reports what is missing
    from pyVmomi import pbm

PBM_VERSION = "pbm.version.version12"
"""That of vSphere 6.7, as for the rest."""


def policy_id(vcenter: Vcenter, name: str, place: Placement) -> str:
    """pbm's id of the storage policy with this name.

    Raises NotFoundError, or VcenterError when the policy does not fit the datastore.
    """
    stub = vcenter.second_stub("/pbm", PBM_VERSION)
    try:
        with translated("asking for the storage policies"):
            content = pbm.ServiceInstance("ServiceInstance", stub).RetrieveContent()
            manager: t.Any = content.profileManager
            ids = manager.QueryProfile(
                resourceType=pbm.profile.ResourceType(resourceType="STORAGE"), profileCategory="REQUIREMENT"
            )
            policies = manager.RetrieveContent(list(ids)) if ids else []
            matching = [policy for policy in policies if policy.name == name]
            if not matching:
                raise NotFoundError(
                    "storage_policy", name, f"vCenter {vcenter.hostname}", (policy.name for policy in policies)
                )
            found = matching[0].profileId
            hub = pbm.placement.PlacementHub(hubType="Datastore", hubId=place.datastore._moId)
            solver: t.Any = content.placementSolver
            results = solver.CheckRequirements(
                hubsToSearch=[hub],
                placementSubjectRequirement=[pbm.placement.CapabilityProfileRequirement(profileId=found)],
            )
    finally:
        stub.DropConnections()
    errors = [error for result in results or () for error in result.error or ()]
    if errors or not results:
        why = "; ".join(error.msg or type(error).__name__.rpartition(".")[2] for error in errors)
        raise VcenterError(
            f"storage_policy: datastore {place.datastore_name!r} does not fit {name!r}{f' ({why})' if why else ''}"
        )
    return str(found.uniqueId)
