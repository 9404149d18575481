# SPDX-License-Identifier: GPL-3.0-or-later
"""What a source machine does when its migration has ended, and the logs of its agent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    for table in ("templates", "migrations"):
        op.add_column(table, sa.Column("at_end", sa.JSON(), nullable=False, server_default=sa.text("'{}'")))
        op.add_column(table, sa.Column("collect_logs", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "agent_logs",
        sa.Column("migration_id", sa.String(length=36), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["migration_id"],
            ["migrations.id"],
            name=op.f("fk_agent_logs_migration_id_migrations"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("migration_id", name=op.f("pk_agent_logs")),
    )
