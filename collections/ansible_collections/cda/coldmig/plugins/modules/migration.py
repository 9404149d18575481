#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: migration
short_description: Confirm, cancel, change or remove a cold migration
version_added: 0.1.0
description:
  - A migration comes into being when a machine boots from the ISO of a template, so this module does not create any.
  - It confirms one that waits, cancels one, changes where it arrives, or removes one that has ended.
author:
  - CDA cold migration maintainers (@cda)
extends_documentation_fragment:
  - cda.coldmig.gateway
  - cda.coldmig.gateway.destination
  - cda.coldmig.gateway.hardware
  - cda.coldmig.attributes
  - cda.coldmig.attributes.actiongroup_gateway
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  migration:
    description:
      - Id of the migration, or its name if no other one has it.
      - Every boot of a source is a migration of its own, so several may have one name.
    type: str
    required: true
  state:
    description:
      - V(present) only changes settings.
      - V(confirmed) changes settings if there are any and then confirms a migration that waits. One that was
        confirmed before stays as it is. One that warnings hold back is refused, see O(accept_warnings).
      - V(canceled) ends a migration that is under way.
      - V(absent) removes a migration that has ended, with all that is still staged of it. One that does not exist is
        absent.
    type: str
    choices:
      - present
      - confirmed
      - canceled
      - absent
    default: present
  reason:
    description: Why it is canceled. It is shown at the source and kept with the migration.
    type: str
    default: canceled by its owner
  name:
    description: New name of the VM.
    type: str
  power_on:
    description: Whether the VM is powered on at the end.
    type: bool
  destination:
    description:
      - Where in VMware Cloud Director the VM arrives, instead of what the template says.
      - It is replaced as a whole.
    type: dict
  system:
    description:
      - Which of the machine's systems is meant, instead of what the template says. The VM's hardware is chosen for it.
      - The key of one of them (C(guests[].key) in M(cda.coldmig.migration_info)), or a pattern that fits one.
    type: str
  accept_warnings:
    description:
      - Codes of warnings that shall not hold the migration back, beside those that were accepted before.
      - With O(state=confirmed) a migration is refused while it has warnings of severity C(block) that are not accepted.
    type: list
    elements: str
  hardware:
    description:
      - Virtual hardware to use instead of what is chosen by what the system can boot from.
      - It is replaced as a whole.
    type: dict
  accept_unreadable:
    description:
      - Whether the migration is imported although sectors of the source's disks could not be read. Zeros stand for
        them in the VM.
      - It is for what has been reported by then. When more turns out to be unreadable it has to be set again.
    type: bool
notes:
  - Settings can be changed until the import begins.
seealso:
  - module: cda.coldmig.migration_info
  - module: cda.coldmig.template
"""

EXAMPLES = r"""
- name: Confirm a migration that waits
  cda.coldmig.migration:
    gateway_url: https://gateway.example.com:8443
    gateway_token: "{{ lookup('ansible.builtin.env', 'COLDMIG_GATEWAY_TOKEN') }}"
    gateway_ca_path: /etc/coldmig/ca.pem
    migration: erp-db-01
    state: confirmed

- name: Confirm it under another name, to be powered on at the end
  cda.coldmig.migration:
    migration: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
    name: erp-db
    power_on: true
    state: confirmed

- name: Confirm it although its keys in the TPM stay behind, for its second system
  cda.coldmig.migration:
    migration: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
    system: disk1/1
    accept_warnings:
      - tpm-sealed
    state: confirmed

- name: Import it although sectors of its disk could not be read
  cda.coldmig.migration:
    migration: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
    accept_unreadable: true

- name: Cancel it
  cda.coldmig.migration:
    migration: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
    state: canceled
    reason: the maintenance window is over

- name: Remove it with what is staged of it
  cda.coldmig.migration:
    migration: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
    state: absent
"""

RETURN = r"""
migration:
  description:
    - The migration as it is now, in check mode as it would be. V(null) if it is absent.
    - M(cda.coldmig.migration_info) describes all its fields.
  returned: success
  type: dict
  sample:
    id: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
    name: erp-db-01
    organization: acme
    state: confirmed
    power_on: true
blocked:
  description: Codes of the warnings that hold the migration back.
  returned: failure, when warnings hold it back
  type: list
  elements: str
  sample:
    - tpm-sealed
held_back_by:
  description: These warnings.
  returned: failure, when warnings hold it back
  type: list
  elements: dict
  contains:
    code:
      description: Name of the warning, for O(accept_warnings).
      type: str
      sample: tpm-sealed
    message:
      description: What it is.
      type: str
      sample: The key of disk 0, partition 3 is sealed in the TPM of this machine.
    action:
      description: What to do about it.
      type: str
      sample: Add a recovery key before the migration.
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cda.coldmig.plugins.module_utils._argspec import (
    destination_options,
    gateway_options,
    hardware_options,
    reporting_errors,
)
from ansible_collections.cda.coldmig.plugins.module_utils._diff import Differences
from ansible_collections.cda.coldmig.plugins.module_utils._errors import InputError
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient
from ansible_collections.cda.coldmig.plugins.module_utils._migration import (
    check_options,
    needs_cancellation,
    needs_confirmation,
    predicted,
    require_ended,
    require_free,
    wanted_changes,
)


def run(gateway: GatewayClient, options: dict[str, t.Any], *, check_mode: bool) -> dict[str, t.Any]:
    """Get the migration where it is wanted: everything is decided before anything is done."""
    current = gateway.find_migration(options["migration"])
    state = options["state"]
    if current is None:
        if state == "absent":
            return {"changed": False, "migration": None, "diff": {"before": {}, "after": {}}}
        raise InputError("migration", options["migration"], "the id or name of a migration that this token may see")

    if state == "absent":
        require_ended(current)
        if not check_mode:
            gateway.delete_migration(current["id"])
        before = {name: current.get(name) for name in ("id", "name", "state")}
        return {"changed": True, "migration": None, "diff": {"before": before, "after": {}}}

    differences = Differences()
    changes: dict[str, t.Any] = {}
    if state != "canceled":
        differences = wanted_changes(current, options)
        changes = dict(differences.after)
    if state == "confirmed" and needs_confirmation(current):
        require_free(predicted(current, changes))
        differences.add("state", current["state"], "confirmed")
    if state == "canceled" and needs_cancellation(current):
        differences.add("state", current["state"], "canceled")

    result: t.Any = current
    if check_mode:
        result = predicted(current, differences.after)
    else:
        if changes:
            result = gateway.change_migration(current["id"], changes)
        if differences.after.get("state") == "confirmed":
            result = gateway.confirm(current["id"])
        elif differences.after.get("state") == "canceled":
            result = gateway.cancel(current["id"], options["reason"])
    return {"changed": bool(differences), "migration": result, "diff": differences.as_diff()}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **gateway_options(),
            "migration": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "choices": ["present", "confirmed", "canceled", "absent"],
                "default": "present",
            },
            "reason": {"type": "str", "default": "canceled by its owner"},
            "accept_unreadable": {"type": "bool"},
            "name": {"type": "str"},
            "power_on": {"type": "bool"},
            "destination": {"type": "dict", "options": destination_options()},
            "system": {"type": "str"},
            "accept_warnings": {"type": "list", "elements": "str"},
            "hardware": {"type": "dict", "options": hardware_options()},
        },
        supports_check_mode=True,
    )
    with reporting_errors(module):
        check_options(module.params)
        with GatewayClient.from_options(module.params) as gateway:
            result = run(gateway, module.params, check_mode=module.check_mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
