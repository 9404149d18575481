# SPDX-License-Identifier: GPL-3.0-or-later
"""A real gateway, real agents and what lies between them, for every suite that needs them."""
