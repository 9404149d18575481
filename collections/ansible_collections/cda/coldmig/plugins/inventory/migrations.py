# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inventory plugin: one host per migration."""

from __future__ import annotations

DOCUMENTATION = r"""
name: migrations
short_description: Cold migrations of a site as hosts
version_added: 0.1.0
description:
  - Makes one host per migration that the token may see, so that Ansible itself does the looping, the parallelism and
    the choosing.
  - A host is named after the migration and the first 8 characters of its id, such as V(erp-db-01-8a9df7ab).
  - Every host is in the group C(coldmig_migrations), in C(state_<state>), C(template_<name>) and
    C(organization_<name>).
  - Tasks run on the controller, with the Python of the playbook, as the source machine cannot be logged in to.
author:
  - CDA cold migration maintainers (@cda)
extends_documentation_fragment:
  - constructed
  - inventory_cache
requirements:
  - requests
notes:
  - Each host has the variables C(coldmig_id), C(coldmig_name), C(coldmig_state), C(coldmig_organization),
    C(coldmig_template) (name of the template)
    and C(coldmig_migration) (everything that M(cda.coldmig.migration_info) returns).
  - What a source machine says of itself (its name, for example) is never taken as a template.
  - The token is not made a variable of the hosts.
  - Ansible only warns when an inventory cannot be read, and goes on without its hosts. In scheduled runs set
    E(ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED) to V(true), so that a gateway that cannot be reached fails the run.
options:
  plugin:
    description: Must be V(cda.coldmig.migrations).
    type: str
    required: true
    choices:
      - cda.coldmig.migrations
  gateway_url:
    description: Address of the gateway, such as V(https://gateway.example.com:8443). May be a template.
    type: str
    required: true
    env:
      - name: COLDMIG_GATEWAY_URL
  gateway_token:
    description: Token of the provider or of an organization. May be a template.
    type: str
    required: true
    env:
      - name: COLDMIG_GATEWAY_TOKEN
  gateway_ca_path:
    description:
      - PEM file with the CA of the site. Without it the CA certificates of the system are trusted. May be a template.
      - A relative path starts where Ansible is run.
    type: str
    env:
      - name: COLDMIG_GATEWAY_CA
  timeout:
    description: Seconds to wait for a connection to the gateway, and for each part of an answer.
    type: int
    default: 30
  states:
    description: Only migrations in one of these states. Empty is all states.
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
seealso:
  - module: cda.coldmig.migration_info
"""

EXAMPLES = r"""
---
# migrations.coldmig.yml: address, token and CA are in the environment
plugin: cda.coldmig.migrations
---
# Only what a pass that finishes migrations has to look at
plugin: cda.coldmig.migrations
gateway_url: https://gateway.example.com:8443
gateway_token: "{{ lookup('ansible.builtin.env', 'COLDMIG_GATEWAY_TOKEN') }}"
gateway_ca_path: /etc/coldmig/ca.pem
states:
  - copied
  - importing
keyed_groups:
  - key: coldmig_migration.machine.guest.os_type
    prefix: guest
groups:
  large: coldmig_migration.disks | map(attribute='size_bytes') | sum > 1099511627776
"""

import re
import sys
import typing as t

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.path import unfrackpath
from ansible.utils.unsafe_proxy import wrap_var
from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient
from ansible_collections.cda.coldmig.plugins.module_utils._migration import STATES

if t.TYPE_CHECKING:
    from ansible.inventory.data import InventoryData
    from ansible.parsing.dataloader import DataLoader

SUFFIXES = ("coldmig.yml", "coldmig.yaml")
ALL = "coldmig_migrations"


def host_name(migration: t.Mapping[str, t.Any]) -> str:
    """A readable and unique name, without the characters that mean something in a host pattern."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", migration["name"])
    return f"{readable}-{migration['id'][:8]}"


def group_names(migration: t.Mapping[str, t.Any]) -> list[str]:
    """Names of the groups that a migration is in."""
    keys = {
        "state": migration["state"],
        "template": migration["template"]["name"],
        "organization": migration["organization"],
    }
    return [re.sub(r"[^A-Za-z0-9_]", "_", f"{kind}_{value}") for kind, value in keys.items()]


def host_variables(migration: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Variables of a host. Their text comes from source machines and must never be taken as a template."""
    told = {
        "coldmig_id": migration["id"],
        "coldmig_name": migration["name"],
        "coldmig_state": migration["state"],
        "coldmig_organization": migration["organization"],
        "coldmig_template": migration["template"]["name"],
        "coldmig_migration": dict(migration),
    }
    return {
        "ansible_connection": "local",
        # Discovery might find another Python, one without the libraries that the modules need.
        "ansible_python_interpreter": sys.executable,
        **{name: wrap_var(value) for name, value in told.items()},
    }


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """One host per migration."""

    NAME = "cda.coldmig.migrations"

    def verify_file(self, path: str) -> bool:
        """Take files that end in coldmig.yml or coldmig.yaml."""
        return bool(super().verify_file(path)) and path.endswith(SUFFIXES)

    def parse(self, inventory: InventoryData, loader: DataLoader, path: str, cache: bool = True) -> None:
        """Read the migrations, from the cache if it may and can be used, and make the hosts."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        key = self.get_cache_key(path)
        use_cache = self.get_option("cache") and cache
        migrations: list[dict[str, t.Any]] | None = self._cache.get(key) if use_cache else None
        if migrations is None:
            migrations = self._read_migrations()
            if self.get_option("cache"):
                self._cache[key] = migrations
        self._add_hosts(migrations)

    def _read_migrations(self) -> list[dict[str, t.Any]]:
        options = {
            name: self._templated(self.get_option(name))
            for name in ("gateway_url", "gateway_token", "gateway_ca_path", "timeout")
        }
        if options["gateway_ca_path"]:
            # Not an option of type path: that would be made absolute before the template in it is filled in.
            options["gateway_ca_path"] = unfrackpath(options["gateway_ca_path"], follow=False)
        try:
            with GatewayClient.from_options(options) as gateway:
                listed = gateway.migrations(
                    states=self.get_option("states"),
                    template=self.get_option("template"),
                    organization=self.get_option("organization"),
                )
                return [dict(migration) for migration in listed]
        except ColdmigError as error:
            raise AnsibleParserError(f"{self.NAME}: {error}") from error

    def _templated(self, value: t.Any) -> t.Any:
        return self.templar.template(value) if isinstance(value, str) else value

    def _add_hosts(self, migrations: t.Iterable[t.Mapping[str, t.Any]]) -> None:
        strict = self.get_option("strict")
        # All of them, also the empty ones: a play on a group that nobody is in says so, one on an unknown group warns.
        for group in (ALL, *(f"state_{state}" for state in STATES)):
            self.inventory.add_group(group)
        for migration in migrations:
            host = host_name(migration)
            self.inventory.add_host(host, group=ALL)
            for group in group_names(migration):
                self.inventory.add_group(group)
                self.inventory.add_child(group, host)
            variables = host_variables(migration)
            for name, value in variables.items():
                self.inventory.set_variable(host, name, value)
            self._set_composite_vars(self.get_option("compose"), variables, host, strict=strict)
            self._add_host_to_composed_groups(self.get_option("groups"), variables, host, strict=strict)
            self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, host, strict=strict)
