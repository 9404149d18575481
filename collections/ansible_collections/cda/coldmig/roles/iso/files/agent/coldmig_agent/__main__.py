# SPDX-License-Identifier: GPL-3.0-or-later
"""Entry point of the zipapp and of ``python -m coldmig_agent``."""

from __future__ import annotations

import sys

from coldmig_agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
