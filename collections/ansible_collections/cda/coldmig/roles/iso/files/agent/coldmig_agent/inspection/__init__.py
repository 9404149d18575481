# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks into the source's file systems without a write reaching a disk.

Each disk gets an overlay in memory; arrays, volume groups and journals are started, activated and replayed on these
only, and each file system is mounted and read by a process in a jail. The copy reads the disks themselves.
"""

from coldmig_agent.inspection.child import COMMAND as CHILD_COMMAND
from coldmig_agent.inspection.child import main as child_main
from coldmig_agent.inspection.limits import Limits, read_limits
from coldmig_agent.inspection.look import Look, inspect

__all__ = ["CHILD_COMMAND", "Limits", "Look", "child_main", "inspect", "read_limits"]
