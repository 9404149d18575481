# SPDX-License-Identifier: GPL-3.0-or-later
"""The role ``iso`` where nothing may be changed. What it makes is molecule's subject."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_check_mode_on_a_new_build_host_succeeds_and_makes_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    role = {"name": "cda.coldmig.iso"}
    variables = {"iso_install_packages": False, "iso_cache_dir": str(cache)}
    task = {"ansible.builtin.include_role": role, "vars": variables}
    playbook = tmp_path / "check.yml"
    playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]))
    command = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run([command, "--check", playbook], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not cache.exists()
