#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vcenter_vm
short_description: Make the VM of a cold migration in vCenter, with its disks
version_added: 0.1.0
description:
  - Makes a VM in vCenter that a migrated machine can boot on, and fills its disks from the gateway's staging through an
    import lease (NFC). The disks are streamed, nothing is stored in between.
  - Guest type, firmware, disk controller and network card are chosen by what the agent found in the source, within what
    the hosts offer, because the copied disks are not modified. A controller that the system cannot drive is never taken
    while there is another one.
  - What the template's C(hardware) says comes before that choice, and the options of this module before both.
  - The VM carries the id of its migration and is found by it again. One that was left half-made by a run that was
    killed is replaced.
  - If anything fails, nothing of the VM is left, and the migration can be imported again.
author:
  - CDA cold migration maintainers (@cda)
extends_documentation_fragment:
  - cda.coldmig.gateway
  - cda.coldmig.vcenter
  - cda.coldmig.vm_hardware
  - cda.coldmig.attributes
  - cda.coldmig.attributes.actiongroup_vcenter
attributes:
  check_mode:
    support: full
    details:
      - All names are looked up and the hardware is chosen, so that what is wrong with them shows.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  migration:
    description: Id of the migration. It must be copied; one whose import was interrupted is imported again.
    type: str
    required: true
  state:
    description:
      - V(present) makes the VM unless it is there.
      - V(absent) removes the VM with its disks. One that Cloud Director has taken over is refused; use
        M(cda.coldmig.vcd_vm).
    type: str
    choices:
      - present
      - absent
    default: present
  datacenter:
    description: Name of the datacenter. Required with O(state=present).
    type: str
  cluster:
    description: Name of the cluster, whose own resource pool is used unless O(resource_pool) names another.
    type: str
  resource_pool:
    description:
      - Name of the resource pool.
      - Choose one that backs no VDC of Cloud Director. It would find the VM there and adopt it before it is complete.
    type: str
  folder:
    description: Path of the VM folder below the datacenter, such as V(migration/incoming). Default is the top one.
    type: str
  datastore:
    description:
      - Name of the datastore. Required with O(state=present).
      - If it belongs to the storage profile that the VM gets in Cloud Director, nothing is copied again there.
    type: str
  network:
    description:
      - Name of a network for the NICs, which are not connected, not even when the VM is powered on.
      - Without it the VM gets no NICs; M(cda.coldmig.vcd_vm) adds them.
    type: str
  name:
    description: Name of the VM. Default is the name of the migration with the beginning of its id.
    type: str
  hardware_version:
    description: Virtual hardware version, such as V(vmx-19). Default is vCenter's. The VDC must support it.
    type: str
  thin:
    description: Whether the disks are thin-provisioned.
    type: bool
    default: true
  storage_policy:
    description:
      - Name of the storage policy of the VM and its disks. O(datastore) must fit it.
      - Where Cloud Director's storage profile has the same policy, the VM stays where it is when it is imported there.
    type: str
  parallel_disks:
    description: How many disks are sent at the same time.
    type: int
    default: 3
  import_attempts:
    description:
      - How often the import is tried before a failure that may pass, such as a lost lease, is one. What is left of a
        lost one is removed, and the disks are sent again from the gateway's staging.
      - Calls that failed for a moment are repeated in any case.
    type: int
    default: 3
  wait_timeout:
    description:
      - Seconds to wait for each thing that vCenter does. The disks may take as long as they move.
      - A VM that a killed run left behind is locked for about five minutes, so less than V(360) may be too little.
    type: int
    default: 600
  claim_seconds:
    description:
      - How long this run keeps others from the migration after it has ended without letting go, because it was killed
        or has lost its connection. While it works it renews its claim.
      - A migration that another run works on is refused, with who it is and since when.
    type: int
    default: 60
notes:
  - The gateway, vCenter and the hosts of the cluster (port 443) must be reachable from where the module runs.
seealso:
  - module: cda.coldmig.vcd_vm
  - module: cda.coldmig.migration_info
"""

EXAMPLES = r"""
- name: Make the VM of a migration
  cda.coldmig.vcenter_vm:
    gateway_url: https://gateway.example.com:8443
    gateway_token: "{{ lookup('ansible.builtin.env', 'COLDMIG_GATEWAY_TOKEN') }}"
    gateway_ca_path: /etc/coldmig/ca.pem
    hostname: vcenter.example.com
    username: coldmig@vsphere.local
    password: "{{ lookup('ansible.builtin.env', 'VMWARE_PASSWORD') }}"
    migration: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
    datacenter: dc-north
    cluster: cluster-1
    resource_pool: coldmig-staging
    folder: coldmig-staging
    datastore: datastore-1
  register: made

- name: Give up on it
  cda.coldmig.vcenter_vm:
    migration: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
    state: absent
"""

RETURN = r"""
vm:
  description: The VM as vCenter has it; in check mode as it would be made.
  returned: with O(state=present)
  type: dict
  contains:
    moid:
      description: Managed object id. Not in check mode if the VM is not there.
      type: str
      returned: unless it would be made
      sample: vm-42
    name:
      description: Name in vCenter.
      type: str
      returned: always
      sample: erp-db-01-8a9df7ab
    uuid:
      description: BIOS UUID.
      type: str
      returned: unless it would be made
    instance_uuid:
      description: vCenter's UUID of the VM.
      type: str
      returned: unless it would be made
    guest_id:
      description: Guest type.
      type: str
      returned: always
      sample: debian12_64Guest
    firmware:
      description: C(bios) or C(efi).
      type: str
      returned: always
      sample: efi
    secure_boot:
      description: Whether Secure Boot is on.
      type: bool
      returned: always
    num_cpus:
      description: Number of virtual CPUs.
      type: int
      returned: always
    cores_per_socket:
      description: Cores per socket.
      type: int
      returned: always
    memory_mb:
      description: Memory in MB.
      type: int
      returned: always
    hardware_version:
      description: Virtual hardware version.
      type: str
      returned: unless it would be made
      sample: vmx-19
    controller:
      description: Kind of the disk controller, as in O(controller).
      type: str
      returned: always
      sample: pvscsi
    disks:
      description: The disks in the order of the source, with bus and unit at their controller.
      type: list
      elements: dict
      returned: always
      sample:
        - index: 0
          key: 2000
          controller: pvscsi
          capacity_bytes: 10737418240
          file: "[datastore-1] erp-db-01-8a9df7ab/erp-db-01-8a9df7ab.vmdk"
          bus: 0
          unit: 0
    nics:
      description: The NICs.
      type: list
      elements: dict
      returned: always
chosen:
  description: Why disk controller and network card were chosen, as far as the agent's findings go.
  returned: when the VM is made, in check mode too
  type: dict
  contains:
    controller:
      description:
        - C(name), C(verdict) (C(ready), C(likely), C(unknown) or C(no)) and C(evidence), what was seen in the system.
      type: dict
      returned: always
      sample:
        name: pvscsi
        verdict: ready
        evidence:
          - vmw_pvscsi is in /boot/initrd.img-6.1.0-28-amd64
    nic:
      description: The same for the network card.
      type: dict
      returned: always
vcenter:
  description: The vCenter; O(cda.coldmig.vcd_vm#module:vcenter) takes its C(instance_uuid).
  returned: success
  type: dict
  sample:
    instance_uuid: 5c1b4a5e-7f35-4c55-9a05-a3b9a2f6c0d1
    version: 8.0.2
    hostname: vcenter.example.com
migration:
  description: The migration as the gateway has it now, described at M(cda.coldmig.migration_info).
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cda.coldmig.plugins.module_utils._argspec import (
    gateway_options,
    reporting_errors,
    vm_hardware_options,
)
from ansible_collections.cda.coldmig.plugins.module_utils._destination import report, vcenter_options
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_vm import ensure_absent, ensure_present


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **gateway_options(),
            **vcenter_options(),
            **vm_hardware_options(),
            "migration": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "datacenter": {"type": "str"},
            "cluster": {"type": "str"},
            "resource_pool": {"type": "str"},
            "folder": {"type": "str"},
            "datastore": {"type": "str"},
            "network": {"type": "str"},
            "name": {"type": "str"},
            "hardware_version": {"type": "str"},
            "thin": {"type": "bool", "default": True},
            "storage_policy": {"type": "str"},
            "parallel_disks": {"type": "int", "default": 3},
            "import_attempts": {"type": "int", "default": 3},
            "wait_timeout": {"type": "int", "default": 600},
            "claim_seconds": {"type": "int", "default": 60},
        },
        required_if=[
            ("state", "present", ("datacenter", "datastore")),
            ("state", "present", ("cluster", "resource_pool"), True),
        ],
        supports_check_mode=True,
    )
    ensure = ensure_present if module.params["state"] == "present" else ensure_absent
    with reporting_errors(module):
        report(module, ensure(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
