# SPDX-License-Identifier: GPL-3.0-or-later
"""The version of the gateway, stated once (the distribution reads it from here)."""

from __future__ import annotations

VERSION = "0.1.0"
