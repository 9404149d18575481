# SPDX-License-Identifier: GPL-3.0-or-later
"""Time as the gateway keeps it: always UTC, always aware."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The present moment in UTC."""
    return datetime.now(UTC)
