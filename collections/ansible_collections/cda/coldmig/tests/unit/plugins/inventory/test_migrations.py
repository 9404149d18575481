# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
import typing as t

import pytest
import yaml
from ansible_collections.cda.coldmig.plugins.inventory import migrations
from ansible_collections.cda.coldmig.plugins.module_utils._migration import STATES


def migration(**changes: t.Any) -> dict[str, t.Any]:
    return {
        "id": "8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11",
        "name": "erp-db-01",
        "organization": "acme",
        "template": {"id": "t-1", "name": "erp"},
        "state": "waiting",
        **changes,
    }


def test_host_is_named_after_the_machine_and_its_boot() -> None:
    assert migrations.host_name(migration()) == "erp-db-01-8a9df7ab"


@pytest.mark.parametrize("name", ["a,b:c[1:3]", "!all", "&x", "{{ 1 }}", "web*", "ä b"])
def test_host_has_no_character_that_a_pattern_takes_as_its_own(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", migrations.host_name(migration(name=name)))


def test_groups_are_valid_names() -> None:
    found = migrations.group_names(migration(organization="acme.org-1", template={"id": "t", "name": "e-r.p"}))
    assert found == ["state_waiting", "template_e_r_p", "organization_acme_org_1"]


def test_every_state_can_be_asked_for() -> None:
    options = yaml.safe_load(migrations.DOCUMENTATION)["options"]
    assert tuple(options["states"]["choices"]) == STATES


def test_host_runs_on_the_controller_with_this_python() -> None:
    variables = migrations.host_variables(migration())
    assert variables["ansible_connection"] == "local"
    assert variables["coldmig_template"] == "erp"
    assert variables["coldmig_migration"]["template"]["id"] == "t-1"


@pytest.mark.parametrize(
    ("path", "taken"),
    [("x.coldmig.yml", True), ("coldmig.yaml", True), ("hosts.yml", False), ("missing.coldmig.yml", False)],
)
def test_only_its_own_files_are_taken(tmp_path: t.Any, path: str, taken: bool) -> None:
    if not path.startswith("missing"):
        (tmp_path / path).write_text("plugin: cda.coldmig.migrations\n")
    assert migrations.InventoryModule().verify_file(str(tmp_path / path)) is taken
