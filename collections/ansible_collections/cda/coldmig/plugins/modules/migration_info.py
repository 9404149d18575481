#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: migration_info
short_description: List cold migrations
version_added: 0.1.0
description:
  - Lists the migrations that the token may see, newest first, with what the agent found and how far the copy is.
author:
  - CDA cold migration maintainers (@cda)
extends_documentation_fragment:
  - cda.coldmig.gateway
  - cda.coldmig.attributes
  - cda.coldmig.attributes.info_module
  - cda.coldmig.attributes.actiongroup_gateway
options:
  migration:
    description:
      - Only the migration with this id, or those with exactly this name.
      - The other filters apply as well.
    type: str
  states:
    description: Only migrations in one of these states.
    type: list
    elements: str
    choices:
      - waiting
      - confirmed
      - copying
      - copied
      - importing
      - finished
      - failed
      - canceled
      - assessed
    default: []
  template:
    description: Only migrations of the template with this id or name.
    type: str
  organization:
    description: Only migrations of this organization.
    type: str
  audit:
    description: Whether to add the audit trail of each migration.
    type: bool
    default: false
  logs:
    description:
      - Whether to add what the agent of each migration has logged, with its kernel's log. There is something where the
        template had O(cda.coldmig.template#module:collect_logs=true) and the migration has ended at the source.
      - It may be several MiB for each.
    type: bool
    default: false
seealso:
  - module: cda.coldmig.migration
  - plugin: cda.coldmig.migrations
    plugin_type: inventory
"""

EXAMPLES = r"""
- name: What waits for a confirmation
  cda.coldmig.migration_info:
    gateway_url: https://gateway.example.com:8443
    gateway_token: "{{ lookup('ansible.builtin.env', 'COLDMIG_GATEWAY_TOKEN') }}"
    gateway_ca_path: /etc/coldmig/ca.pem
    states:
      - waiting
  register: waiting

- name: Why one has failed, as its agent saw it
  cda.coldmig.migration_info:
    migration: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
    logs: true

- name: Wait until one is copied
  cda.coldmig.migration_info:
    migration: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
  register: one
  until: one.migrations[0].state not in ['waiting', 'confirmed', 'copying']
  retries: 360
  delay: 10
"""

RETURN = r"""
migrations:
  description: The migrations, newest first. Empty if there is none.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Identifier of the migration.
      type: str
      sample: 8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11
    name:
      description: Name of the VM.
      type: str
      sample: erp-db-01
    organization:
      description: Organization that it belongs to.
      type: str
      sample: acme
    template:
      description: Template that it was registered under.
      type: dict
      sample:
        id: 5f2c7d1e-6f0b-4a7e-9a55-2f1f0a6f3f2b
        name: erp
    state:
      description:
        - State of the migration, one of V(waiting), V(confirmed), V(copying), V(copied), V(importing), V(finished),
          V(failed), V(canceled), V(assessed).
      type: str
      sample: copying
    reason:
      description:
        - Why it failed or was canceled. Of an assessment it is what a migration of the machine would be refused for,
          if there is anything.
      type: str
      sample:
    detail:
      description: More about the reason.
      type: str
      sample:
    created_at:
      description: Time at which the machine registered, UTC.
      type: str
      sample: "2026-03-02T09:00:00Z"
    updated_at:
      description: Time of the last change, UTC.
      type: str
      sample: "2026-03-02T09:01:10Z"
    last_seen_at:
      description: Time at which the agent was last heard of, UTC, to about 10 seconds.
      type: str
      sample: "2026-03-02T09:01:05Z"
    source_ip:
      description: Address that the machine registered from.
      type: str
      sample: 192.0.2.17
    machine:
      description: What the agent found, as it said it. Hardware, operating systems, how the look into the disks went.
      type: dict
      sample:
        vendor: QEMU
        product: Standard PC
        firmware: efi
        cpu:
          sockets: 1
          cores_per_socket: 2
          threads: 2
          model: QEMU Virtual CPU
        memory_bytes: 1073741824
        guest:
          os_type: linux
          id: debian
          version: "12"
          hostname: erp-db-01
        warnings: []
    mode:
      description: Whether it is copied, V(migrate), or was looked at only, V(assess).
      type: str
      sample: migrate
    system:
      description: Which of its systems was asked for, a key or a pattern. V(null) is the one that boots by itself.
      type: str
      sample:
    guest:
      description:
        - The system that the VM is made for.
        - C(readiness) says for each kind of virtual device whether this system can use it from its first moment on,
          V(ready), V(likely), V(no) or V(unknown), with the evidence.
      type: dict
      sample:
        key: disk0/2
        place: disk 0, partition 2
        os_type: linux
        id: debian
        version: "12"
        pretty_name: Debian GNU/Linux 12 (bookworm)
        hostname: erp-db-01
        firmware: efi
        bootable: true
        readiness:
          - device: pvscsi
            kind: storage
            verdict: ready
            evidence:
              - vmw_pvscsi is in the initramfs of the entry that boots by itself
    guests:
      description: All systems of the machine, the one that boots by itself first.
      type: list
      elements: dict
      sample: []
    warnings:
      description: What is to be known before the copy.
      type: list
      elements: dict
      contains:
        code:
          description: Name of the warning; it does not change.
          type: str
          sample: tpm-sealed
        severity:
          description: V(info), V(warning), or V(block), which holds the migration back until the code is accepted.
          type: str
          sample: block
        message:
          description: What it is.
          type: str
          sample: The key of disk 0, partition 3 is sealed in the TPM of this machine.
        action:
          description: What to do about it.
          type: str
          sample: Add a recovery key before the migration.
        accepted:
          description: Whether the code was accepted, by the template or of this migration.
          type: bool
          sample: false
    accept_warnings:
      description: Codes of warnings that do not hold it back.
      type: list
      elements: str
      sample: []
    blocked:
      description: Codes of the warnings that hold it back until they are accepted.
      type: list
      elements: str
      sample:
        - tpm-sealed
    hardware:
      description: Virtual hardware that was asked for, see M(cda.coldmig.template). V(null) is chosen by itself.
      type: dict
      sample:
        guest_id:
        firmware:
        secure_boot:
        disk_controller: lsilogic-sas
        nic_type:
        cpus:
        cores_per_socket:
        memory_mb:
    destination:
      description: Where the VM arrives, see M(cda.coldmig.template).
      type: dict
      sample:
        vdc: acme-vdc-1
        storage_profile: gold
        vapp:
        networks: []
    power_on:
      description: Whether the VM is powered on at the end.
      type: bool
      sample: true
    skip_free:
      description: Whether free space is left out, V(auto) or V(never), as the template had it at the registration.
      type: str
      sample: auto
    accept_unreadable:
      description: Whether it is imported although sectors could not be read.
      type: bool
      sample: false
    reserved_bytes:
      description: Room in the staging area that was promised to it when it was confirmed.
      type: int
      sample: 1289748480
    checks:
      description:
        - What was found last at the destination, by name. C(preflight), what is in the way there; C(test-boot), whether
          the VM starts; C(import), why an import failed or is repeated, until it has succeeded.
        - Each has C(at), C(by), C(passed), C(detail) and C(findings), in words that the tenant may read.
      type: dict
      sample:
        import:
          at: "2026-03-02T11:00:00Z"
          by: provider
          passed: false
          detail: The import failed. The next run of the provider tries again.
          findings:
            - code: vcd-import
              severity: error
              subject: Cloud Director
              message: The storage profile gold has no room for 2 MB. [request coldmig-4f6c-12]
              expected: ""
    superseded_by:
      description: Migration of a later boot of the same machine that has taken its place.
      type: str
      sample:
    staging_removed_at:
      description: Time at which the site removed the staged copy by itself, UTC.
      type: str
      sample:
    disks:
      description:
        - The disks, sizes in bytes, with the number of chunks that the site has.
        - C(used_bytes) has to be copied when free space is left out, C(earlier) are copies of the same disk whose
          chunks are used again, C(unreadable) is what the source could not read.
        - C(merkle_root) is known once every chunk was read again from the site's storage.
      type: list
      elements: dict
      sample:
        - index: 0
          size_bytes: 3221225472
          chunks: 3072
          used_bytes: 1288490188
          have_chunks: 1024
          earlier:
            - migration_id: 1d3f0a52-3a0e-4a43-8f3c-c27d2f0f6a02
              index: 0
          unreadable:
            bytes: 512
            chunks:
            ranges:
              - [1048576, 512]
          verified: false
          merkle_root:
    progress:
      description: Last report of the agent.
      type: dict
      sample:
        phase: copy
        message: copying disk 0
    refs:
      description: What was made at the destination so far.
      type: dict
      sample:
        vcenter_vm:
        vcd_vapp:
        vcd_vm:
    logs:
      description: What the agent has logged, V(null) if it has sent nothing.
      returned: O(logs=true)
      type: dict
      sample:
        at: "2026-03-02T09:40:00Z"
        text: "agent\n2026-03-02T09:00:00Z site https://gateway.example.com:8443, template erp (acme)\n"
    audit:
      description: Who did what and when, in order.
      returned: O(audit=true)
      type: list
      elements: dict
      sample:
        - at: "2026-03-02T09:00:00Z"
          actor: iso
          event: enrolled
          from:
          to: waiting
          detail: {}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cda.coldmig.plugins.module_utils._argspec import gateway_options, reporting_errors
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import UUID, GatewayClient, Migration
from ansible_collections.cda.coldmig.plugins.module_utils._migration import STATES


def matching(gateway: GatewayClient, options: dict[str, t.Any]) -> t.Iterator[Migration]:
    """The migrations that were asked for."""
    wanted = options["migration"]
    if wanted is not None and UUID.fullmatch(wanted):
        found = gateway.migration(wanted)
        candidates: t.Iterable[Migration] = [] if found is None else [found]
        # One was read by its id, past the filters that the gateway applies to lists.
        yield from (item for item in candidates if _passes(item, options))
        return
    listed = gateway.migrations(
        states=options["states"], template=options["template"], organization=options["organization"], text=wanted
    )
    yield from (item for item in listed if wanted in (None, item["name"]))


def _passes(migration: Migration, options: dict[str, t.Any]) -> bool:
    template = options["template"]
    return (
        (not options["states"] or migration["state"] in options["states"])
        and template in (None, migration["template"]["id"], migration["template"]["name"])
        and options["organization"] in (None, migration["organization"])
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **gateway_options(),
            "migration": {"type": "str"},
            "states": {"type": "list", "elements": "str", "choices": list(STATES), "default": []},
            "template": {"type": "str"},
            "organization": {"type": "str"},
            "audit": {"type": "bool", "default": False},
            "logs": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    with reporting_errors(module), GatewayClient.from_options(module.params) as gateway:
        migrations: list[dict[str, t.Any]] = [dict(item) for item in matching(gateway, module.params)]
        if module.params["audit"]:
            for item in migrations:
                item["audit"] = list(gateway.audit(item["id"]))
        if module.params["logs"]:
            for item in migrations:
                item["logs"] = gateway.logs(item["id"])
    module.exit_json(changed=False, migrations=migrations)


if __name__ == "__main__":
    main()
