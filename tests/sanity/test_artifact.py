# SPDX-License-Identifier: GPL-3.0-or-later
"""What `ansible-galaxy collection build` packs is complete: it works where there is no checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

COLLECTION = Path(__file__).resolve().parents[2] / "collections/ansible_collections/cda/coldmig"
BIN = Path(sys.executable).parent
LARGEST = 20 << 20
"""Bytes: what a Galaxy server takes."""
AT_RUN_TIME = {"meta", "playbooks", "plugins", "roles"}


def run(*command: Any, cwd: Path, home: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PYTHONPATH"))}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**environment, "ANSIBLE_HOME": str(home), "ANSIBLE_COLLECTIONS_PATH": str(cwd), "ANSIBLE_NOCOLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("build")
    galaxy = BIN / "ansible-galaxy"
    run(galaxy, "collection", "build", COLLECTION, "--output-path", directory, cwd=directory, home=directory / "home")
    (found,) = directory.glob("cda-coldmig-*.tar.gz")
    return found


@pytest.fixture(scope="module")
def installed(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with the collection installed, and nothing left of it but what Ansible lets it use at run time."""
    directory = tmp_path_factory.mktemp("installed")
    galaxy = BIN / "ansible-galaxy"
    run(
        galaxy,
        "collection",
        "install",
        "--offline",
        "--no-deps",
        artifact,
        "-p",
        directory,
        cwd=directory,
        home=directory / "home",
    )
    collection = directory / "ansible_collections/cda/coldmig"
    for entry in collection.iterdir():
        if entry.is_dir() and entry.name not in AT_RUN_TIME:
            subprocess.run(["rm", "-r", str(entry)], check=True)
    return directory


def test_artifact_is_small_and_holds_no_links_and_no_leftovers(artifact: Path) -> None:
    assert artifact.stat().st_size < LARGEST
    with tarfile.open(artifact) as archive:
        members = archive.getmembers()
    assert [member.name for member in members if member.issym() or member.islnk()] == []
    leftovers = ("__pycache__", ".pyc", ".iso", ".egg-info", "tests/output", ".ansible/")
    assert [member.name for member in members if any(part in member.name for part in leftovers)] == []


def test_agent_gateway_and_iso_build_are_in_it(installed: Path) -> None:
    roles = installed / "ansible_collections/cda/coldmig/roles"
    for needed in (
        "iso/files/agent/coldmig_agent/__main__.py",
        "iso/files/iso-build/__main__.py",
        "gateway/files/gateway/pyproject.toml",
        "gateway/files/gateway/src/coldmig_wire/frames.py",
        "gateway/files/gateway/src/coldmig_gateway/cli.py",
    ):
        assert (roles / needed).is_file(), needed


def test_everything_is_documented(installed: Path) -> None:
    modules = sorted(path.stem for path in (COLLECTION / "plugins/modules").glob("*.py"))
    wanted = [f"cda.coldmig.{name}" for name in modules]
    text = run(BIN / "ansible-doc", "--json", *wanted, cwd=installed, home=installed / "home")
    documents = json.loads(text)
    assert sorted(documents) == wanted
    for name, document in documents.items():
        assert document["examples"], name
        assert document["return"], name
    run(BIN / "ansible-doc", "-t", "inventory", "cda.coldmig.migrations", cwd=installed, home=installed / "home")
    for role in ("gateway", "iso", "finish"):
        assert role in run(
            BIN / "ansible-doc", "-t", "role", f"cda.coldmig.{role}", cwd=installed, home=installed / "home"
        )


@pytest.mark.parametrize("playbook", sorted(path.stem for path in (COLLECTION / "playbooks").glob("*.yml")))
def test_playbook_is_found_by_its_name(installed: Path, playbook: str) -> None:
    command = [BIN / "ansible-playbook", "--syntax-check", f"cda.coldmig.{playbook}", "-i", "localhost,"]
    run(*command, cwd=installed, home=installed / "home")


def test_every_module_is_in_the_groups_of_its_options() -> None:
    groups = yaml.safe_load((COLLECTION / "meta/runtime.yml").read_text(encoding="utf-8"))["action_groups"]
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (COLLECTION / "plugins/modules").glob("*.py")}
    for group in ("gateway", "vcenter", "vcd"):
        users = {name for name, text in texts.items() if f"{group}_options()" in text}
        documented = {name for name, text in texts.items() if f"  - cda.coldmig.{group}\n" in text}
        assert users == set(groups[group]), group
        # preflight documents the same options itself, because none of them is required there
        assert documented | {"preflight"} & users == users, group


def test_version_is_the_same_everywhere() -> None:
    galaxy = yaml.safe_load((COLLECTION / "galaxy.yml").read_text(encoding="utf-8"))
    fragments = [path.stem for path in (COLLECTION / "changelogs/fragments").glob("*.yml")]
    changelog = yaml.safe_load((COLLECTION / "changelogs/changelog.yaml").read_text(encoding="utf-8"))
    assert galaxy["version"] in {*fragments, *changelog["releases"]}
