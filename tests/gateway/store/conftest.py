# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.sitekit import SiteKit, running_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SiteKit]:
    with running_site(tmp_path) as kit:
        yield kit
