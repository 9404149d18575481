# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook ``cda.coldmig.finish`` with the inventory plugin, as a provider's CI runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from simulators.run import Site

from .conftest import ROOT, Gateway, Stage, Staged, assert_same_content, vapps_of, vms_of

BIN = Path(sys.executable).parent


@dataclass
class Run:
    """A finished ansible-playbook."""

    status: int
    text: str

    @property
    def changed(self) -> int:
        """How many tasks changed something, on all hosts."""
        return sum(int(count) for count in re.findall(r"changed=(\d+)", self.text))


@dataclass
class Provider:
    """The provider's CI: inventory, variables and, in the environment, credentials."""

    folder: Path
    environment: dict[str, str]
    variables: dict[str, Any]

    def finish(self, *migrations: Staged, arguments: tuple[str, ...] = (), **variables: Any) -> Run:
        """Run the playbook for these migrations alone, as others of this test session may be due as well."""
        target = ",".join(f"{migration.name}-{migration.id[:8]}" for migration in migrations)
        given = {**self.variables, **({"coldmig_target": target} if target else {}), **variables}
        done = subprocess.run(
            [
                BIN / "ansible-playbook",
                "cda.coldmig.finish",
                "-i",
                "i.coldmig.yml",
                *arguments,
                "-e",
                json.dumps(given),
            ],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )
        return Run(done.returncode, done.stdout)


@pytest.fixture
def provider(site: Site, gateway: Gateway, tmp_path: Path) -> Provider:
    (tmp_path / "i.coldmig.yml").write_text("plugin: cda.coldmig.migrations\n")
    vcenter, vcd = site.state["vcenter"], site.state["vcd"]
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_CONFIG": str(tmp_path / "none.cfg"),
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "COLDMIG_GATEWAY_URL": gateway.url,
        "COLDMIG_GATEWAY_TOKEN": gateway.token,
        "COLDMIG_GATEWAY_CA": str(gateway.ca),
        "VMWARE_PASSWORD": vcenter["password"],
        "VCD_PASSWORD": vcd["users"]["administrator"]["password"],
    }
    (tmp_path / "none.cfg").write_text("[defaults]\n")
    variables = {
        "finish_vcenter_hostname": vcenter["host"],
        "finish_vcenter_port": vcenter["port"],
        "finish_vcenter_username": vcenter["username"],
        "finish_vcenter_ca_path": str(site.ca),
        "finish_datacenter": vcenter["datacenter"],
        "finish_cluster": vcenter["cluster"],
        "finish_resource_pool": "coldmig-staging",
        "finish_folder": "coldmig-staging",
        "finish_datastore": vcenter["datastore"],
        "finish_vcd_url": vcd["url"],
        "finish_vcd_user": "administrator",
        "finish_vcd_ca_path": str(site.ca),
    }
    return Provider(tmp_path, environment, variables)


def test_due_migration_becomes_a_vm_and_the_second_run_changes_nothing(
    site: Site, gateway: Gateway, stage: Stage, provider: Provider
) -> None:
    migration = stage(sizes=(5, 2), power_on=True)
    first = provider.finish(migration)
    assert first.status == 0, first.text
    assert first.changed == 2, first.text
    assert f"finished  {migration.name}: VM {migration.name}" in first.text
    assert gateway.migration(migration.id)["state"] == "finished"
    (vm,) = vms_of(site, migration.id)
    assert vm["power"] == "poweredOn"
    for disk, source in zip(site.vcenter.disks_of(vm["id"]), migration.disks, strict=True):
        assert_same_content(disk, source)
    leases = len(site.vcenter.events("lease-created"))
    second = provider.finish(migration)
    assert second.status == 0, second.text
    assert second.changed == 0, second.text
    assert "Nothing was due." in second.text
    assert len(site.vcenter.events("lease-created")) == leases


def test_check_mode_writes_nothing(site: Site, gateway: Gateway, stage: Stage, provider: Provider) -> None:
    migration = stage(sizes=(2,))
    audit = gateway.events(migration.id)
    run = provider.finish(migration, arguments=("--check", "--diff"))
    assert run.status == 0, run.text
    assert gateway.events(migration.id) == audit
    assert vms_of(site, migration.id) == []
    assert vapps_of(site, migration.name) == []


def test_error_concerns_its_migration_alone_and_the_run_fails_at_its_end(
    site: Site, gateway: Gateway, stage: Stage, provider: Provider
) -> None:
    wrong, right = stage(destination={"vdc": "acme-prod"}, sizes=(1,)), stage(sizes=(2,))
    run = provider.finish(wrong, right)
    assert run.status != 0
    assert f"FAILED    {wrong.name}" in run.text
    assert "organization 'acme' has no VDC 'acme-prod'; there are 'acme-lab', 'acme-production'" in run.text
    assert gateway.migration(right.id)["state"] == "finished"
    # nothing was begun, so the tenant can still correct it, and the next run goes through
    assert gateway.migration(wrong.id)["state"] == "copied"
    assert vms_of(site, wrong.id) == []
    destination = {"vdc": "acme-production", "networks": []}
    gateway.call("PATCH", f"/migrations/{wrong.id}", {"destination": destination})
    again = provider.finish(wrong, right)
    assert again.status == 0, again.text
    assert gateway.migration(wrong.id)["state"] == "finished"


def test_unreadable_sectors_wait_for_their_owner_and_fail_nothing(
    site: Site, gateway: Gateway, stage: Stage, provider: Provider
) -> None:
    rusty, sound = stage(sizes=(2,), unreadable=(1,)), stage(sizes=(1,))
    first = provider.finish(rusty, sound)
    assert first.status == 0, first.text
    assert f"WAITS     {rusty.name}: sectors of the source could not be read" in first.text
    assert "1 of 2 chunks" in first.text
    assert "accept_unreadable" in first.text
    assert (gateway.migration(rusty.id)["state"], gateway.migration(sound.id)["state"]) == ("copied", "finished")
    assert vms_of(site, rusty.id) == []
    gateway.call("PATCH", f"/migrations/{rusty.id}", {"accept_unreadable": True})
    second = provider.finish(rusty)
    assert second.status == 0, second.text
    assert gateway.migration(rusty.id)["state"] == "finished"


def test_interrupted_import_is_resumed(site: Site, gateway: Gateway, stage: Stage, provider: Provider) -> None:
    migration = stage(sizes=(3,))
    site.vcenter.faults(drop_upload_after=100_000, drop_upload_times=1)
    first = provider.finish(migration)
    assert first.status != 0
    assert gateway.migration(migration.id)["state"] == "importing"
    assert vms_of(site, migration.id) == []
    second = provider.finish(migration)
    assert second.status == 0, second.text
    assert gateway.migration(migration.id)["state"] == "finished"


def test_secrets_are_in_no_output(site: Site, stage: Stage, provider: Provider) -> None:
    migration = stage(sizes=(1,))
    run = provider.finish(migration, arguments=("-vvv", "--diff"))
    assert run.status == 0, run.text
    secrets = [
        provider.environment["COLDMIG_GATEWAY_TOKEN"],
        provider.environment["VMWARE_PASSWORD"],
        provider.environment["VCD_PASSWORD"],
    ]
    assert [secret for secret in secrets if secret in run.text] == []


def test_missing_variable_is_named(stage: Stage, provider: Provider, untouched: Staged) -> None:
    provider.variables.pop("finish_datastore")
    run = provider.finish(untouched)
    assert run.status != 0
    assert "missing required arguments: finish_datastore" in run.text
