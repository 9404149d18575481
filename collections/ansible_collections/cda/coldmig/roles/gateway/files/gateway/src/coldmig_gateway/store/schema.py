# SPDX-License-Identifier: GPL-3.0-or-later
"""The version of the database's schema: bringing it up to date, and refusing one that is newer than this program."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from coldmig_gateway.store.database import Database
from coldmig_gateway.store.errors import SchemaError


def upgrade(database: Database, revision: str = "head") -> bool:
    """Make the tables or bring them up to date, in one transaction; says whether there was something to do.

    Raises:
        SchemaError: a newer gateway has been at work on this database.
    """
    with database.writer.begin() as connection:
        current = _current(connection)
        known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
        if current is not None and current not in known:
            raise SchemaError(
                f"The database has schema {current!r}, which this version of the gateway does not know: "
                "a newer version has used it. Install that version again, or restore the backup made before it."
            )
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        return _current(connection) != current


def require_current(database: Database) -> None:
    """Raise SchemaError unless the schema is exactly the one this program was made for."""
    with database.engine.connect() as connection:
        current = _current(connection)
    if current != ScriptDirectory.from_config(_config()).get_current_head():
        raise SchemaError("The database has not been set up by this version; run 'coldmig-gateway init' first.")


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "coldmig_gateway.store:revisions")
    return config
