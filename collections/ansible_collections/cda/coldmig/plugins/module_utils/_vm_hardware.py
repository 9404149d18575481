# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Virtual hardware of a migration's VM: what was found, what the template asks for, what a module's options say."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping

from ansible_collections.cda.coldmig.plugins.module_utils._destination import require_at_least_one
from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError
from ansible_collections.cda.coldmig.plugins.module_utils._guest_hardware import (
    Hardware,
    HardwareError,
    Host,
    plan_hardware,
    wish_of,
)
from ansible_collections.cda.coldmig.plugins.module_utils._migration import guest_of

#: option of a module -> what it stands for in a Wish; the fragment ``cda.coldmig.vm_hardware`` documents the options
_WISHES = {
    "guest_id": "guest_id",
    "firmware": "firmware",
    "secure_boot": "secure_boot",
    "controller": "controller",
    "nic_type": "nic",
    "num_cpus": "cpus",
    "cores_per_socket": "cores_per_socket",
    "memory_mb": "memory_mb",
}
_SIZES = ("num_cpus", "cores_per_socket", "memory_mb")


class HardwareChoiceError(ColdmigError):
    """No VM can hold this machine."""


def check_sizes(options: Mapping[str, t.Any]) -> None:
    """Raises InputError for the first size that is less than 1."""
    require_at_least_one(options, *(name for name in _SIZES if options[name] is not None))


def plan_for(migration: Mapping[str, t.Any], host: Host, options: Mapping[str, t.Any]) -> Hardware:
    """The hardware that the VM gets; options that are absent or None leave the choice. Raises HardwareChoiceError."""
    wishes = {wish: options.get(option) for option, wish in _WISHES.items()}
    try:
        return plan_hardware(
            migration["machine"],
            [disk["size_bytes"] for disk in migration["disks"]],
            guest=guest_of(migration),
            host=host,
            wish=wish_of(migration.get("hardware"), **wishes),
        )
    except HardwareError as error:
        raise HardwareChoiceError(str(error)) from error
