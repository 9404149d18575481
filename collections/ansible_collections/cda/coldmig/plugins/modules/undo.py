#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: undo
short_description: Remove what a cold migration made at the destination
version_added: 0.1.0
description:
  - Removes the VM of a migration with its disks from VMware Cloud Director and from vCenter, whatever became of the
    migration, and also what a run that was killed has left half-made.
  - It does so only as long as the VM was never powered on, because from then on it may hold what is nowhere else. A
    test boot (M(cda.coldmig.vcenter_test_boot)) does not count; what it changed was dropped.
  - The source is not touched, and the copy that is staged at the site stays as long as the site keeps it.
author:
  - CDA cold migration maintainers (@cda)
extends_documentation_fragment:
  - cda.coldmig.gateway
  - cda.coldmig.vcenter
  - cda.coldmig.vcd
  - cda.coldmig.attributes
  - cda.coldmig.attributes.actiongroup_destination
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  migration:
    description: Id of the migration.
    type: str
    required: true
  to:
    description:
      - What the migration is afterwards. A run of the playbook C(cda.coldmig.finish) makes the VM of one that
        is V(copied) again; that is possible as long as its copy is staged.
      - One that failed or was canceled stays what it is.
    type: str
    choices:
      - canceled
      - copied
    default: canceled
  force:
    description: Whether a VM that is off now is removed although it was powered on.
    type: bool
    default: false
  wait_timeout:
    description: Seconds to wait for each thing that vCenter or Cloud Director does.
    type: int
    default: 600
  claim_seconds:
    description: How long this run keeps others from the migration after it has ended without letting go.
    type: int
    default: 60
notes:
  - Power-ons are known from vCenter's events, which it keeps for a month unless it was set otherwise.
  - A VM that runs, or is suspended, is never removed.
seealso:
  - module: cda.coldmig.vcenter_vm
  - module: cda.coldmig.vcd_vm
"""

EXAMPLES = r"""
- name: Remove what was made, and make it again with the next run of finish
  cda.coldmig.undo:
    migration: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
    to: copied
"""

RETURN = r"""
removed:
  description: Names of the vApp in Cloud Director and of the VM in vCenter that were removed, or would be.
  returned: success
  type: list
  elements: str
  sample:
    - erp-db-01
    - erp-db-01-8a9df7ab
migration:
  description: The migration as the gateway has it now, described at M(cda.coldmig.migration_info).
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cda.coldmig.plugins.module_utils._argspec import gateway_options, reporting_errors
from ansible_collections.cda.coldmig.plugins.module_utils._destination import report, vcd_options, vcenter_options
from ansible_collections.cda.coldmig.plugins.module_utils._undo import undo


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **gateway_options(),
            **vcenter_options(),
            **vcd_options(),
            "migration": {"type": "str", "required": True},
            "to": {"type": "str", "choices": ["canceled", "copied"], "default": "canceled"},
            "force": {"type": "bool", "default": False},
            "wait_timeout": {"type": "int", "default": 600},
            "claim_seconds": {"type": "int", "default": 60},
        },
        required_one_of=[("vcd_password", "vcd_api_token", "vcd_service_account_path")],
        required_together=[("vcd_user", "vcd_password")],
        supports_check_mode=True,
    )
    with reporting_errors(module):
        report(module, undo(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
