# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks, run with ansible-playbook and the example inventories, as a provider and a tenant run them."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.playbooks import BIN, Run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
COLLECTION = ROOT / "collections/ansible_collections/cda/coldmig"
INVENTORIES = COLLECTION / "playbooks/inventories"


@dataclass
class Side:
    """The provider or the tenant: its inventory and the environment with its credential."""

    inventory: Path
    environment: dict[str, str]
    directory: Path

    def play(self, playbook: str, *arguments: str, **variables: Any) -> Run:
        """Run ``cda.coldmig.<playbook>``; it must succeed unless the test looks at the status itself."""
        command = [BIN / "ansible-playbook", f"cda.coldmig.{playbook}", "-i", self.inventory, *arguments]
        return self._run([*command, "-e", json.dumps(variables)])

    def hosts(self) -> dict[str, Any]:
        """What ansible-inventory lists."""
        output = self.directory / "inventory.json"
        done = self._run([BIN / "ansible-inventory", "-i", self.inventory, "--list", "--output", output])
        assert done.status == 0, done.text
        listed: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"), object_hook=_plain)
        return listed

    def _run(self, command: list[Any]) -> Run:
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )
        return Run(done.returncode, done.stdout)


def _plain(value: dict[str, Any]) -> Any:
    """Text that must not be taken as a template is listed as ``{"__ansible_unsafe": text}``."""
    return value.get("__ansible_unsafe", value)


def make_side(name: str, site: Any, token: str, directory: Path) -> Side:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "COLDMIG_"))},
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_HOME": str(directory / "ansible"),
        # Otherwise a gateway that cannot be reached is a warning, and the play goes on without hosts.
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        "ANSIBLE_NOCOLOR": "1",
        "COLDMIG_GATEWAY_URL": site.url,
        "COLDMIG_GATEWAY_CA": str(site.ca),
        f"COLDMIG_{name.upper()}_TOKEN": token,
    }
    return Side(INVENTORIES / name, environment, directory)


@pytest.fixture
def provider(site: Any, tmp_path: Path) -> Side:
    return make_side("provider", site, site.token, tmp_path)


@pytest.fixture
def tenant(site: Any, organization: Any, tmp_path: Path) -> Side:
    return make_side("tenant", site, organization.token, tmp_path)


def test_from_activation_to_confirmation(  # noqa: PLR0917 - fixtures
    site: Any, organization: Any, provider: Side, tenant: Side, base_image: Path, tmp_path: Path
) -> None:
    organizations = sorted({*site.call("GET", "/activation")["organizations"], organization.name})
    before = site.content()
    checked = provider.play("activate", "--check", coldmig_organizations=[*organizations, "newcomer"])
    assert (checked.status, checked.changed) == (0, 1), checked.text
    assert site.content() == before
    assert provider.play("activate", coldmig_organizations=organizations).changed == 0

    templates = [
        {"name": "first", "destination": {"vdc": "vdc-1", "networks": [{"network": "lan"}]}},
        {"name": "second", "destination": {"vdc": "vdc-1"}, "auto_start": True, "skip_free": "never"},
        {
            "name": "third",
            "destination": {"vdc": "vdc-1"},
            "mode": "assess",
            "system": "windows*",
            "accept_warnings": ["tpm-sealed"],
            "hardware": {"cpus": 2},
        },
    ]
    made = tenant.play("template", coldmig_templates=templates)
    assert (made.status, made.changed) == (0, 1), made.text
    assert tenant.play("template", coldmig_templates=templates).changed == 0

    isos = [{"template": "first", "dest": str(tmp_path / "first.iso"), "max_registrations": 5}]
    built = tenant.play("iso", coldmig_isos=isos, coldmig_base_iso=str(base_image))
    assert (built.status, built.changed) == (0, 1), built.text
    assert "cm1_iso_" not in built.text
    assert tenant.play("iso", "-vvv", coldmig_isos=isos, coldmig_base_iso=str(base_image)).changed == 0

    from ansible_collections.cda.coldmig.plugins.module_utils._iso_image import read_slot

    credential = (read_slot(tmp_path / "first.iso") or {})["credential"]
    wanted, other = site.enrol(credential, "wanted"), site.enrol(credential, "other")
    first = tenant.play("confirm", coldmig_confirm=["wanted"])
    assert (first.status, first.changed) == (0, 1), first.text
    assert "this is {{ 'not' }} a template" in first.text
    states = {item: site.call("GET", f"/migrations/{item}")["state"] for item in (wanted, other)}
    assert states == {wanted: "confirmed", other: "waiting"}

    looked = tenant.play("confirm", "--check")
    assert looked.changed == 1
    assert site.call("GET", f"/migrations/{other}")["state"] == "waiting"
    assert tenant.play("confirm").changed == 1
    nothing = tenant.play("confirm")
    assert (nothing.status, nothing.changed) == (0, 0)
    assert "no hosts matched" in nothing.text

    report = tmp_path / "report.md"
    told = tenant.play("report", coldmig_report_dest=str(report))
    assert told.status == 0, told.text
    assert "| first | confirmed | 64.00 MB in 1 | 0 % |" in report.read_text()
    assert organization.token not in told.text


def test_inventory_has_a_host_per_migration(
    site: Any, organization: Any, tenant: Side, template: Any, enrol: Any
) -> None:
    migration = enrol("erp db (old)")
    listed = tenant.hosts()
    state, owner = (
        listed["state_waiting"]["hosts"],
        listed[f"organization_{organization.name}".replace("-", "_")]["hosts"],
    )
    host = f"erp-db-old-{migration[:8]}"
    assert state == owner == listed["coldmig_migrations"]["hosts"] == [host]
    assert listed["template_" + template["name"].replace("-", "_")]["hosts"] == [host]
    variables = listed["_meta"]["hostvars"][host]
    assert variables["coldmig_id"] == migration
    assert variables["ansible_connection"] == "local"
    assert variables["coldmig_migration"]["machine"]["memory_bytes"] == 1 << 30


def test_tenant_sees_only_its_own(
    site: Any, organization: Any, other_organization: Any, tenant: Side, tmp_path: Path
) -> None:
    body = {"name": "theirs", "destination": {"vdc": "v"}, "organization": other_organization.name}
    template = site.call("POST", "/templates", body)
    issued = site.call("POST", f"/templates/{template['id']}/iso-credentials", {"ttl_hours": 1})
    migration = site.enrol(issued["credential"], "theirs")
    assert "hosts" not in tenant.hosts().get("coldmig_migrations", {})
    provider = make_side("provider", site, site.token, tmp_path)
    assert f"theirs-{migration[:8]}" in provider.hosts()["coldmig_migrations"]["hosts"]


def test_inventory_with_a_bad_token_says_so(site: Any, tmp_path: Path) -> None:
    side = make_side("tenant", site, "cm1_org_" + "x" * 43, tmp_path)
    done = side.play("confirm")
    assert done.status != 0
    # Older versions of Ansible break warnings into lines of 80 columns.
    assert "401Unauthorized" in "".join(done.text.split())
    assert "x" * 43 not in done.text


def test_inventory_from_the_cache_is_as_it_was_read(site: Any, tenant: Side, enrol: Any, tmp_path: Path) -> None:
    migration = enrol("cached")
    source = tmp_path / "cached.coldmig.yml"
    source.write_text(
        "plugin: cda.coldmig.migrations\n"
        "cache: true\n"
        "cache_plugin: ansible.builtin.jsonfile\n"
        f"cache_connection: {tmp_path / 'cache'}\n"
        "keyed_groups:\n"
        "  - key: coldmig_migration.machine.guest.id\n"
        "    prefix: guest\n"
    )
    side = Side(
        source, {**tenant.environment, "COLDMIG_GATEWAY_TOKEN": tenant.environment["COLDMIG_TENANT_TOKEN"]}, tmp_path
    )
    first = side.hosts()
    assert first["guest_debian"]["hosts"] == [f"cached-{migration[:8]}"]
    site.call("POST", f"/migrations/{migration}/confirm")
    assert side.hosts() == first
    stored = "".join(path.read_text() for path in (tmp_path / "cache").iterdir())
    assert "cm1_" not in stored


def test_name_that_looks_like_a_template_stays_text(site: Any, tenant: Side, template: Any, organization: Any) -> None:
    issued = site.call("POST", f"/templates/{template['id']}/iso-credentials", {"ttl_hours": 1})
    site.enrol(issued["credential"], "evil-{{ 7 * 191 }}")
    done = tenant.play("confirm", "--check")
    assert done.status == 0, done.text
    assert "evil-{{ 7 * 191 }}" in done.text
    assert "1337" not in done.text


@pytest.mark.parametrize("playbook", ["template", "iso"])
def test_playbook_without_its_variable_says_which(tenant: Side, playbook: str) -> None:
    name = {"template": "coldmig_templates", "iso": "coldmig_isos"}[playbook]
    done = tenant.play(playbook, coldmig_base_iso="/unused", **{name: []})
    assert done.status != 0
    assert f"Set {name} to a list of" in done.text


def test_report_without_migrations_is_an_empty_table(tenant: Side) -> None:
    told = tenant.play("report")
    assert told.status == 0, told.text
    assert "| none |" in told.text


def test_limits_of_the_site(site: Any, provider: Side) -> None:
    try:
        # As people type it: what comes with -e NAME=VALUE is text.
        typed = ["-e", "coldmig_bandwidth_limit=1048576", "-e", "coldmig_max_concurrent_copies=2"]
        first = provider.play("limits", *typed)
        assert (first.status, first.changed) == (0, 1), first.text
        assert "1048576 bytes per second" in first.text
        again = provider.play("limits", coldmig_max_concurrent_copies=2)
        assert (again.status, again.changed) == (0, 0), again.text
        limits = site.call("GET", "/site/limits")
        assert (limits["bandwidth_limit"], limits["max_concurrent_copies"]) == (1 << 20, 2)
    finally:
        provider.play("limits", coldmig_bandwidth_limit=0, coldmig_max_concurrent_copies=0)
    assert site.call("GET", "/site/limits")["bandwidth_limit"] is None


def test_report_says_what_could_not_be_read(  # noqa: PLR0917 - fixtures
    site: Any, organization: Any, template: Any, tenant: Side, machine: Any, tmp_path: Path
) -> None:
    issued = site.call("POST", f"/templates/{template['id']}/iso-credentials", {"ttl_hours": 1})
    made = site.call("POST", "/enrolments", machine("rusty"), token=issued["credential"])
    lost = {"disks": [{"index": 0, "bytes": 1536, "ranges": [[0, 1536]]}]}
    site.call("POST", "/session/unreadable", lost, token=made["session_token"])
    report = tmp_path / "report.md"
    assert tenant.play("report", coldmig_report_dest=str(report)).status == 0
    assert "1.50 KB of the source could not be read: set accept_unreadable" in report.read_text()
    path = f"/migrations/{made['migration_id']}"
    site.call("PATCH", path, {"accept_unreadable": True}, token=organization.token)
    assert tenant.play("report", coldmig_report_dest=str(report)).status == 0
    assert "1.50 KB of the source could not be read (accepted)" in report.read_text()


BLOCK = {"code": "tpm-sealed", "message": "a key is sealed", "severity": "block", "action": "Add another key."}


def test_confirm_shows_what_blocks_and_what_to_do_and_fails_readably(
    site: Any, organization: Any, tenant: Side, enrol: Any
) -> None:
    known = {"code": "unclean-filesystem", "message": "disk 0 is dirty", "action": "Shut it down."}
    migration = enrol("sealed", warnings=[BLOCK, known])
    refused = tenant.play("confirm")
    assert refused.status != 0
    text = " ".join(refused.text.split())
    assert "BLOCKS: tpm-sealed: a key is sealed" in text
    assert "warning: unclean-filesystem: disk 0 is dirty" in text
    assert "is held back by warnings:" in text
    assert "accept_warnings: [tpm-sealed]" in text
    assert site.call("GET", f"/migrations/{migration}")["state"] == "waiting"
    assert tenant.play("confirm", coldmig_accept_warnings=["tpm-sealed"]).status == 0
    assert site.call("GET", f"/migrations/{migration}")["state"] == "confirmed"


def test_report_writes_each_machine_as_text_and_as_json(
    site: Any, organization: Any, tenant: Side, tmp_path: Path
) -> None:
    body = {"name": "survey", "destination": {"vdc": "v"}, "mode": "assess"}
    template = site.call("POST", "/templates", body, token=organization.token)
    issued = site.call("POST", f"/templates/{template['id']}/iso-credentials", {"ttl_hours": 1})
    ready = {"device": "pvscsi", "kind": "storage", "verdict": "ready", "evidence": ["in the {{ 'initramfs' }}"]}
    guest = {"os_type": "linux", "pretty_name": "Debian 12", "key": "disk0/1", "readiness": [ready]}
    volume = {"place": "disk 0, partition 2", "fstype": "zfs_member", "problem": "cannot be read here"}
    inspection = {"seconds": 2.5, "volumes": [volume], "writes": [{"index": 0, "ios": 0, "sectors": 0}]}
    more = {"guest": guest, "guests": [guest], "warnings": [BLOCK], "inspection": inspection, "tpm": {"version": "2.0"}}
    migration = site.enrol(issued["credential"], "looked-at", **more)
    options = {"coldmig_report_states": ["assessed"], "coldmig_report_machines_dest": str(tmp_path / "survey")}
    checked = tenant.play("report", "--check", **options)
    assert checked.status == 0, checked.text
    assert not (tmp_path / "survey").exists()
    told = tenant.play("report", **options)
    assert told.status == 0, told.text
    assert tenant.play("report", **options).changed == 0
    name = f"looked-at-{migration[:8]}"
    text = (tmp_path / "survey" / f"{name}.txt").read_text()
    for words in (
        "Its migration would be held back by: tpm-sealed",
        "Debian 12 (the VM is made for it)",
        "    pvscsi        ready    in the {{ 'initramfs' }}",
        "  block: tpm-sealed: a key is sealed\n    Add another key.",
        "TPM 2.0",
        "disk 0, partition 2, zfs_member: cannot be read here",
        "as its kernel counts: 0",
    ):
        assert words in text
    assert "pvscsi" in told.text
    document = json.loads((tmp_path / "survey" / f"{name}.json").read_text())
    assert document == site.call("GET", f"/migrations/{migration}")
    assert "| survey | assessed | 64.00 MB in 1 | - |" in told.text
