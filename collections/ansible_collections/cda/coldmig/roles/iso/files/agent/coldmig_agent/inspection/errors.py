# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong while looking into disks; none of it may stop a migration."""

from __future__ import annotations


class InspectionError(RuntimeError):
    """Something could not be put together or read; the text says what and why."""


class OutOfTimeError(InspectionError):
    """The time of the inspection is over."""
