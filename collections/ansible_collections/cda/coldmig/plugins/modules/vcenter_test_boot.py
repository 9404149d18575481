#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vcenter_test_boot
short_description: Boot the imported VM of a cold migration once, to see whether it starts
version_added: 0.1.0
description:
  - Powers on the VM that M(cda.coldmig.vcenter_vm) made, with its NICs disconnected, waits for a sign of life and
    powers it off again.
  - A sign of life is the heartbeat of VMware Tools. Where no VMware Tools run, it is that the VM does not power itself
    off for a while; a picture of its console is kept to look at.
  - The VM runs on a snapshot that is dropped afterwards. Its disks stay as they were copied.
  - The result is kept in the VM, and given again by later runs without another boot. The migration has it as well.
author:
  - CDA cold migration maintainers (@cda)
extends_documentation_fragment:
  - cda.coldmig.gateway
  - cda.coldmig.vcenter
  - cda.coldmig.attributes
  - cda.coldmig.attributes.actiongroup_vcenter
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  migration:
    description: Id of the migration. Its VM must be in vCenter, and not be in Cloud Director yet.
    type: str
    required: true
  timeout:
    description: Seconds after power-on within which the heartbeat of VMware Tools has to come.
    type: int
    default: 300
  without_tools:
    description:
      - Seconds that a VM has to run without powering itself off, where no VMware Tools run.
      - They may start later than the system, so a short time finds fewer of them.
    type: int
    default: 90
  screenshot:
    description: Path of the file that the picture of the console is written to, as PNG, if vCenter gives one.
    type: path
  required:
    description: Whether the module fails when there is no sign of life.
    type: bool
    default: true
  again:
    description: Whether to boot the VM although the result of a test boot is known.
    type: bool
    default: false
  claim_seconds:
    description:
      - How long this run keeps others from the migration after it has ended without letting go, because it was killed
        or has lost its connection. While it works it renews its claim.
      - A migration that another run works on is refused, with who it is and since when.
    type: int
    default: 60
  wait_timeout:
    description: Seconds to wait for each thing that vCenter does.
    type: int
    default: 600
notes:
  - The account needs the rights to power the VM on and off, to make, revert to and remove snapshots, and to see the
    console (C(VirtualMachine.Interact.ConsoleInteract)) for the picture.
seealso:
  - module: cda.coldmig.vcenter_vm
  - module: cda.coldmig.vcd_vm
"""

EXAMPLES = r"""
- name: See whether the copied system starts
  cda.coldmig.vcenter_test_boot:
    migration: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
    screenshot: "/var/tmp/8a9df7ab.png"
  register: tested
"""

RETURN = r"""
test_boot:
  description: What became of the boot. In check mode that of an earlier one, if there was one.
  returned: when the VM was booted, now or before
  type: dict
  contains:
    passed:
      description: Whether there was a sign of life.
      type: bool
      returned: always
    sign:
      description: V(heartbeat) of VMware Tools, V(running) for a VM that did not power itself off, or V(none).
      type: str
      returned: always
      sample: heartbeat
    detail:
      description: The same in words.
      type: str
      returned: always
      sample: VMware Tools answered after 41 seconds
    seconds:
      description: Seconds from power-on to the sign, or to giving up.
      type: int
      returned: always
    at:
      description: When the VM was powered on, in UTC.
      type: str
      returned: always
      sample: "2026-05-04T10:11:12Z"
screenshot:
  description: Path of the picture.
  returned: when a picture was written
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cda.coldmig.plugins.module_utils._argspec import gateway_options, reporting_errors
from ansible_collections.cda.coldmig.plugins.module_utils._destination import vcenter_options
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_vm import ensure_booted


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **gateway_options(),
            **vcenter_options(),
            "migration": {"type": "str", "required": True},
            "timeout": {"type": "int", "default": 300},
            "without_tools": {"type": "int", "default": 90},
            "screenshot": {"type": "path"},
            "required": {"type": "bool", "default": True},
            "again": {"type": "bool", "default": False},
            "claim_seconds": {"type": "int", "default": 60},
            "wait_timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    with reporting_errors(module):
        outcome = ensure_booted(module.params, check_mode=module.check_mode)
        tested = outcome.values.get("test_boot")
        if tested and not tested["passed"] and module.params["required"]:
            module.fail_json(
                msg=f"the test boot showed no sign of life: {tested['detail']}",
                changed=outcome.changed,
                **outcome.values,
            )
        module.exit_json(changed=outcome.changed, **outcome.values)


if __name__ == "__main__":
    main()
