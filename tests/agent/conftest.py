# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the agent's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.gateway import Gateway

sys.path.insert(0, str(Path(__file__).parent / "support"))

GUEST_DATA = Path(__file__).resolve().parents[3] / "shared/guest-data"


@pytest.fixture
def guest_data() -> Path:
    """Real data of other machines, which is not part of the project."""
    if not GUEST_DATA.is_dir():
        pytest.skip("shared/guest-data is not beside the checkout")
    return GUEST_DATA


def _loop_works() -> bool:
    if os.geteuid() != 0:
        return False
    found = subprocess.run(["losetup", "--find"], capture_output=True, check=False)
    return found.returncode == 0


@pytest.fixture
def loop_devices() -> None:
    """Loop devices and mounts: root only."""
    if not _loop_works():
        pytest.skip("needs root and loop devices")


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A real gateway, activated, for all tests of the session."""
    with Gateway(tmp_path_factory.mktemp("site")).init().start() as site:
        site.activate()
        yield site


@pytest.fixture
def own_gateway(tmp_path: Path) -> Iterator[Gateway]:
    """A real gateway that the test may kill, not yet started and not activated."""
    with Gateway(tmp_path / "site").init() as site:
        yield site
