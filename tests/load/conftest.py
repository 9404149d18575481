# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.memory_disk import huge_memory_disk
from support.processes import SupportError


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory in memory, so that the load is not the disk's, on a file system as large as a site's should be."""
    try:
        disk = huge_memory_disk()
        path = disk.__enter__()
    except SupportError as error:
        pytest.skip(str(error))
    yield path
    disk.__exit__(None, None, None)
