# SPDX-License-Identifier: GPL-3.0-or-later
"""What operating system the source holds: read from its own files, over a mount that cannot write to the disk."""
