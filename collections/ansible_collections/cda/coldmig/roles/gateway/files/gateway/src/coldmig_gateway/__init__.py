# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway of a cold-migration site."""
