# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""What the modules that make the VM at the destination share: connection options, and their way with the gateway."""

from __future__ import annotations

import contextlib
import os
import platform
import typing as t
from dataclasses import dataclass, field

from ansible.module_utils.basic import AnsibleModule, env_fallback
from ansible_collections.cda.coldmig.plugins.module_utils._errors import HttpError, InputError, StateError
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import UUID, GatewayClient, Image, Migration

ENDED_BADLY = frozenset({"failed", "canceled"})
STAGED = frozenset({"copied", "importing", "finished"})
LONGEST_DETAIL = 2000


def vcenter_options() -> dict[str, t.Any]:
    """Connection to vCenter; documented by the fragment ``cda.coldmig.vcenter``."""
    return {
        "hostname": {"type": "str", "required": True, "fallback": (env_fallback, ["VMWARE_HOST"])},
        "username": {"type": "str", "required": True, "fallback": (env_fallback, ["VMWARE_USER"])},
        "password": {"type": "str", "required": True, "no_log": True, "fallback": (env_fallback, ["VMWARE_PASSWORD"])},
        "port": {"type": "int", "default": 443, "fallback": (env_fallback, ["VMWARE_PORT"])},
        "validate_certs": {"type": "bool", "default": True, "fallback": (env_fallback, ["VMWARE_VALIDATE_CERTS"])},
        "ca_path": {"type": "path", "fallback": (env_fallback, ["VMWARE_CA_PATH"])},
        "vcenter_timeout": {"type": "int", "default": 60},
    }


def vcd_options() -> dict[str, t.Any]:
    """Connection to Cloud Director; documented by the fragment ``cda.coldmig.vcd``."""
    return {
        "vcd_url": {"type": "str", "required": True, "fallback": (env_fallback, ["VCD_URL"])},
        "vcd_org": {"type": "str", "default": "System", "fallback": (env_fallback, ["VCD_ORG"])},
        "vcd_user": {"type": "str", "fallback": (env_fallback, ["VCD_USER"])},
        "vcd_password": {"type": "str", "no_log": True, "fallback": (env_fallback, ["VCD_PASSWORD"])},
        "vcd_api_token": {"type": "str", "no_log": True, "fallback": (env_fallback, ["VCD_API_TOKEN"])},
        "vcd_service_account_path": {"type": "path", "fallback": (env_fallback, ["VCD_SERVICE_ACCOUNT_PATH"])},
        "vcd_validate_certs": {"type": "bool", "default": True, "fallback": (env_fallback, ["VCD_VALIDATE_CERTS"])},
        "vcd_ca_path": {"type": "path", "fallback": (env_fallback, ["VCD_CA_PATH"])},
        "vcd_timeout": {"type": "int", "default": 60},
    }


@dataclass
class Outcome:
    """What a module did or, in check mode, would do."""

    changed: bool = False
    before: dict[str, t.Any] = field(default_factory=dict)
    after: dict[str, t.Any] = field(default_factory=dict)
    values: dict[str, t.Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_result(self) -> dict[str, t.Any]:
        """Arguments of ``exit_json``."""
        return {"changed": self.changed, "diff": {"before": self.before, "after": self.after}, **self.values}


def report(module: AnsibleModule, outcome: Outcome) -> None:
    """End the module with what was done and what a person should know of it."""
    for note in outcome.notes:
        module.warn(note)
    module.exit_json(**outcome.as_result())


def require_id(migration_id: str) -> str:
    """Raises InputError unless it is an id: a name may stand for several migrations, and VMs are found by the id."""
    if not UUID.fullmatch(migration_id):
        raise InputError("migration", migration_id, "the id of a migration, as the module migration_info gives it")
    return migration_id


@contextlib.contextmanager
def staged_image(options: t.Mapping[str, t.Any], migration_id: str, disk: int) -> t.Iterator[Image]:
    """The image of a staged disk, over a connection of its own: one that began with the API cannot carry it."""
    with GatewayClient.from_options(options) as gateway, gateway.image(migration_id, disk) as image:
        yield image


def get_migration(gateway: GatewayClient, migration_id: str) -> Migration:
    """Raises StateError when the gateway knows none."""
    migration = gateway.migration(migration_id)
    if migration is None:
        raise StateError(f"the gateway has no migration {migration_id}")
    return migration


def require_at_least_one(options: t.Mapping[str, t.Any], *names: str) -> None:
    """Raises InputError for the first of these whole numbers that is less than 1."""
    for name in names:
        if options[name] < 1:
            raise InputError(name, options[name], "a whole number from 1")


def require_staged(migration: Migration) -> None:
    """Raises StateError unless all disks of the migration lie verified at the site."""
    state = migration["state"]
    if state not in STAGED:
        why = f" ({migration['reason']}: {migration['detail']})" if state in ENDED_BADLY else ""
        raise StateError(
            f"migration {migration['name']} ({migration['id']}) is '{state}'{why}; "
            "a VM is made from one that is 'copied'"
        )


def run_label() -> str:
    """Who imports, for the audit trail: the CI job where there is one."""
    job = os.environ.get("CI_JOB_URL") or os.environ.get("BUILD_URL") or os.environ.get("GITHUB_RUN_ID")
    return f"{platform.node() or 'unknown host'} {job or f'pid {os.getpid()}'}"[:200]


def give_up_if_lost(gateway: GatewayClient, migration_id: str, error: HttpError) -> None:
    """Fail the migration when its disks are not staged any more: no later run can mend that, the source has to."""
    if error.url.endswith("/image.vmdk") and error.status in (404, 410):
        gateway.fail(migration_id, "staging-lost", f"The copied disks are gone from the site: {error}"[:LONGEST_DETAIL])
