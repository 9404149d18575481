# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a copy cannot be done."""

from __future__ import annotations


class CopyError(RuntimeError):
    """The copy cannot be done: ``reason`` is a short code for the site, the text says what happened."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
