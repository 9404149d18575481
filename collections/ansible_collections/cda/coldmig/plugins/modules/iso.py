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
  site:
    description:
      - How machines reach the site. What is left out is what the gateway itself says.
      - Needed where sources see it under another name or port, such as behind a load balancer.
    type: dict
    suboptions:
      url:
        description: Address and port, such as V(https://203.0.113.7:8443). The certificate must name this address.
        type: str
      ca_pem:
        description: Certificate authorities, as PEM text, that the site's certificate is checked against.
        type: str
  network:
    description: How the live system connects to the site. Without it every interface asks DHCP.
    type: dict
    suboptions: &network
      mode:
        description:
          - V(static) has it checked that every interface has addresses, V(dhcp) that none has.
          - It changes nothing else, O(network.interfaces[].dhcp) decides.
        type: str
        choices:
          - dhcp
          - static
      interfaces:
        description:
          - Interfaces to use. All others are left without addresses. An empty list means all interfaces, with DHCP.
        type: list
        elements: dict
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
              driver:
                description: The first one with a link that has this kernel driver, such as V(ixgbe).
                type: str
              bond:
                description: The bond of this name.
                type: str
              first_with_carrier:
                description: The first one with a link. Only V(true) makes sense.
                type: bool
          dhcp:
            description: Whether it asks DHCP. If it is left out, it does so when there are no addresses.
            type: bool
          addresses:
            description: Static IPv4 and IPv6 addresses with prefix length, such as V(192.0.2.10/24).
            type: list
            elements: str
          gateway:
            description: Address of the default gateway.
            type: str
          gateway6:
            description: Address of the default gateway of IPv6, where there is one of IPv4 too.
            type: str
          vlan:
            description: Number of a tagged VLAN to use on the interface.
            type: int
          mtu:
            description: MTU of this interface, from 576 to 9216.
            type: int
          routes:
            description: More routes.
            type: list
            elements: dict
            suboptions:
              to:
                description: A network such as V(198.51.100.0/24), or V(default).
                type: str
                required: true
              via:
                description: Address of the router. Without one the network is on the link.
                type: str
              metric:
                description: Of several routes to a network the one with the least counts.
                type: int
      bonds:
        description: Interfaces that are used as one.
        type: list
        elements: dict
        suboptions:
          name:
            description: Name of the bond, by which O(network.interfaces[].match.bond) refers to it.
            type: str
            required: true
          mode:
            description: V(802.3ad) is LACP, which the switch must be set up for; V(active-backup) works everywhere.
            type: str
            choices:
              - 802.3ad
              - active-backup
            default: 802.3ad
          members:
            description: Interfaces that belong to it. Each has exactly one of the suboptions.
            type: list
            elements: dict
            required: true
            suboptions:
              mac:
                description: The one with this MAC address.
                type: str
              name:
                description: The one with this name.
                type: str
              driver:
                description: All that have this kernel driver.
                type: str
      dns:
        description: Addresses of name servers. With these, those of DHCP are not used.
        type: list
        elements: str
      search:
        description: Domains that names without a dot are looked up in.
        type: list
        elements: str
      mtu:
        description: MTU of the interfaces that have none of their own, from 576 to 9216.
        type: int
  proxy:
    description: HTTP proxy between the source and the site, such as V(http://192.0.2.1:3128).
    type: str
  proxy_username:
    description: User name at the proxy (Basic).
    type: str
  proxy_password:
    description: Password at the proxy. It is in the ISO, and nowhere in logs or results.
    type: str
  time:
    description: Clock of the live system. The source's hardware clock is never set.
    type: dict
    suboptions: &time
      ntp:
        description: Time servers. The live system's clock is set once, by the first that answers.
        type: list
        elements: str
      zone:
        description: Time zone of what the console shows, such as V(Europe/Berlin). Else it is UTC.
        type: str
  keyboard:
    description: Keymap of the screen's consoles, such as V(de) or V(fr-latin1) (Debian's console-data).
    type: str
  access:
    description: Who may log in to the live system. Without hash and keys nobody may, and no SSH server runs.
    type: dict
    suboptions: &access
      root_password_hash:
        description:
          - Hash of the password of C(root) in the form of crypt(5), such as the filter
            P(ansible.builtin.password_hash#filter) makes it.
          - With one, the shell at the console asks for the password.
        type: str
      ssh_keys:
        description: Public SSH keys of those who may log in as C(root).
        type: list
        elements: str
  banner:
    description: Text of at most 2000 characters that the console and SSH show.
    type: str
  disks:
    description: Which disks are copied.
    type: dict
    suboptions: &disks
      leave_out:
        description:
          - Disks that are not copied. One is left out if all suboptions of an entry fit.
          - Such a disk is not even opened, unless an entry has O(disks.leave_out[].label).
        type: list
        elements: dict
        suboptions:
          serial:
            description: Serial number.
            type: str
          path:
            description: A path below C(/dev/), links of udev too; C(*) and C(?) stand for anything.
            type: str
          label:
            description: Label of a file system or partition on it.
            type: str
          size:
            description: Size such as V(4TB) (within one percent), or an exact number of bytes.
            type: str
          larger_than:
            description: More bytes than this, such as V(2TB) or V(500GiB).
            type: str
          smaller_than:
            description: Fewer bytes than this.
            type: str
  machines:
    description:
      - Settings for single machines, so that one ISO serves many. What an entry has replaces what the ISO has, of
        O(machines[].network), O(machines[].time), O(machines[].access) and O(machines[].disks) key by key.
      - The kernel's command line replaces both, see the documentation of boot media.
    type: list
    elements: dict
    suboptions:
      match:
        description: Which machine this is. Exactly one of the suboptions.
        type: dict
        required: true
        suboptions:
          serial:
            description: Its serial number in the firmware (SMBIOS).
            type: str
          mac:
            description: MAC address of one of its interfaces.
            type: str
      network:
        description: See O(network).
        type: dict
        suboptions: *network
      proxy:
        description: See O(proxy).
        type: str
      proxy_username:
        description: See O(proxy_username).
        type: str
      proxy_password:
        description: See O(proxy_password).
        type: str
      time:
        description: See O(time).
        type: dict
        suboptions: *time
      keyboard:
        description: See O(keyboard).
        type: str
      access:
        description: See O(access).
        type: dict
        suboptions: *access
      banner:
        description: See O(banner).
        type: str
      disks:
        description: See O(disks).
        type: dict
        suboptions: *disks
      poweroff_when_done:
        description: See O(poweroff_when_done).
        type: bool
  console:
    description: Consoles of the live system.
    type: dict
    suboptions:
      serial:
        description: Serial console with its speed. An empty string is none.
        type: str
        default: ttyS0,115200
      shell:
        description:
          - Open a root shell on the second virtual terminal of the source. It asks for the password only if
            O(access.root_password_hash) is set.
        type: bool
        default: false
      mode:
        description:
          - V(plain) writes line by line, for screen readers and logs; V(screen) draws one screen; V(auto) does the one
            on the serial console and the other on the screen.
        type: str
        choices:
          - auto
          - plain
          - screen
        default: auto
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

- name: ISO for a rack of servers, LACP with a VLAN on it, each machine with its own addresses by its serial number
  cda.coldmig.iso:
    template: erp
    base: /var/cache/coldmig/base.iso
    dest: /srv/iso/rack-7.iso
    network:
      bonds:
        - name: bond0
          members:
            - driver: ixgbe
      interfaces:
        - match:
            bond: bond0
          vlan: 120
          mtu: 9000
      dns:
        - 192.0.2.53
        - 2001:db8::53
      search:
        - example.com
    machines:
      - match:
          serial: CZ1234567A
        network:
          interfaces:
            - match:
                bond: bond0
              vlan: 120
              addresses:
                - 192.0.2.10/24
                - 2001:db8:0:120::10/64
              gateway: 192.0.2.1
              gateway6: fe80::1
      - match:
          mac: 52:54:00:12:34:56
        disks:
          leave_out:
            - label: BACKUP

- name: ISO that goes through a proxy, leaves USB and large disks out, and may be logged in to
  cda.coldmig.iso:
    template: erp
    base: /var/cache/coldmig/base.iso
    dest: /srv/iso/erp-dmz.iso
    proxy: http://192.0.2.1:3128
    proxy_username: migration
    proxy_password: "{{ vault_proxy_password }}"
    time:
      ntp:
        - 192.0.2.123
      zone: Europe/Berlin
    keyboard: de
    access:
      root_password_hash: "{{ vault_root_password | password_hash('sha512') }}"
      ssh_keys:
        - "{{ lookup('ansible.builtin.file', '~/.ssh/id_ed25519.pub') }}"
    banner: Migration of the ERP, call 555 0100 before you touch this machine.
    disks:
      leave_out:
        - path: /dev/disk/by-id/usb-*
        - larger_than: 8TB

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
      description: The configuration in the ISO, without the credential; other secrets are V((hidden\)).
      type: dict
      sample:
        format: 2
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
)
from ansible_collections.cda.coldmig.plugins.module_utils._iso_options import settings_from_options, settings_options


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
            **settings_options(),
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
