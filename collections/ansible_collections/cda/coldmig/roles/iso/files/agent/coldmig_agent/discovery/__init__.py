# SPDX-License-Identifier: GPL-3.0-or-later
"""What this machine is: processors, memory, firmware, network interfaces, disks. Reads only."""
