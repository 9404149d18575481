# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows on a mounted volume: its registry, what it is, and what it can boot on. Nothing is written."""
