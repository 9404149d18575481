# SPDX-License-Identifier: GPL-3.0-or-later
"""Disk images in VMware's formats."""
