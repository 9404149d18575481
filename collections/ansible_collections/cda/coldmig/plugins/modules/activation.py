#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: activation
short_description: Activate or deactivate cold migration on a site
version_added: 0.1.0
description:
  - Until cold migration is activated for an organization, no machine can register under its templates.
  - Deactivation keeps new machines out; migrations that have registered go on.
  - Only the provider may change the activation.
author:
  - CDA cold migration maintainers (@cda)
extends_documentation_fragment:
  - cda.coldmig.gateway
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
  state:
    description: Whether cold migration is active on the site.
    type: str
    choices:
      - activated
      - deactivated
    default: activated
  organizations:
    description:
      - All organizations that may use cold migration, and no other. The order does not matter.
      - An empty list means none. If it is left out, the organizations stay as they are.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Activate cold migration for two organizations
  cda.coldmig.activation:
    gateway_url: https://gateway.example.com:8443
    gateway_token: "{{ lookup('ansible.builtin.env', 'COLDMIG_GATEWAY_TOKEN') }}"
    gateway_ca_path: /etc/coldmig/ca.pem
    organizations:
      - acme
      - globex

- name: Let no machine register any more
  cda.coldmig.activation:
    state: deactivated
"""

RETURN = r"""
activation:
  description: The activation as it is now, in check mode as it would be.
  returned: success
  type: dict
  contains:
    active:
      description: Whether cold migration is active.
      type: bool
      sample: true
    organizations:
      description: Organizations that may use it.
      type: list
      elements: str
      sample:
        - acme
        - globex
    changed_at:
      description: Time of the last change, UTC.
      type: str
      sample: "2026-03-02T08:00:00Z"
    changed_by:
      description: Who made the last change.
      type: str
      sample: provider
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cda.coldmig.plugins.module_utils._argspec import gateway_options, reporting_errors
from ansible_collections.cda.coldmig.plugins.module_utils._diff import Differences
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient
from ansible_collections.cda.coldmig.plugins.module_utils._template import check_simple_name


def run(gateway: GatewayClient, *, active: bool, organizations: list[str] | None, check_mode: bool) -> dict[str, t.Any]:
    """Make the activation as it shall be."""
    current = gateway.activation()
    kept = sorted(current["organizations"])
    wanted = kept if organizations is None else sorted(set(organizations))
    differences = Differences()
    differences.add("active", current["active"], active)
    differences.add("organizations", kept, wanted)
    result: t.Any = current
    if differences:
        result = {**current, "active": active, "organizations": wanted}
        if not check_mode:
            # The list is sent only if it was asked for: another run may be changing it.
            sent = None if organizations is None else wanted
            result = gateway.set_activation(active=active, organizations=sent)
    return {"changed": bool(differences), "activation": result, "diff": differences.as_diff()}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **gateway_options(),
            "state": {"type": "str", "choices": ["activated", "deactivated"], "default": "activated"},
            "organizations": {"type": "list", "elements": "str"},
        },
        supports_check_mode=True,
    )
    with reporting_errors(module):
        for index, name in enumerate(module.params["organizations"] or []):
            check_simple_name(f"organizations[{index}]", name)
        with GatewayClient.from_options(module.params) as gateway:
            result = run(
                gateway,
                active=module.params["state"] == "activated",
                organizations=module.params["organizations"],
                check_mode=module.check_mode,
            )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
