# SPDX-License-Identifier: GPL-3.0-or-later
"""Claims of runners, how long staging is kept after success, what was checked at the destination."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("migrations", sa.Column("run", sa.String(length=200), nullable=True))
    op.add_column("migrations", sa.Column("run_holder", sa.String(length=64), nullable=True))
    for name in ("run_since", "run_until", "keep_staging_until"):
        op.add_column("migrations", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.add_column("migrations", sa.Column("checks", sa.JSON(), nullable=False, server_default=sa.text("'{}'")))
