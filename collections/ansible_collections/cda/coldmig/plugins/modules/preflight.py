#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Find out what would be in the way of a cold migration at its destination
version_added: 0.1.0
description:
  - Asks vCenter and VMware Cloud Director, with the accounts that will do the work, for everything that a migration
    needs there, and lists all that is wrong, not only the first thing.
  - In vCenter these are the places (datacenter, cluster, resource pool, folder, datastore, network), the room in the
    datastore, the hardware version and guest type, the storage policy, and the rights of the account.
  - In Cloud Director these are the names of the destination (VDC, storage profiles, networks, vApp, owner), the
    vCenter, quotas and limits, names and addresses that are taken, and the rights of the account.
  - Each side is asked if it is given, by O(hostname) and O(vcd_url).
  - Nothing is changed at the destination. What was found is noted on the migration at the gateway, in words that its
    tenant may read.
author:
  - CDA cold migration maintainers (@cda)
extends_documentation_fragment:
  - cda.coldmig.gateway
  - cda.coldmig.attributes
  - cda.coldmig.attributes.actiongroup_destination
attributes:
  check_mode:
    support: full
    details:
      - The same is found, but not noted on the migration.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  migration:
    description: Id of a migration. This or O(template) is required.
    type: str
  template:
    description: Name or id of a template. What depends on a machine is not looked at then.
    type: str
  organization:
    description: Organization of the template, where several have one of this name.
    type: str
  hostname:
    description: vCenter. When unset, E(VMWARE_HOST). Without it vCenter is left out.
    type: str
  username:
    description: Account at vCenter. When unset, E(VMWARE_USER).
    type: str
  password:
    description: Its password. When unset, E(VMWARE_PASSWORD).
    type: str
  port:
    description: Port of vCenter. When unset, E(VMWARE_PORT).
    type: int
    default: 443
  validate_certs:
    description: Whether vCenter's certificate is verified. When unset, E(VMWARE_VALIDATE_CERTS).
    type: bool
    default: true
  ca_path:
    description: PEM file with vCenter's CA. When unset, E(VMWARE_CA_PATH) or the system's CAs.
    type: path
  vcenter_timeout:
    description: Seconds within which each connection and each answer of vCenter has to come.
    type: int
    default: 60
  datacenter:
    description: Name of the datacenter. Required with O(hostname).
    type: str
  cluster:
    description: Name of the cluster. With O(hostname), this or O(resource_pool) is required.
    type: str
  resource_pool:
    description: Name of the resource pool.
    type: str
  folder:
    description: Path of the VM folder below the datacenter.
    type: str
  datastore:
    description: Name of the datastore. Required with O(hostname).
    type: str
  network:
    description: Name of the network for NICs in vCenter.
    type: str
  hardware_version:
    description: Virtual hardware version, such as V(vmx-19).
    type: str
  guest_id:
    description: Guest type that will be asked for, instead of the one that the template or the migration has.
    type: str
  storage_policy:
    description: Name of the storage policy in vCenter.
    type: str
  test_boot:
    description: Whether the privileges for a test boot (M(cda.coldmig.vcenter_test_boot)) are looked at as well.
    type: bool
    default: false
  vcd_url:
    description: Cloud Director. When unset, E(VCD_URL). Without it Cloud Director is left out.
    type: str
  vcd_org:
    description: Organization of the account. When unset, E(VCD_ORG).
    type: str
    default: System
  vcd_user:
    description: Account at Cloud Director. When unset, E(VCD_USER).
    type: str
  vcd_password:
    description: Its password. When unset, E(VCD_PASSWORD).
    type: str
  vcd_api_token:
    description: API token in place of account and password. When unset, E(VCD_API_TOKEN).
    type: str
  vcd_service_account_path:
    description: File with the API token of a service account. When unset, E(VCD_SERVICE_ACCOUNT_PATH).
    type: path
  vcd_validate_certs:
    description: Whether Cloud Director's certificate is verified. When unset, E(VCD_VALIDATE_CERTS).
    type: bool
    default: true
  vcd_ca_path:
    description: PEM file with Cloud Director's CA. When unset, E(VCD_CA_PATH) or the system's CAs.
    type: path
  vcd_timeout:
    description: Seconds within which each connection and each answer of Cloud Director has to come.
    type: int
    default: 60
  vcd_vcenter:
    description: The vCenter, by its name in Cloud Director. When unset, the one of O(hostname), or the only one.
    type: str
  owner:
    description: User who becomes the owner of the vApp, if the destination names none.
    type: str
  fail_on:
    description: From which severity on the module fails.
    type: str
    choices:
      - error
      - warning
      - never
    default: error
  record:
    description: Whether what was found is noted on the migration.
    type: bool
    default: true
seealso:
  - module: cda.coldmig.vcenter_vm
  - module: cda.coldmig.vcd_vm
"""

EXAMPLES = r"""
- name: Look whether a template can be used, before a source is booted
  cda.coldmig.preflight:
    template: linux-servers
    hostname: vcenter.example.com
    username: coldmig@vsphere.local
    password: "{{ lookup('ansible.builtin.env', 'VMWARE_PASSWORD') }}"
    datacenter: dc-north
    cluster: cluster-1
    datastore: datastore-1
    vcd_url: https://vcd.example.com
    vcd_api_token: "{{ lookup('ansible.builtin.env', 'VCD_API_TOKEN') }}"
    fail_on: never
  register: looked
"""

RETURN = r"""
findings:
  description: Everything that was found, what is worst first. On failure too.
  returned: always
  type: list
  elements: dict
  contains:
    code:
      description: A word to decide by.
      type: str
      returned: always
      sample: vcd-name
    severity:
      description: V(error), the VM cannot be made so; V(warning), it may go wrong; V(info).
      type: str
      returned: always
    subject:
      description: What it is about.
      type: str
      returned: always
      sample: destination.storage_profile
    message:
      description: What is wrong. For providers.
      type: str
      returned: always
    expected:
      description: What would be right, where that is known.
      type: str
      returned: always
    tenant_message:
      description: What a tenant may read of it.
      type: str
      returned: always
passed:
  description: Whether there is no error among them.
  returned: always
  type: bool
checked:
  description: The sides that were asked.
  returned: always
  type: list
  elements: str
  sample:
    - vcenter
    - vcd
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cda.coldmig.plugins.module_utils._argspec import gateway_options, reporting_errors
from ansible_collections.cda.coldmig.plugins.module_utils._destination import vcd_options, vcenter_options
from ansible_collections.cda.coldmig.plugins.module_utils._preflight import preflight


def optional(options: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """The same options, none of them required."""
    return {name: {key: value for key, value in spec.items() if key != "required"} for name, spec in options.items()}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **gateway_options(),
            **optional(vcenter_options()),
            **optional(vcd_options()),
            "migration": {"type": "str"},
            "template": {"type": "str"},
            "organization": {"type": "str"},
            "datacenter": {"type": "str"},
            "cluster": {"type": "str"},
            "resource_pool": {"type": "str"},
            "folder": {"type": "str"},
            "datastore": {"type": "str"},
            "network": {"type": "str"},
            "hardware_version": {"type": "str"},
            "guest_id": {"type": "str"},
            "storage_policy": {"type": "str"},
            "test_boot": {"type": "bool", "default": False},
            "vcd_vcenter": {"type": "str"},
            "owner": {"type": "str"},
            "fail_on": {"type": "str", "choices": ["error", "warning", "never"], "default": "error"},
            "record": {"type": "bool", "default": True},
        },
        mutually_exclusive=[("migration", "template")],
        required_one_of=[("migration", "template")],
        required_together=[("vcd_user", "vcd_password")],
        required_by={"hostname": ("username", "password", "datacenter", "datastore")},
        supports_check_mode=True,
    )
    with reporting_errors(module):
        values = preflight(module.params, check_mode=module.check_mode).values
        bad = {"error": ("error",), "warning": ("error", "warning"), "never": ()}[module.params["fail_on"]]
        wrong = [finding for finding in values["findings"] if finding["severity"] in bad]
        if wrong:
            told = "\n".join(f"- {one['subject']}: {one['message']}" for one in wrong)
            module.fail_json(msg=f"the destination is not ready:\n{told}", **values)
        module.exit_json(changed=False, **values)


if __name__ == "__main__":
    main()
