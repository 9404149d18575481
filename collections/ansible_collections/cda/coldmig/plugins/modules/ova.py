#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ova
short_description: Write a copied migration as an OVA file
version_added: 0.1.0
description:
  - Writes one file with the machine's disks, its description (OVF 1.1) and a manifest of SHA-256 digests, for a
    destination that M(cda.coldmig.vcenter_vm) cannot reach.
  - The disks are streamed from the gateway's staging, which checks the digest of every chunk on the way. Nothing else
    is stored on the way to the file.
  - Hardware is chosen as by M(cda.coldmig.vcenter_vm), but without a host that says what it offers.
  - The migration keeps its state. Finish or cancel it yourself when the file has arrived where it shall go.
author:
  - CDA cold migration maintainers (@cda)
extends_documentation_fragment:
  - cda.coldmig.gateway
  - cda.coldmig.vm_hardware
  - cda.coldmig.attributes
attributes:
  check_mode:
    support: full
    details:
      - The hardware is chosen and the room for the file is checked.
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - A file that begins with the same description, which names the migration and the Merkle root of every disk, and
        has the right length is left alone. Its disks are not read again.
options:
  migration:
    description: Id of the migration. It must be copied.
    type: str
    required: true
  path:
    description:
      - The file, on the machine where the module runs. It gets its name when it is complete; a file that is there is
        replaced then.
    type: path
    required: true
  name:
    description: Name of the machine in the file. Default is the name of the migration.
    type: str
  hardware_version:
    description: Virtual hardware version. The destination must support it.
    type: str
    default: vmx-14
notes:
  - It needs the provider's token.
  - NICs that the destination of the migration does not connect are left out, because OVF has no NIC without a network.
seealso:
  - module: cda.coldmig.vcenter_vm
  - module: cda.coldmig.migration_info
"""

EXAMPLES = r"""
- name: Write a migrated machine into a file
  cda.coldmig.ova:
    gateway_url: https://gateway.example.com:8443
    gateway_token: "{{ lookup('ansible.builtin.env', 'COLDMIG_GATEWAY_TOKEN') }}"
    gateway_ca_path: /etc/coldmig/ca.pem
    migration: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
    path: /srv/export/erp-db-01.ova
  register: exported

- name: The same for a destination with old hosts
  cda.coldmig.ova:
    migration: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
    path: /srv/export/erp-db-01.ova
    hardware_version: vmx-11
    guest_id: debian10_64Guest
"""

RETURN = r"""
ova:
  description: The file.
  returned: success
  type: dict
  contains:
    path:
      description: Where it is.
      type: str
      returned: always
      sample: /srv/export/erp-db-01.ova
    size_bytes:
      description: Its length.
      type: int
      returned: always
    descriptor:
      description: Name of the description in it.
      type: str
      returned: always
      sample: erp-db-01.ovf
    sha256:
      description: SHA-256 of each file in it, as in its manifest.
      type: dict
      returned: when it was written
      sample:
        erp-db-01.ovf: 0a3666a0710c08aa6d0de92ce72beeb5b93124cce1bf3701c9d6cdeb543cb73e
        erp-db-01-disk0.vmdk: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
migration:
  description: The migration, described at M(cda.coldmig.migration_info).
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cda.coldmig.plugins.module_utils._argspec import (
    gateway_options,
    reporting_errors,
    vm_hardware_options,
)
from ansible_collections.cda.coldmig.plugins.module_utils._destination import report
from ansible_collections.cda.coldmig.plugins.module_utils._ova import ensure_present


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **gateway_options(),
            **vm_hardware_options(),
            "migration": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "name": {"type": "str"},
            "hardware_version": {"type": "str", "default": "vmx-14"},
        },
        supports_check_mode=True,
    )
    with reporting_errors(module):
        report(module, ensure_present(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
