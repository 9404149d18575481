# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Argument specifications that several modules share, and the frame in which a module runs."""

from __future__ import annotations

import contextlib
import typing as t

from ansible.module_utils.basic import AnsibleModule, env_fallback, missing_required_lib
from ansible_collections.cda.coldmig.plugins.module_utils._errors import (
    ColdmigError,
    MissingLibraryError,
    fail_arguments,
)


def gateway_options() -> dict[str, t.Any]:
    """Connection to the gateway; documented by the fragment ``cda.coldmig.gateway``."""
    return {
        "gateway_url": {"type": "str", "required": True, "fallback": (env_fallback, ["COLDMIG_GATEWAY_URL"])},
        "gateway_token": {
            "type": "str",
            "required": True,
            "no_log": True,
            "fallback": (env_fallback, ["COLDMIG_GATEWAY_TOKEN"]),
        },
        "gateway_ca_path": {"type": "path", "fallback": (env_fallback, ["COLDMIG_GATEWAY_CA"])},
        "timeout": {"type": "int", "default": 30},
    }


def destination_options() -> dict[str, t.Any]:
    """Sub-options of a destination, as templates and migrations have it."""
    return {
        "vdc": {"type": "str", "required": True},
        "storage_profile": {"type": "str"},
        "import_as": {"type": "str", "choices": ["vapp", "shared", "existing", "standalone"]},
        "vapp": {"type": "str"},
        "description": {"type": "str"},
        "owner": {"type": "str"},
        "metadata": {"type": "dict", "default": {}},
        "disks": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {"storage_profile": {"type": "str"}},
        },
        "networks": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "network": {"type": "str", "required": True},
                "ip_mode": {"type": "str", "choices": ["DHCP", "POOL", "MANUAL", "NONE"], "default": "DHCP"},
                "ip": {"type": "str"},
                "keep_mac": {"type": "bool", "default": False},
                "connected": {"type": "bool", "default": True},
                "adapter": {"type": "str", "choices": ["vmxnet3", "e1000e", "e1000"]},
            },
        },
    }


def hardware_options() -> dict[str, t.Any]:
    """Sub-options of virtual hardware, as templates and migrations have it."""
    return {
        "guest_id": {"type": "str"},
        "firmware": {"type": "str", "choices": ["bios", "efi"]},
        "secure_boot": {"type": "bool"},
        "disk_controller": {
            "type": "str",
            "choices": ["pvscsi", "lsilogic-sas", "ahci", "nvme", "lsilogic", "ide"],
        },
        "nic_type": {"type": "str", "choices": ["vmxnet3", "e1000e", "e1000"]},
        "cpus": {"type": "int"},
        "cores_per_socket": {"type": "int"},
        "memory_mb": {"type": "int"},
    }


def vm_hardware_options() -> dict[str, t.Any]:
    """The same as options of a module that makes a VM; documented by the fragment ``cda.coldmig.vm_hardware``."""
    names = {"disk_controller": "controller", "cpus": "num_cpus"}
    return {names.get(name, name): spec for name, spec in hardware_options().items()}


@contextlib.contextmanager
def reporting_errors(module: AnsibleModule) -> t.Iterator[None]:
    """End the module with ``fail_json`` on an error that we expect; any other is a bug and shows as one."""
    try:
        yield
    except MissingLibraryError as error:
        module.fail_json(msg=missing_required_lib(error.library), exception=error.trace)
    except ColdmigError as error:
        module.fail_json(**fail_arguments(error))
