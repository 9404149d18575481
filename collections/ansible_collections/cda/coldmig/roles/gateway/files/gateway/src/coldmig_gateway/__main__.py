# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m coldmig_gateway`` is the command ``coldmig-gateway``."""

from __future__ import annotations

from coldmig_gateway.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
