# SPDX-License-Identifier: GPL-3.0-or-later
"""Assessments, the choice of a system, warnings that hold a migration back, virtual hardware that was asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Machines that registered before had no warnings that hold them back."""
    for table in ("templates", "migrations"):
        op.add_column(
            table, sa.Column("mode", sa.String(length=8), nullable=False, server_default=sa.text("'migrate'"))
        )
        op.add_column(table, sa.Column("system", sa.String(length=256), nullable=True))
        op.add_column(table, _json("accept_warnings", "[]"))
        op.add_column(table, _json("hardware", "{}"))
    op.add_column("migrations", _json("blocked", "[]"))


def _json(name: str, default: str) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=False, server_default=sa.text(f"'{default}'"))
