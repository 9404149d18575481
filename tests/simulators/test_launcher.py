# SPDX-License-Identifier: GPL-3.0-or-later
"""The launcher's command line: the state file, and that nothing is left when it ends."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from simulators import run as launcher
from simulators.scenario import load
from simulators.vcenter.build import BuildError, build

from .conftest import wait_until


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(autouse=True)
def _built() -> None:
    try:
        build()
    except BuildError as error:
        pytest.skip(f"the vCenter simulator cannot be built: {error}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_command_line_serves_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    state_file = tmp_path / "state.json"
    process = subprocess.Popen(
        [sys.executable, str(Path(launcher.__file__)), "--state", str(state_file), "--folder", str(tmp_path / "site")],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(state_file.exists, 60)
        state = json.loads(state_file.read_text())
        assert stat.S_IMODE(state_file.stat().st_mode) == 0o600
        versions = requests.get(f"{state['vcd']['url']}/api/versions", verify=state["ca"], timeout=10)
        about = requests.get(f"{state['vcenter']['url']}/sdk/vimServiceVersions.xml", verify=state["ca"], timeout=10)
        assert (versions.status_code, about.status_code) == (200, 200)
        pids = [state["vcenter"]["pid"], state["vcd"]["pid"]]
        assert all(_alive(pid) for pid in pids)
        process.send_signal(number)
        process.wait(30)
        wait_until(lambda: not any(_alive(pid) for pid in pids))
        assert state_file.exists() == (number == signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


def test_control_needs_its_token(site: launcher.Site) -> None:
    for part in ("vcenter", "vcd"):
        answer = requests.get(f"{site.state[part]['url']}/__sim/vms", verify=str(site.ca), timeout=10)
        assert answer.status_code == 403


def test_scenario_gives_the_same_ids_and_other_passwords() -> None:
    first, second = (load()["vcd"]["organizations"]["acme"] for _ in range(2))
    assert first["id"] == second["id"]
    assert first["vdcs"]["acme-production"]["id"] == second["vdcs"]["acme-production"]["id"]
    assert first["users"]["acme-admin"]["password"] != second["users"]["acme-admin"]["password"]


def test_scenario_with_an_unknown_pool_is_refused(tmp_path: Path) -> None:
    text = Path(launcher.scenarios.DEFAULT).read_text().replace("resource_pool: acme-lab", "resource_pool: nowhere")
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="acme-lab: resource_pool must be one of"):
        load(path)
