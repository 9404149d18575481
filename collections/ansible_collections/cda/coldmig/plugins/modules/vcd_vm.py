#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vcd_vm
short_description: Bring the VM of a cold migration into Cloud Director and finish the migration
version_added: 0.1.0
description:
  - Makes VMware Cloud Director take over the VM that M(cda.coldmig.vcenter_vm) made, by move, into a vApp of its own,
    into one that other VMs use as well, or without one. Then it connects the networks, turns guest customization off,
    sets names, storage profiles, metadata and owner, powers the VM on if the migration asks for it and sees that it
    runs, and tells the gateway that the migration is finished.
  - VDC, storage profiles, networks, vApp, owner and metadata come from the destination of the migration. They are
    looked up before anything is changed.
  - What an earlier run made is found by the migration's id and continued. A failed import leaves no vApp behind.
  - What passes by itself is waited for (entities that are busy, trouble of the server, a session that has ended). An
    import whose answer never came is looked for before it is sent again.
  - Runs side by side on one host change a vApp one after the other.
  - The VM of a finished migration is its owner's; nothing of it is changed any more.
author:
  - CDA cold migration maintainers (@cda)
extends_documentation_fragment:
  - cda.coldmig.gateway
  - cda.coldmig.vcd
  - cda.coldmig.attributes
  - cda.coldmig.attributes.actiongroup_vcd
attributes:
  check_mode:
    support: full
    details:
      - Account, destination and vCenter are looked up, so that mistakes show, also before the VM is there.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  migration:
    description: Id of the migration. Its VM must be in vCenter.
    type: str
    required: true
  state:
    description:
      - V(present) imports and configures the VM and finishes the migration.
      - V(absent) deletes the VM with its disks, running or not, and the vApp if it was made for the VM.
    type: str
    choices:
      - present
      - absent
    default: present
  moid:
    description:
      - Managed object id of the VM in vCenter, such as V(vm-42).
      - Default is what M(cda.coldmig.vcenter_vm) told the gateway.
    type: str
  vcenter:
    description:
      - The vCenter, by its name in Cloud Director, its host name or its instance UUID, as
        RV(cda.coldmig.vcenter_vm#module:vcenter) gives it.
      - Required if Cloud Director manages several.
    type: str
  owner:
    description:
      - Name of the user of the organization who becomes the owner of the vApp, if the destination names none.
      - Without both the owner is C(system), and only administrators of the organization see the vApp.
      - Not used with a vApp that was there before.
    type: str
  disk_keys:
    description:
      - Device keys in vCenter of the VM's disks, in the order of the migration's disks.
      - With them a disk's own storage profile is already part of the import. Without them such disks are found by their
        places on the controllers, and moved after it.
    type: list
    elements: str
    default: []
  wait_timeout:
    description:
      - Seconds to wait for each thing that Cloud Director does. An import that is only slow goes on, and the next run
        continues with it.
    type: int
    default: 1800
  keep_staging_hours:
    description:
      - How long the site keeps the staged copy from the end of the migration on, so that its VM could be made again.
        V(0) removes it with the next round of the site's housekeeping.
      - Default is what the site keeps of all that has ended.
    type: int
  claim_seconds:
    description:
      - How long this run keeps others from the migration after it has ended without letting go, because it was killed
        or has lost its connection. While it works it renews its claim.
      - A migration that another run works on is refused, with who it is and since when.
    type: int
    default: 60
seealso:
  - module: cda.coldmig.vcenter_vm
  - module: cda.coldmig.migration_info
"""

EXAMPLES = r"""
- name: Bring the VM into Cloud Director
  cda.coldmig.vcd_vm:
    gateway_url: https://gateway.example.com:8443
    gateway_token: "{{ lookup('ansible.builtin.env', 'COLDMIG_GATEWAY_TOKEN') }}"
    gateway_ca_path: /etc/coldmig/ca.pem
    vcd_url: https://vcd.example.com
    vcd_api_token: "{{ lookup('ansible.builtin.env', 'VCD_API_TOKEN') }}"
    migration: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
    vcenter: "{{ made.vcenter.instance_uuid }}"
    owner: acme-admin

- name: Look whether the destination exists before the disks are sent
  cda.coldmig.vcd_vm:
    migration: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
  check_mode: true
"""

RETURN = r"""
vm:
  description: The VM in Cloud Director; in check mode, if it is not there yet, as it would be made.
  returned: success
  type: dict
  contains:
    name:
      description: Name.
      type: str
      returned: always
      sample: erp-db-01
    href:
      description: Address in the API.
      type: str
      returned: unless it would be made
      sample: https://vcd.example.com/api/vApp/vm-4a1d7b5e-0f6c-4d59-b1a4-5f3b8c1f2d11
    status:
      description: Status, such as C(powered_off).
      type: str
      returned: unless it would be made
      sample: powered_on
    storage_profile:
      description: Name of the storage profile.
      type: str
      returned: unless it would be made
      sample: gold
    sizing_policy:
      description: Name of the sizing policy, V(null) if Cloud Director names none.
      type: str
      returned: unless it would be made
      sample: System Default
    disks:
      description: The disks in the order of their controllers.
      type: list
      elements: dict
      returned: unless it would be made
      sample:
        - id: "2000"
          own_storage_profile: false
    nics:
      description: The NICs in the order of the source.
      type: list
      elements: dict
      returned: always
      sample:
        - index: 0
          network: acme-web
          connected: true
          ip_mode: DHCP
          ip:
          mac: "00:50:56:01:00:01"
          adapter: VMXNET3
vapp:
  description:
    - The vApp that the VM is in.
    - A VM without a vApp has one that Cloud Director made for itself and does not show; in check mode its name is
      V(null).
  returned: success
  type: dict
  sample:
    name: erp-db-01
    href: https://vcd.example.com/api/vApp/vapp-0a6ed1d6-5a4f-47ba-9f7b-0f0f5d4c7a0e
    status: powered_on
    owner: acme-admin
    runtime_lease: 0
migration:
  description: The migration as the gateway has it now, described at M(cda.coldmig.migration_info).
  returned: success
  type: dict
tenant_msg:
  description:
    - What a tenant may read of the failure. C(msg) is for the provider and may name hosts, datastores and objects of
      vCenter.
  returned: failure, if Cloud Director refused or failed
  type: str
  sample: Not enough room in the storage profile [request coldmig-4f6c-12]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cda.coldmig.plugins.module_utils._argspec import gateway_options, reporting_errors
from ansible_collections.cda.coldmig.plugins.module_utils._destination import report, vcd_options
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_vm import ensure_absent, ensure_present


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **gateway_options(),
            **vcd_options(),
            "migration": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "moid": {"type": "str"},
            "vcenter": {"type": "str"},
            "owner": {"type": "str"},
            "disk_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "wait_timeout": {"type": "int", "default": 1800},
            "keep_staging_hours": {"type": "int"},
            "claim_seconds": {"type": "int", "default": 60},
        },
        required_one_of=[("vcd_password", "vcd_api_token", "vcd_service_account_path")],
        required_together=[("vcd_user", "vcd_password")],
        supports_check_mode=True,
    )
    ensure = ensure_present if module.params["state"] == "present" else ensure_absent
    with reporting_errors(module):
        report(module, ensure(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
