# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot loaders' menus: which kernel and initramfs a system starts with."""
