# SPDX-License-Identifier: GPL-3.0-or-later
"""Logins, keyboard, time zone and banner: the files in the live system, and what the SSH server is started with."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from agent_lab import Authority

from coldmig_agent import cli, livesetup
from coldmig_agent.config import Config, parse_document
from support.agent import iso_settings
from support.processes import COLLECTION

CA = Authority.create().pem
HASH = "$6$saltsalt$" + "h" * 86
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJvYmJvYmJvYmJvYmJvYmJvYmJvYmJvYmJvYmJvYmJv me@example"
SHADOW = "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n"
LIVE = COLLECTION / "roles/iso/files/iso-build/live"


def config(**more: Any) -> Config:
    return parse_document(iso_settings("https://site.example:8443", CA, **more))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/shadow").write_text(SHADOW)
    (tmp_path / "usr/share/zoneinfo/Europe").mkdir(parents=True)
    (tmp_path / "usr/share/zoneinfo/Europe/Berlin").touch()
    return tmp_path


def written(root: Path) -> set[str]:
    before = {"etc/shadow", "usr/share/zoneinfo/Europe/Berlin"}
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or path.is_file()}
    return found - before


def test_nobody_may_log_in_and_nothing_is_written_unless_the_settings_say_so(root: Path) -> None:
    assert livesetup.apply(config(), root) == []
    assert written(root) == set()
    assert (root / "etc/shadow").read_text() == SHADOW


def test_a_password_is_roots_alone_and_its_file_stays_closed(root: Path) -> None:
    assert livesetup.apply(config(access={"root_password_hash": HASH}), root) == []
    lines = (root / "etc/shadow").read_text().splitlines()
    assert lines == [f"root:{HASH}:19000:0:99999:7:::", "daemon:*:19000:0:99999:7:::"]
    assert (root / "etc/shadow").stat().st_mode & 0o777 == 0o600
    assert (root / livesetup.SSH_SETTINGS).read_text() == "COLDMIG_SSH_OPTIONS=\n"


def test_keys_let_in_and_passwords_do_not_without_a_hash(root: Path) -> None:
    assert livesetup.apply(config(access={"ssh_keys": [KEY]}, banner="Hands off"), root) == []
    keys = root / "root/.ssh/authorized_keys"
    assert keys.read_text() == KEY + "\n"
    assert [path.stat().st_mode & 0o777 for path in (keys, keys.parent)] == [0o600, 0o700]
    assert (root / "etc/shadow").read_text() == SHADOW
    assert (root / livesetup.SSH_SETTINGS).read_text() == "COLDMIG_SSH_OPTIONS=-s -b /run/coldmig/banner\n"
    assert (root / livesetup.BANNER).read_text() == "Hands off\n"


def test_a_shadow_without_root_gets_it() -> None:
    assert livesetup.shadow_with("daemon:*:1\n", HASH) == f"root:{HASH}:::::::\ndaemon:*:1\n"


def test_what_is_there_is_replaced_and_the_umask_changes_no_mode(root: Path) -> None:
    (root / "etc/localtime").symlink_to("/usr/share/zoneinfo/Etc/UTC")
    mask = os.umask(0o077)
    try:
        assert livesetup.apply(config(time={"zone": "Europe/Berlin"}, banner="x"), root) == []
    finally:
        os.umask(mask)
    assert str((root / "etc/localtime").readlink()) == "/usr/share/zoneinfo/Europe/Berlin"
    assert (root / livesetup.BANNER).stat().st_mode & 0o777 == 0o644


def test_a_time_zone_that_the_image_lacks_is_said_and_the_rest_is_done(root: Path) -> None:
    assert livesetup.apply(config(time={"zone": "Europe/Berlin"}), root) == []
    assert str((root / "etc/localtime").readlink()) == "/usr/share/zoneinfo/Europe/Berlin"
    problems = livesetup.apply(config(time={"zone": "Europe/Atlantis"}, banner="x"), root)
    assert problems == ["time zone Europe/Atlantis: the live system does not know it; times are UTC"]
    assert (root / livesetup.BANNER).read_text() == "x\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 0", []),
        ("echo cannot open file xx >&2; exit 1", ["keyboard xx: cannot open file xx"]),
        ("exit 3", ["keyboard xx: status 3"]),
    ],
)
def test_a_keymap_is_loaded_and_a_failure_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: list[str]
) -> None:
    tool = root / "bin/loadkeys"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >{root}/arguments\n{script}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    assert livesetup.apply(config(keyboard="xx"), root) == said
    assert (root / "arguments").read_text().split()[-1] == "xx"


def test_what_went_wrong_early_is_kept_for_the_agent(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(iso_settings("https://site.example", CA, time={"zone": "Europe/Atlantis"})))
    words = ["network", "--config", str(path), "--output", str(tmp_path / "net"), "--root", str(root)]
    assert cli.main(words) == 0
    (problem,) = livesetup.noted_problems(root)
    assert "Atlantis" in problem
    assert [path.name for path in (tmp_path / "net").iterdir()] == ["80-coldmig-dhcp.network"]


@pytest.mark.parametrize(("shadow", "asks"), [(f"root:{HASH}:1::::::\n", True), (SHADOW, False)])
def test_the_shell_at_the_console_asks_for_a_password_where_there_is_one(
    tmp_path: Path, shadow: str, asks: bool
) -> None:
    (tmp_path / "shadow").write_text(shadow)
    (tmp_path / "sulogin").write_text("#!/bin/sh\necho password please\n")
    (tmp_path / "sulogin").chmod(0o755)
    done = subprocess.run(
        [LIVE / "usr/lib/coldmig/shell", tmp_path / "shadow"],
        input="echo a shell; exit\n", capture_output=True, text=True, check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.strip() == ("password please" if asks else "a shell")


def test_the_units_are_sound() -> None:
    units = [LIVE / f"etc/systemd/system/coldmig-{name}.service" for name in ("network", "ssh", "shell")]
    for unit in units:
        text = unit.read_text()
        assert "\nExecStart=/usr/" in text
    ssh = units[1].read_text()
    assert f"ConditionPathExists=/{livesetup.SSH_SETTINGS}" in ssh
    assert f"EnvironmentFile=/{livesetup.SSH_SETTINGS}" in ssh
