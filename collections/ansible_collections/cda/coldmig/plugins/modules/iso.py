#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: iso
short_description: Make the ISO of a template
version_added: 0.1.0
description:
  - Issues an ISO credential for a template and writes it into a copy of the base image, with the address of the site,
    its CA, and
    the settings of the network. The base image is built by the role P(cda.coldmig.iso#role).
  - The ISO holds a secret. The file has mode C(0600), and the credential is neither returned nor logged.
  - An ISO that is there stays as it is while site, template, settings, and base image are the same and its credential
    is valid.
  - If anything fails, the fresh credential is revoked, and a file that was there before is still there.
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
    details:
      - Of the credential only its state is shown.
  idempotent:
    support: partial
    details:
      - With O(force=true) a new ISO is made every time.
requirements:
  - pycdlib
options:
  template:
    description: Name or id of the template.
    type: str
    required: true
  organization:
    description:
      - Organization of the template. The provider needs it when several organizations have a template of this name.
    type: str
  state:
    description:
      - V(present) makes the ISO.
      - V(absent) revokes the credential in it and deletes the file. Machines that have registered with it go on.
    type: str
    choices:
      - present
      - absent
    default: present
  dest:
    description: Path of the ISO. Its directory must exist.
    type: path
    required: true
  base:
    description: Path of the base image. Needed with O(state=present).
    type: path
  credential_ttl_hours:
    description:
      - Hours in which machines can register with the ISO, from 1 to 8760. Counts for a new ISO only, it does not
        replace one.
    type: int
    default: 168
  max_registrations:
    description: How many times machines can register with the ISO. If it is left out, there is no limit.
    type: int
  network:
    description: How the live system connects to the site. Without it every interface asks DHCP.
    type: dict
    suboptions:
      mode:
        description: Where addresses come from.
        type: str
        choices:
          - dhcp
          - static
        default: dhcp
      interfaces:
        description: Interfaces to use. Needed with O(network.mode=static); with V(dhcp) an empty list means all.
        type: list
        elements: dict
        default: []
        suboptions:
          match:
            description: Which interface this is. Exactly one of the suboptions.
            type: dict
            required: true
            suboptions:
              mac:
                description: The one with this MAC address.
                type: str
              name:
                description: The one with this name.
                type: str
              first_with_carrier:
                description: The first one with a link. Only V(true) makes sense.
                type: bool
          addresses:
            description: Static addresses with prefix length, such as V(192.0.2.10/24).
            type: list
            elements: str
            default: []
          gateway:
            description: Address of the default gateway.
            type: str
          vlan:
            description: Number of a tagged VLAN to use on the interface.
            type: int
      dns:
        description: Addresses of name servers.
        type: list
        elements: str
        default: []
      mtu:
        description: MTU of the interfaces, from 576 to 9216.
        type: int
  proxy:
    description: HTTP proxy between the source and the site, such as V(http://192.0.2.1:3128).
    type: str
  console:
    description: Consoles of the live system beside the screen.
    type: dict
    suboptions:
      serial:
        description: Serial console with its speed. An empty string is none.
        type: str
        default: ttyS0,115200
      shell:
        description: Open a root shell without a password on the second virtual terminal of the source.
        type: bool
        default: false
  kernel_args:
    description:
      - More arguments for the kernel of the live system. Those that would change what it boots or writes are refused.
      - With C(coldmig.inspect=no) nothing on the source's disks is looked into, they are only copied.
        C(coldmig.inspect=120) gives that 120 seconds instead of 60.
    type: list
    elements: str
    default: []
  poweroff_when_done:
    description: Whether the source is powered off when its disks are copied.
    type: bool
    default: false
  netboot:
    description:
      - Directory, usually below the root of a web server, for files to boot the live system from the network. It must
        exist.
      - For the ISO C(erp.iso) there will be the iPXE script C(erp.ipxe) and the configuration C(erp.img), and a
        directory named by the base image's volume id with what all its templates share.
      - C(erp.img) holds the credential and has the mode C(0600). How to serve it is in the project's C(docs/iso.md).
      - With O(state=absent) the files are deleted there.
    type: path
  revoke_replaced:
    description:
      - Whether the credential of an ISO that is replaced is revoked, so that copies of the old ISO register no
        machine any more.
    type: bool
    default: true
  checksum:
    description: Whether to return the SHA-256 of the ISO. It reads the whole file.
    type: bool
    default: true
  force:
    description:
      - Make a new ISO even if the one that is there is as it shall be, and replace or delete a file that is not the
        ISO of this
        template and site.
    type: bool
    default: false
seealso:
  - module: cda.coldmig.template
"""

EXAMPLES = r"""
- name: ISO for a source that gets its address by DHCP
  cda.coldmig.iso:
    gateway_url: https://gateway.example.com:8443
    gateway_token: "{{ lookup('ansible.builtin.env', 'COLDMIG_GATEWAY_TOKEN') }}"
    gateway_ca_path: /etc/coldmig/ca.pem
    template: erp
    base: /var/cache/coldmig/base.iso
    dest: /srv/iso/erp.iso

- name: ISO for one source with a static address, valid for a day and for one registration
  cda.coldmig.iso:
    template: erp
    base: /var/cache/coldmig/base.iso
    dest: /srv/iso/erp-db-01.iso
    credential_ttl_hours: 24
    max_registrations: 1
    network:
      mode: static
      interfaces:
        - match:
            mac: 52:54:00:12:34:56
          addresses:
            - 192.0.2.10/24
          gateway: 192.0.2.1
      dns:
        - 192.0.2.53
    poweroff_when_done: true

- name: ISO, and the same to boot from the network
  cda.coldmig.iso:
    template: erp
    base: /var/cache/coldmig/base.iso
    dest: /srv/iso/erp.iso
    netboot: /srv/http/coldmig

- name: Revoke the credential and delete the file
  cda.coldmig.iso:
    template: erp
    dest: /srv/iso/erp.iso
    state: absent
"""

RETURN = r"""
iso:
  description: The ISO. V(null) if it is absent, and in check mode if it would be made.
  returned: success
  type: dict
  contains:
    path:
      description: Path of the file.
      type: str
      sample: /srv/iso/erp.iso
    size_bytes:
      description: Its size.
      type: int
      sample: 293601280
    sha256:
      description: Its SHA-256; V(null) with O(checksum=false).
      type: str
      sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    volume_id:
      description: Its volume id, which names the base image.
      type: str
      sample: COLDMIG_2_0123456789ABCDEF
    netboot:
      description: Files to boot from the network; V(null) without O(netboot).
      type: dict
      contains:
        script:
          description: The iPXE script.
          type: str
          sample: /srv/http/coldmig/erp.ipxe
        config:
          description: The configuration with the credential.
          type: str
          sample: /srv/http/coldmig/erp.img
        base:
          description: Directory of the kernel, the initrd, and the live system.
          type: str
          sample: /srv/http/coldmig/COLDMIG_2_0123456789ABCDEF
    kernel_args:
      description: Additional arguments of the kernel.
      type: list
      elements: str
      sample: []
    config:
      description: The configuration in the ISO, without the credential.
      type: dict
      sample:
        format: 1
        template:
          id: 5f2c7d1e-6f0b-4a7e-9a55-2f1f0a6f3f2b
          name: erp
          organization: acme
        poweroff_when_done: false
    credential:
      description: What the gateway knows of the credential.
      type: dict
      contains:
        id:
          description: Identifier, with which it can be revoked.
          type: str
          sample: 0b0f5c53-9d1c-4d9e-8f6b-7a2f7a1c9c11
        description:
          description: Where it was made.
          type: str
          sample: erp.iso made on controller
        expires_at:
          description: Until when machines can register with it, UTC.
          type: str
          sample: "2026-03-09T08:20:00Z"
        max_registrations:
          description: How many times machines can register with it; V(null) is no limit.
          type: int
          sample:
        uses:
          description: How many times machines have registered with it.
          type: int
          sample: 0
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cda.coldmig.plugins.module_utils._argspec import gateway_options, reporting_errors
from ansible_collections.cda.coldmig.plugins.module_utils._errors import InputError
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient
from ansible_collections.cda.coldmig.plugins.module_utils._iso import (
    IsoKeeper,
    Wanted,
    find_template,
    settings_from_options,
)

NETWORK = {
    "mode": {"type": "str", "choices": ["dhcp", "static"], "default": "dhcp"},
    "interfaces": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "match": {
                "type": "dict",
                "required": True,
                "options": {
                    "mac": {"type": "str"},
                    "name": {"type": "str"},
                    "first_with_carrier": {"type": "bool"},
                },
                "mutually_exclusive": [("mac", "name", "first_with_carrier")],
                "required_one_of": [("mac", "name", "first_with_carrier")],
            },
            "addresses": {"type": "list", "elements": "str", "default": []},
            "gateway": {"type": "str"},
            "vlan": {"type": "int"},
        },
    },
    "dns": {"type": "list", "elements": "str", "default": []},
    "mtu": {"type": "int"},
}


def wanted_iso(options: dict[str, t.Any]) -> Wanted:
    """What the options ask for. Raises InputError for numbers out of range."""
    if not 1 <= options["credential_ttl_hours"] <= 8760:
        raise InputError("credential_ttl_hours", options["credential_ttl_hours"], "hours from 1 to 8760 (a year)")
    if options["max_registrations"] is not None and options["max_registrations"] < 1:
        raise InputError("max_registrations", options["max_registrations"], "a whole number from 1 on")
    return Wanted(
        dest=Path(options["dest"]),
        base=Path(options["base"]),
        settings=settings_from_options(options),
        kernel_args=options["kernel_args"],
        ttl_hours=options["credential_ttl_hours"],
        max_registrations=options["max_registrations"],
        force=options["force"],
        revoke_replaced=options["revoke_replaced"],
        netboot=Path(options["netboot"]) if options["netboot"] else None,
    )


def run(gateway: GatewayClient, options: dict[str, t.Any], *, check_mode: bool) -> dict[str, t.Any]:
    """Make or remove the ISO."""
    keeper = IsoKeeper(gateway, check_mode=check_mode)
    if options["state"] == "absent":
        return keeper.absent(
            Path(options["dest"]),
            options["template"],
            options["organization"],
            force=options["force"],
            netboot_directory=Path(options["netboot"]) if options["netboot"] else None,
        )
    wanted = wanted_iso(options)
    template = find_template(gateway, options["template"], options["organization"])
    return keeper.present(wanted, template, checksum=options["checksum"])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **gateway_options(),
            "template": {"type": "str", "required": True},
            "organization": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "dest": {"type": "path", "required": True},
            "base": {"type": "path"},
            # Not the credential, but how long it lives.
            "credential_ttl_hours": {"type": "int", "default": 168, "no_log": False},
            "max_registrations": {"type": "int"},
            "network": {"type": "dict", "options": NETWORK},
            "proxy": {"type": "str"},
            "console": {
                "type": "dict",
                "options": {
                    "serial": {"type": "str", "default": "ttyS0,115200"},
                    "shell": {"type": "bool", "default": False},
                },
            },
            "kernel_args": {"type": "list", "elements": "str", "default": []},
            "poweroff_when_done": {"type": "bool", "default": False},
            "netboot": {"type": "path"},
            "revoke_replaced": {"type": "bool", "default": True},
            "checksum": {"type": "bool", "default": True},
            "force": {"type": "bool", "default": False},
        },
        required_if=[("state", "present", ["base"])],
        supports_check_mode=True,
    )
    with reporting_errors(module), GatewayClient.from_options(module.params) as gateway:
        result = run(gateway, module.params, check_mode=module.check_mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
