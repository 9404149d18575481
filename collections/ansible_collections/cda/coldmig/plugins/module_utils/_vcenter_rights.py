# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""The privileges that the account at vCenter needs, by their documented ids, and on which objects.

Sources: what the Web Services API names for each method and parameter (pyVmomi carries the same, and the tests compare
it), and for settings of a VM what it names at ``Folder.CreateVM_Task`` and ``VirtualMachine.ReconfigVM_Task``.
``docs/destination.md`` lists them for those who make a role.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

IMPORT: dict[str, tuple[str, ...]] = {
    "resource pool": ("Resource.AssignVMToPool", "VApp.Import"),
    "folder": (
        "VApp.Import",
        "VirtualMachine.Config.AddNewDisk",
        "VirtualMachine.Config.AdvancedConfig",
        "VirtualMachine.Inventory.Create",
        "VirtualMachine.Inventory.Delete",
    ),
    "datastore": ("Datastore.AllocateSpace",),
    "network": ("Network.Assign",),
}
"""What every import needs, by the object on which; those on a VM come from its folder."""

POLICY: dict[str, tuple[str, ...]] = {
    "vCenter": ("StorageProfile.View",),
    "folder": ("VirtualMachine.Config.EditDevice",),
}
"""What a storage policy needs as well."""

TEST_BOOT: dict[str, tuple[str, ...]] = {
    "folder": (
        "VirtualMachine.Interact.PowerOff",
        "VirtualMachine.Interact.PowerOn",
        "VirtualMachine.State.CreateSnapshot",
        "VirtualMachine.State.RemoveSnapshot",
        "VirtualMachine.State.RevertToSnapshot",
    ),
}
"""What a test boot needs as well."""

NICS_OFF: dict[str, tuple[str, ...]] = {
    "folder": ("VirtualMachine.Config.EditDevice", "VirtualMachine.Interact.DeviceConnection")
}
"""What a test boot of a VM with NICs needs as well, to be sure that they stay disconnected."""

PICTURE: dict[str, tuple[str, ...]] = {"folder": ("VirtualMachine.Interact.ConsoleInteract",)}
"""Without it a test boot has no picture of the console, and is none the worse."""


@dataclass(frozen=True)
class Needed:
    """Privileges on one kind of object. *dispensable*: something is missing without them, but nothing fails."""

    kind: str
    rights: tuple[str, ...]
    dispensable: bool = False


def needed(*, network: bool, storage_policy: bool, test_boot: bool) -> Iterator[Needed]:
    """All that is needed for an import with or without these, each privilege once for each kind of object."""
    parts = [IMPORT, *([POLICY] if storage_policy else []), *([TEST_BOOT] if test_boot else [])]
    parts += [NICS_OFF] if test_boot and network else []
    for kind in ("vCenter", *IMPORT):
        rights = sorted({right for part in parts for right in part.get(kind, ())})
        if rights and (network or kind != "network"):
            yield Needed(kind, tuple(rights))
    if test_boot:
        yield from (Needed(kind, rights, dispensable=True) for kind, rights in PICTURE.items())
