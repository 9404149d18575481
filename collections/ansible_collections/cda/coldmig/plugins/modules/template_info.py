#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: template_info
short_description: List templates of cold migrations
version_added: 0.1.0
description:
  - Lists the templates that the token may see.
  - With O(iso_credentials=true) also the credentials of their ISOs, without the secrets.
author:
  - CDA cold migration maintainers (@cda)
extends_documentation_fragment:
  - cda.coldmig.gateway
  - cda.coldmig.attributes
  - cda.coldmig.attributes.info_module
  - cda.coldmig.attributes.actiongroup_gateway
options:
  template:
    description:
      - Only the template with this name or id. With a token of the provider several organizations may have one of the
        name.
    type: str
  organization:
    description: Only templates of this organization.
    type: str
  iso_credentials:
    description: Whether to add the ISO credentials of each template.
    type: bool
    default: false
seealso:
  - module: cda.coldmig.template
"""

EXAMPLES = r"""
- name: All templates that I may see
  cda.coldmig.template_info:
    gateway_url: https://gateway.example.com:8443
    gateway_token: "{{ lookup('ansible.builtin.env', 'COLDMIG_GATEWAY_TOKEN') }}"
    gateway_ca_path: /etc/coldmig/ca.pem
  register: all

- name: The ISOs of one template
  cda.coldmig.template_info:
    template: erp
    iso_credentials: true
  register: erp
"""

RETURN = r"""
templates:
  description: The templates, by organization and name. Empty if there is none.
  returned: success
  type: list
  elements: dict
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
      description: Where the VM arrives, see M(cda.coldmig.template).
      type: dict
      sample:
        vdc: acme-vdc-1
        storage_profile: gold
        vapp:
        networks: []
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
      description: Whether space that a file system does not use is left out, V(auto) or V(never).
      type: str
      sample: auto
    mode:
      description: Whether machines are copied, V(migrate), or looked at only, V(assess).
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
        disk_controller:
        nic_type:
        cpus:
        cores_per_socket:
        memory_mb:
    at_end:
      description:
        - What a source machine does once its migration has ended well (C(success)) or not (C(failure)), V(stay),
          V(poweroff) or V(reboot). V(null) is left open.
      type: dict
      sample:
        success: poweroff
        failure:
    collect_logs:
      description: Whether agents send their logs.
      type: bool
      sample: false
    limits:
      description: What the template lets through; V(null) is no limit.
      type: dict
      sample:
        max_migrations:
        max_disk_bytes: 2199023255552
        max_total_bytes:
        bandwidth_limit:
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
    iso_credentials:
      description: Credentials of the ISOs that were made from the template.
      returned: O(iso_credentials=true)
      type: list
      elements: dict
      sample:
        - id: 0b0f5c53-9d1c-4d9e-8f6b-7a2f7a1c9c11
          description: iso erp.iso
          created_at: "2026-03-02T08:20:00Z"
          expires_at: "2026-03-09T08:20:00Z"
          revoked_at:
          uses: 1
          max_registrations:
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cda.coldmig.plugins.module_utils._argspec import gateway_options, reporting_errors
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import UUID, GatewayClient, Template


def matching(gateway: GatewayClient, template: str | None, organization: str | None) -> list[Template]:
    """The templates that were asked for, in a lasting order."""
    found: list[Template] = []
    if template is not None and UUID.fullmatch(template):
        by_id = gateway.template(template)
        found = [by_id] if by_id is not None and organization in (None, by_id["organization"]) else []
    if not found:
        found = list(gateway.templates(name=template, organization=organization))
    return sorted(found, key=lambda item: (item["organization"], item["name"]))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **gateway_options(),
            "template": {"type": "str"},
            "organization": {"type": "str"},
            "iso_credentials": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    options = module.params
    with reporting_errors(module), GatewayClient.from_options(options) as gateway:
        templates: list[dict[str, t.Any]] = [
            dict(item) for item in matching(gateway, options["template"], options["organization"])
        ]
        if options["iso_credentials"]:
            for item in templates:
                item["iso_credentials"] = list(gateway.iso_credentials(item["id"]))
    module.exit_json(changed=False, templates=templates)


if __name__ == "__main__":
    main()
