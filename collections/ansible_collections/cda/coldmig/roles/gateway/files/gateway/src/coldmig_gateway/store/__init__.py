# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gateway remembers: the database and everything that reads or changes it."""
