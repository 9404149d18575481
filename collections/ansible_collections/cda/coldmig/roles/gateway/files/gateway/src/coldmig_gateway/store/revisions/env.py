# SPDX-License-Identifier: GPL-3.0-or-later
"""Run by Alembic: applies revisions on the connection that ``schema.upgrade`` hands over."""

from __future__ import annotations

from alembic import context

from coldmig_gateway.store.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter most of a table in place
)
with context.begin_transaction():
    context.run_migrations()
