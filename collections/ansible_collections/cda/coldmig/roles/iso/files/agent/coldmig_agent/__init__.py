# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent of cold migration: runs on the live ISO, describes the machine, copies its disks read-only to the site."""

from __future__ import annotations

__version__ = "0.1.0"
