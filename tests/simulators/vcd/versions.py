# SPDX-License-Identifier: GPL-3.0-or-later
"""API versions that the simulated VCD can serve; which of them it does is a setting."""

from __future__ import annotations

VERSIONS: tuple[tuple[int, int], ...] = (
    (36, 0), (36, 1), (36, 2), (36, 3), (37, 0), (37, 1), (37, 2), (37, 3), (38, 0), (38, 1), (39, 0), (39, 1),
)  # fmt: skip
