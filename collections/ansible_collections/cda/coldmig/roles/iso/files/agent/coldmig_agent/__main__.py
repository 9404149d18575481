# SPDX-License-Identifier: GPL-3.0-or-later
"""Entry point of ``python -m coldmig_agent``."""

from __future__ import annotations

import sys

from coldmig_agent.inspection import CHILD_COMMAND

if __name__ == "__main__":
    # The helper does not wait until Python has loaded what only the agent needs.
    if sys.argv[1:] == [CHILD_COMMAND]:
        from coldmig_agent.inspection import child

        sys.exit(child.main())
    from coldmig_agent import cli

    sys.exit(cli.main())
