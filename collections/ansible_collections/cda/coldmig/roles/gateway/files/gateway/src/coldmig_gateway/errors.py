# SPDX-License-Identifier: GPL-3.0-or-later
"""The base of the errors that the command line tells in one line."""

from __future__ import annotations


class GatewayError(Exception):
    """Something expected went wrong; the text says what, and what would be right."""
