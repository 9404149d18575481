# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coldmig_gateway.dataplane.settings import Limits
from gateway.dataplane.front import Front


@pytest.fixture
def make_front(tmp_path: Path) -> Iterator[Callable[..., Front]]:
    fronts: list[Front] = []

    def make(limits: Limits | None = None) -> Front:
        fronts.append(Front(tmp_path, limits))
        return fronts[-1]

    yield make
    for front in fronts:
        front.stop()


@pytest.fixture
def front(make_front: Callable[..., Front]) -> Front:
    return make_front()


@pytest.fixture
def small_tmpfs(front: Front) -> Iterator[None]:
    """Puts the staging on a file system of 8 MiB."""
    front.staging.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", str(front.staging)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs takes root")
    yield
    front.stop()
    subprocess.run(["umount", str(front.staging)], check=True)
    front.start()
