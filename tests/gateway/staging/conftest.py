# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coldmig_gateway.staging.disk import DiskStaging

MIGRATION = "0d0f3c6e-4b1a-4f7e-9a55-0a1b2c3d4e5f"

Opener = Callable[..., DiskStaging]


@pytest.fixture
def open_staging(tmp_path: Path) -> Iterator[Opener]:
    """Opens a disk's staging below the test's directory; whatever is still open is closed at the end."""
    opened: list[DiskStaging] = []

    def opener(size_bytes: int, disk: int = 0, root: Path = tmp_path) -> DiskStaging:
        staging = DiskStaging(root, MIGRATION, disk, size_bytes)
        opened.append(staging)
        original = staging.close

        def close() -> None:
            opened.remove(staging)
            original()

        staging.close = close  # type: ignore[method-assign]
        return staging

    yield opener
    for staging in tuple(opened):
        staging.close()


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    return tmp_path / MIGRATION / "disk-0.pack"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / MIGRATION / "disk-0.index"
