# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coldmig_gateway import cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command with the settings in the test's directory; gives exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["--config", str(tmp_path / "gateway.toml"), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def site(run: Run, tmp_path: Path) -> Path:
    """A site that ``init`` has made; gives its state directory."""
    code, _, _ = run("init", "--state-dir", str(tmp_path / "state"), "--name", "localhost", "--name", "127.0.0.1")
    assert code == 0
    return tmp_path / "state"
