# SPDX-License-Identifier: GPL-3.0-or-later
"""``python3 iso-build build --output FILE``: build the base ISO."""

from __future__ import annotations

import sys

from coldmig_iso.cli import main

sys.exit(main())
