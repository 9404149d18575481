#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: site_limits
short_description: Limit what all copies of a site take together
version_added: 0.1.0
description:
  - Sets how many bytes per second all copies of a site may take together, and how many copies may run at a time.
  - Changes hold at once, also for copies that run. Fewer copies at a time stop none that runs.
  - Machines that are confirmed and have to wait are told their place; they begin in the order of their confirmation.
  - Only the provider may see and change the limits of a site. The limit of a template is an option of
    M(cda.coldmig.template).
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
  bandwidth_limit:
    description:
      - Bytes per second, at least V(65536). V(0) is no limit.
      - If it is left out it stays as it is.
    type: int
  max_concurrent_copies:
    description:
      - How many copies may run at a time. V(0) is no limit.
      - A copy whose source was not heard of for two minutes does not count.
      - If it is left out it stays as it is.
    type: int
seealso:
  - module: cda.coldmig.template
"""

EXAMPLES = r"""
- name: Leave half of a 1 Gbit/s line to others, and copy four machines at a time
  cda.coldmig.site_limits:
    gateway_url: https://gateway.example.com:8443
    gateway_token: "{{ lookup('ansible.builtin.env', 'COLDMIG_GATEWAY_TOKEN') }}"
    gateway_ca_path: /etc/coldmig/ca.pem
    bandwidth_limit: 62500000
    max_concurrent_copies: 4

- name: Take the whole line at night
  cda.coldmig.site_limits:
    bandwidth_limit: 0
"""

RETURN = r"""
limits:
  description: The limits as they are now, in check mode as they would be. V(null) is no limit.
  returned: success
  type: dict
  contains:
    bandwidth_limit:
      description: Bytes per second of all copies together.
      type: int
      sample: 62500000
    max_concurrent_copies:
      description: Copies at a time.
      type: int
      sample: 4
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
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient
from ansible_collections.cda.coldmig.plugins.module_utils._site_limits import check_options, wanted_changes


def run(gateway: GatewayClient, options: t.Mapping[str, t.Any], *, check_mode: bool) -> dict[str, t.Any]:
    """Make the limits as they shall be; only those that differ are sent, for another run may change the others."""
    current = gateway.site_limits()
    differences = wanted_changes(current, options)
    result: t.Any = current
    if differences:
        result = {**current, **differences.after}
        if not check_mode:
            result = gateway.change_site_limits(differences.after)
    return {"changed": bool(differences), "limits": result, "diff": differences.as_diff()}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **gateway_options(),
            "bandwidth_limit": {"type": "int"},
            "max_concurrent_copies": {"type": "int"},
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
