#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: template
short_description: Manage templates of cold migrations
version_added: 0.1.0
description:
  - A template says where the machines that boot its ISOs arrive, whether they start by themselves, how they are
    named, and what their limits are.
  - A template belongs to one organization; its name is unique there.
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
  name:
    description: Name of the template.
    type: str
    required: true
  organization:
    description:
      - Organization that the template belongs to.
      - The provider needs it to create a template, and when several organizations have a template of this name.
      - For a token of an organization it is that organization and may be left out.
    type: str
  state:
    description:
      - V(present) creates or changes the template.
      - V(absent) deletes it. ISOs made from it cannot register any more; migrations that exist go on.
    type: str
    choices:
      - present
      - absent
    default: present
  description:
    description: Text for people. A new template has an empty one.
    type: str
  destination:
    description:
      - Where in VMware Cloud Director the VM arrives. Needed to create a template.
      - It is replaced as a whole if it is given.
    type: dict
  auto_start:
    description:
      - Whether a migration starts as soon as it has registered. Otherwise somebody must confirm it, see
        M(cda.coldmig.migration).
      - A new template has V(false).
    type: bool
  power_on:
    description: Whether the VM is powered on at the end. A new template has V(false).
    type: bool
  name_pattern:
    description:
      - Name of the VM. V({name}) is the computer name that the agent found, V({serial}) the serial number of the
        machine,
        V({id}) the first eight characters of the migration's id. At least one of them must be in it.
      - A new template has V({name}).
    type: str
  skip_free:
    description:
      - V(auto) leaves out space that a file system surely does not use. Where there is any doubt (a file system that
        was not cleanly unmounted, is encrypted or unknown) everything is copied.
      - V(never) copies everything, and with it what was deleted.
      - A new template has V(auto). Machines that have registered keep what they were registered with.
    type: str
    choices:
      - auto
      - never
  mode:
    description:
      - V(migrate) copies the machines.
      - V(assess) looks at them only. Each one is reported with the systems that were found, what they can boot from and
        what warns, in the state C(assessed); nothing is copied, and at the source one may reboot or power off.
      - The ISO asks for it at every boot, so a change holds for ISOs that were made before.
      - A new template has V(migrate).
    type: str
    choices:
      - migrate
      - assess
  system:
    description:
      - Which system is meant on machines that have several. The VM's hardware is chosen for it; all disks are copied.
      - It is the key of a system, such as V(disk0/2), or a pattern such as V(windows*) that is held against key, type,
        id, host name, place and name of each system. Case does not count.
      - A machine without such a system waits, held back by the warning C(system-not-found).
      - An empty text takes it away. Without it the system that boots by itself is meant.
    type: str
  accept_warnings:
    description:
      - Codes of warnings that shall not hold machines back, such as V(tpm-sealed).
      - A machine with a warning of severity C(block) whose code is not accepted waits, also with O(auto_start=true).
      - It is replaced as a whole if it is given. A new template accepts none.
    type: list
    elements: str
  hardware:
    description:
      - Virtual hardware to use instead of what is chosen by what the systems can boot from.
      - It is replaced as a whole if it is given. A new template has none. Machines that have registered keep what they
        were registered with.
    type: dict
  at_end:
    description:
      - What the source machine does when its migration has ended there. The ISO asks for it when it registers, so a
        change holds for ISOs that were made before. Machines that have registered keep what they were registered with.
      - It is replaced as a whole if it is given. A new template leaves both open.
    type: dict
    suboptions:
      success:
        description:
          - Once the site has verified its whole copy, or with O(mode=assess) once it was looked at. V(stay) shows that
            it may be powered off, V(reboot) starts what comes next in its boot order.
          - Without it the machine stays, unless its ISO was made with C(poweroff_when_done).
        type: str
        choices:
          - stay
          - poweroff
          - reboot
      failure:
        description: Once its migration has failed or was canceled. Without it the machine stays.
        type: str
        choices:
          - stay
          - poweroff
          - reboot
  collect_logs:
    description:
      - Whether the agent sends its log and that of its kernel to the gateway when its migration has ended. They hold no
        secret of the ISO, are read with M(cda.coldmig.migration_info), and go with the migration.
      - A new template has V(false).
    type: bool
  limits:
    description:
      - What the template lets through. A limit that is left out is no limit.
      - It is replaced as a whole if it is given. A new template has no limits.
    type: dict
    suboptions:
      max_migrations:
        description: Most migrations that may be under way at a time.
        type: int
      max_disk_bytes:
        description: Size in bytes of the largest disk.
        type: int
      max_total_bytes:
        description: Size in bytes of all disks of one machine together.
        type: int
      bandwidth_limit:
        description:
          - Bytes per second that all copies of the template may take together, at least V(65536). They share it in
            equal parts.
          - A change holds at once, also for copies that run.
        type: int
seealso:
  - module: cda.coldmig.template_info
  - module: cda.coldmig.site_limits
  - module: cda.coldmig.iso
"""

EXAMPLES = r"""
- name: Template whose migrations wait for a confirmation
  cda.coldmig.template:
    gateway_url: https://gateway.example.com:8443
    gateway_token: "{{ lookup('ansible.builtin.env', 'COLDMIG_GATEWAY_TOKEN') }}"
    gateway_ca_path: /etc/coldmig/ca.pem
    name: erp
    organization: acme
    destination:
      vdc: acme-vdc-1
      storage_profile: gold
      networks:
        - network: acme-servers
          ip_mode: POOL
    power_on: true
    limits:
      max_disk_bytes: 2199023255552

- name: Let it start by itself from now on (everything else stays)
  cda.coldmig.template:
    name: erp
    auto_start: true

- name: Let its copies take 100 Mbit/s together (the other limits go)
  cda.coldmig.template:
    name: erp
    limits:
      bandwidth_limit: 12500000

- name: Only look at machines and report what could be in the way
  cda.coldmig.template:
    name: survey
    destination:
      vdc: acme-vdc-1
    mode: assess

- name: Mean Windows on machines that have several systems, and accept that keys in a TPM stay behind
  cda.coldmig.template:
    name: erp
    system: windows*
    accept_warnings:
      - tpm-sealed
    hardware:
      disk_controller: lsilogic-sas
      memory_mb: 16384

- name: Power machines off once they are copied, and keep the logs of all
  cda.coldmig.template:
    name: erp
    at_end:
      success: poweroff
    collect_logs: true

- name: Delete it
  cda.coldmig.template:
    name: erp
    state: absent
"""

RETURN = r"""
template:
  description:
    - The template as it is now. In check mode as it would be; a template that would be created has an empty C(id).
    - V(null) if it is absent.
  returned: success
  type: dict
  contains:
    id:
      description: Identifier of the template.
      type: str
      sample: 5f2c7d1e-6f0b-4a7e-9a55-2f1f0a6f3f2b
    name:
      description: Name, unique within the organization.
      type: str
      sample: erp
    organization:
      description: Organization that it belongs to.
      type: str
      sample: acme
    description:
      description: Text for people.
      type: str
      sample: ""
    destination:
      description: Where the VM arrives.
      type: dict
      sample:
        vdc: acme-vdc-1
        storage_profile: gold
        vapp:
        networks:
          - network: acme-servers
            ip_mode: POOL
            ip:
            keep_mac: false
            connected: true
    auto_start:
      description: Whether migrations start by themselves.
      type: bool
      sample: false
    power_on:
      description: Whether the VM is powered on at the end.
      type: bool
      sample: true
    name_pattern:
      description: Name of the VM.
      type: str
      sample: "{name}"
    skip_free:
      description: Whether free space is left out.
      type: str
      sample: auto
    mode:
      description: Whether machines are copied or looked at only.
      type: str
      sample: migrate
    system:
      description: Which system is meant, V(null) for the one that boots by itself.
      type: str
      sample:
    accept_warnings:
      description: Codes of warnings that do not hold machines back.
      type: list
      elements: str
      sample: []
    hardware:
      description: Virtual hardware that is asked for; V(null) is chosen by itself.
      type: dict
      sample:
        guest_id:
        firmware:
        secure_boot:
        disk_controller: lsilogic-sas
        nic_type:
        cpus:
        cores_per_socket:
        memory_mb: 16384
    at_end:
      description: What a source machine does at the end; V(null) is left open.
      type: dict
      sample:
        success: poweroff
        failure:
    collect_logs:
      description: Whether agents send their logs.
      type: bool
      sample: true
    limits:
      description: What the template lets through; V(null) is no limit.
      type: dict
      sample:
        max_migrations:
        max_disk_bytes: 2199023255552
        max_total_bytes:
        bandwidth_limit: 12500000
    created_at:
      description: Time of creation, UTC.
      type: str
      sample: "2026-03-02T08:15:00Z"
    created_by:
      description: Who created it.
      type: str
      sample: provider
    updated_at:
      description: Time of the last change, UTC.
      type: str
      sample: "2026-03-02T08:15:00Z"
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
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient
from ansible_collections.cda.coldmig.plugins.module_utils._template import (
    AT_END,
    WRITABLE,
    check_options,
    wanted_template,
)


def present(gateway: GatewayClient, options: dict[str, t.Any], *, check_mode: bool) -> dict[str, t.Any]:
    """Create the template or change what differs."""
    current = gateway.find_template_by_name(options["name"], options["organization"])
    wanted = wanted_template(options, current)
    if current is None:
        result: t.Any = {"id": "", **wanted} if check_mode else gateway.create_template(wanted)
        return {"changed": True, "template": result, "diff": {"before": {}, "after": wanted}}
    differences = Differences.between(current, wanted)
    result = current
    if differences:
        result = {**current, **wanted} if check_mode else gateway.replace_template(current["id"], wanted)
    return {"changed": bool(differences), "template": result, "diff": differences.as_diff()}


def absent(gateway: GatewayClient, options: dict[str, t.Any], *, check_mode: bool) -> dict[str, t.Any]:
    """Delete the template if there is one."""
    current = gateway.find_template_by_name(options["name"], options["organization"])
    if current is None:
        return {"changed": False, "template": None, "diff": {"before": {}, "after": {}}}
    if not check_mode:
        gateway.delete_template(current["id"])
    before = {name: current.get(name) for name in WRITABLE}
    return {"changed": True, "template": None, "diff": {"before": before, "after": {}}}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **gateway_options(),
            "name": {"type": "str", "required": True},
            "organization": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "description": {"type": "str"},
            "destination": {"type": "dict", "options": destination_options()},
            "auto_start": {"type": "bool"},
            "power_on": {"type": "bool"},
            "name_pattern": {"type": "str"},
            "skip_free": {"type": "str", "choices": ["auto", "never"]},
            "mode": {"type": "str", "choices": ["migrate", "assess"]},
            "system": {"type": "str"},
            "accept_warnings": {"type": "list", "elements": "str"},
            "hardware": {"type": "dict", "options": hardware_options()},
            "at_end": {
                "type": "dict",
                "options": {when: {"type": "str", "choices": ["stay", "poweroff", "reboot"]} for when in AT_END},
            },
            "collect_logs": {"type": "bool"},
            "limits": {
                "type": "dict",
                "options": {
                    "max_migrations": {"type": "int"},
                    "max_disk_bytes": {"type": "int"},
                    "max_total_bytes": {"type": "int"},
                    "bandwidth_limit": {"type": "int"},
                },
            },
        },
        supports_check_mode=True,
    )
    with reporting_errors(module):
        check_options(module.params)
        run = present if module.params["state"] == "present" else absent
        with GatewayClient.from_options(module.params) as gateway:
            result = run(gateway, module.params, check_mode=module.check_mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
