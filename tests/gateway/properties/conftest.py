# SPDX-License-Identifier: GPL-3.0-or-later
"""How hard the properties are tried: always the same examples by default, ten times as many new ones by hand.

``COLDMIG_PROPERTIES=long python -m pytest tests/gateway/properties`` looks for examples that nobody saw before.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

LONG = os.environ.get("COLDMIG_PROPERTIES") == "long"

_checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile(
    "coldmig", derandomize=True, database=None, deadline=None, max_examples=100, suppress_health_check=_checks
)
settings.register_profile(
    "coldmig-long", settings.get_profile("coldmig"), derandomize=False, max_examples=1000, print_blob=True
)


settings.load_profile("coldmig-long" if LONG else "coldmig")


@pytest.fixture
def memory_directory() -> Iterator[Path]:
    """A directory whose fdatasync costs nothing: in memory where the machine has such a place."""
    shm = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="coldmig-properties-", dir=shm if os.access(shm, os.W_OK) else None))
    yield path
    shutil.rmtree(path)
