# SPDX-License-Identifier: GPL-3.0-or-later
"""A key per boot, so that repeating a registration whose answer was lost makes no second migration."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("migrations", sa.Column("enrolment_key", sa.String(length=64), nullable=True))
    op.create_index(
        "uq_migrations_credential_id_enrolment_key", "migrations", ["credential_id", "enrolment_key"], unique=True
    )
