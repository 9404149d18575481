# SPDX-License-Identifier: GPL-3.0-or-later
"""The executable: the same bytes from the same sources, and it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from agent_lab import Authority

from support.agent import iso_settings
from support.images import sha256

AGENT = Path(__file__).resolve().parents[2] / "agent"


def build(output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(AGENT / "build.py"), str(output), *options], capture_output=True, text=True, check=False
    )


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    assert build(tmp_path / "a").returncode == 0
    os.utime(AGENT / "coldmig_agent/__init__.py")
    assert build(tmp_path / "b").returncode == 0
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")


def test_it_holds_both_packages_and_is_executable(tmp_path: Path) -> None:
    build(tmp_path / "coldmig-agent")
    names = zipfile.ZipFile(tmp_path / "coldmig-agent").namelist()
    assert {"__main__.py", "coldmig_agent/cli.py", "coldmig_agent/discovery/disks.py", "coldmig_wire/frames.py"} <= set(
        names
    )
    assert {f"{name}c" for name in names if name.endswith(".py")} == {name for name in names if name.endswith(".pyc")}
    assert names == sorted(names)
    assert os.access(tmp_path / "coldmig-agent", os.X_OK)


def test_it_runs_from_its_byte_code(tmp_path: Path) -> None:
    build(tmp_path / "coldmig-agent")
    bare = tmp_path / "byte-code-only"
    with zipfile.ZipFile(tmp_path / "coldmig-agent") as whole, zipfile.ZipFile(bare, "w") as archive:
        for name in whole.namelist():
            if name.endswith(".pyc"):
                archive.writestr(name, whole.read(name))
    done = subprocess.run([sys.executable, str(bare), "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_wrong_place_for_the_wire_package_is_named(tmp_path: Path) -> None:
    done = build(tmp_path / "x", "--wire", str(tmp_path))
    assert done.returncode == 1
    assert "coldmig_wire" in done.stderr
    assert not (tmp_path / "x").exists()


def test_the_executable_writes_the_network_settings(tmp_path: Path) -> None:
    build(tmp_path / "coldmig-agent")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(iso_settings("https://site.example", Authority.create().pem)))
    command = [sys.executable, str(tmp_path / "coldmig-agent"), "network", "--config", str(config)]
    output = tmp_path / "run/systemd/network"
    done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in output.iterdir()] == ["80-coldmig-dhcp.network"]
    config.write_text("{}")
    done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "format" in done.stderr
