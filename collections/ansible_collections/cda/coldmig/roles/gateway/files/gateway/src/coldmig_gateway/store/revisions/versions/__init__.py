# SPDX-License-Identifier: GPL-3.0-or-later
"""Schema migrations (Alembic)."""
