# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from coldmig_agent.copying.budget import Budget, budget
from coldmig_agent.copying.walker import EXTENT


@pytest.mark.parametrize(
    ("available_mib", "expected"),
    [
        (4096, Budget(64, 32 << 20)),
        (288, Budget(64, 32 << 20)),
        (180, Budget(40, 20 << 20)),
        (90, Budget(20, 10 << 20)),
        (10, Budget(16, 8 << 20)),
    ],
)
def test_a_copy_takes_a_third_of_what_is_there_within_bounds(
    tmp_path: Path, available_mib: int, expected: Budget
) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal:  9999999 kB\nMemAvailable:   {available_mib << 10} kB\n")
    assert budget(tmp_path) == expected


def test_a_kernel_that_does_not_say_is_no_reason_to_be_slow(tmp_path: Path) -> None:
    assert budget(tmp_path) == Budget(64, 32 << 20)


def test_the_least_budget_lets_every_extent_be_read(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 0 kB\n")
    assert budget(tmp_path).chunks >= 2 * EXTENT
