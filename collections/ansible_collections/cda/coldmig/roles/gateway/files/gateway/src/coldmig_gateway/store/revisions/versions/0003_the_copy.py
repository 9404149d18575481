# SPDX-License-Identifier: GPL-3.0-or-later
"""Free space, reuse of earlier attempts, limits of the site, unreadable sectors, Merkle roots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "site_limits",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("bandwidth_limit", sa.BigInteger(), nullable=True),
        sa.Column("max_concurrent_copies", sa.BigInteger(), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("changed_by", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_site_limits"),
    )
    _skip_free("templates")
    op.add_column("templates", sa.Column("bandwidth_limit", sa.BigInteger(), nullable=True))
    _migrations()
    _disks()


def _skip_free(table: str) -> None:
    column = sa.Column("skip_free", sa.String(length=8), nullable=False, server_default=sa.text("'auto'"))
    op.add_column(table, column)


def _migrations() -> None:
    _skip_free("migrations")
    op.add_column("migrations", sa.Column("accept_unreadable", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("migrations", sa.Column("machine_uuid", sa.String(length=36), nullable=True))
    op.add_column("migrations", sa.Column("reserved_bytes", sa.BigInteger(), nullable=True))
    op.add_column("migrations", sa.Column("superseded_by", sa.String(length=36), nullable=True))
    for name in ("last_seen_at", "confirmed_at", "ended_at", "staging_removed_at"):
        op.add_column("migrations", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_migrations_machine", "migrations", ["machine_uuid", "template_id"])
    # What is under way keeps its place in the order and its room; what has ended is kept from now on as others are.
    op.execute("UPDATE migrations SET confirmed_at = updated_at WHERE state IN ('confirmed', 'copying')")
    op.execute("UPDATE migrations SET ended_at = updated_at WHERE state IN ('finished', 'failed', 'canceled')")
    op.execute(
        "UPDATE migrations SET reserved_bytes = (SELECT SUM(size_bytes + chunks * 192 + 8192) FROM disks"
        " WHERE disks.migration_id = migrations.id) WHERE state IN ('confirmed', 'copying')"
    )
    _find_machines()


def _find_machines() -> None:
    rows = sa.table("migrations", sa.column("id"), sa.column("machine", sa.JSON()), sa.column("machine_uuid"))
    connection = op.get_bind()
    for identifier, machine in connection.execute(sa.select(rows.c.id, rows.c.machine)).all():
        if found := machine.get("smbios_uuid"):
            change = sa.update(rows).where(rows.c.id == identifier).values(machine_uuid=str(found).lower())
            connection.execute(change)


def _disks() -> None:
    op.add_column("disks", sa.Column("used_bytes", sa.BigInteger(), nullable=True))
    for name in ("earlier", "unreadable_ranges"):
        op.add_column("disks", sa.Column(name, sa.JSON(), nullable=False, server_default=sa.text("'[]'")))
    op.add_column("disks", sa.Column("unreadable_bytes", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.add_column("disks", sa.Column("unreadable_chunks", sa.BigInteger(), nullable=True))
    op.add_column("disks", sa.Column("merkle_root", sa.String(length=64), nullable=True))
    # The digest of before cannot be turned into a root; the audit trail keeps it.
    op.drop_column("disks", "digest")
