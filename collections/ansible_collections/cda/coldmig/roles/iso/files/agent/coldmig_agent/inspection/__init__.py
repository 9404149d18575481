# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks into the source's file systems without a write reaching a disk.

Each disk gets an overlay in memory; arrays, volume groups and journals are started, activated and replayed on these
only, and each file system is mounted and read by a process in a jail. The copy reads the disks themselves.
"""

#: The command that starts the server of these processes; see ``child``.
CHILD_COMMAND = "inspect"
