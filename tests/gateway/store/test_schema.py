# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from coldmig_gateway.api import views
from coldmig_gateway.store import migrations, schema
from coldmig_gateway.store.database import Database
from coldmig_gateway.store.errors import SchemaError
from coldmig_gateway.store.models import Base


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'gateway.db'}")
    yield made
    made.close()


ROWS = """
INSERT INTO templates VALUES ('t', 'linux', 'acme', '', '{"vdc": "v", "networks": []}', 0, 0, '{name}', NULL, NULL,
  NULL, '2030-01-01 00:00:00.000000', 'x', '2030-01-01 00:00:00.000000', NULL);
INSERT INTO iso_credentials (id, template_id, description, digest, created_at, created_by, expires_at, uses)
  VALUES ('c', 't', '', 'd', '2030-01-01 00:00:00.000000', 'x', '2031-01-01 00:00:00.000000', 1);
INSERT INTO migrations (id, name, organization, template_id, credential_id, session_digest, state, created_at,
  updated_at, machine, destination, power_on) VALUES ('m', 'db-1', 'acme', 't', 'c', 's', 'copying',
  '2030-01-01 00:00:00.000000', '2030-01-01 00:00:00.000000', '{"name": "db-1", "smbios_uuid": "4C4C"}',
  '{"vdc": "v", "networks": []}', 1);
INSERT INTO disks (migration_id, "index", size_bytes, chunks, path, verified) VALUES ('m', 0, 1048576, 1, '/dev/sda', 0)
"""


def test_the_first_schema_is_brought_up_to_date_and_keeps_its_rows(database: Database) -> None:
    schema.upgrade(database, "0001")
    with database.write() as session:
        for statement in ROWS.split(";\n"):
            session.execute(text(statement))
    with pytest.raises(SchemaError, match="init"):
        schema.require_current(database)
    schema.upgrade(database)
    schema.require_current(database)
    with database.read() as session:
        row = migrations.get(session, "acme", "m")
        assert (row.name, row.state, row.enrolment_key) == ("db-1", "copying", None)
        assert [disk.size_bytes for disk in row.disks] == [1 << 20]
        # What is under way keeps its place and its room, and its machine is known again when it boots.
        assert (row.confirmed_at, row.reserved_bytes, row.machine_uuid) == (row.updated_at, (1 << 20) + 8384, "4c4c")
        assert (row.skip_free, row.template.skip_free, row.accept_unreadable, row.ended_at) == (
            ("auto", "auto", False, None)
        )
        assert [(disk.earlier, disk.unreadable_ranges, disk.unreadable_bytes) for disk in row.disks] == [([], [], 0)]
        # What began before there were assessments is a migration that nothing holds back.
        for thing in (row, row.template):
            assert (thing.mode, thing.system, thing.accept_warnings, thing.hardware) == ("migrate", None, [], {})
        assert row.blocked == []
        assert [(thing.at_end, thing.collect_logs) for thing in (row, row.template)] == [({}, False)] * 2


def test_what_a_machine_said_before_there_were_severities_is_still_told(database: Database) -> None:
    schema.upgrade(database, "0003")
    said = {"name": "db-1", "guest": {"os_type": "linux"}, "warnings": [{"code": "tpm", "message": "a TPM"}]}
    with database.write() as session:
        session.execute(
            text(
                "INSERT INTO templates (id, name, organization, description, destination, auto_start, power_on,"
                " name_pattern, created_at, created_by, updated_at) VALUES ('t', 'linux', 'acme', '',"
                " '{\"vdc\": \"v\"}', 0, 0, '{name}', '2030-01-01 00:00:00.000000', 'x', '2030-01-01 00:00:00.000000')"
            )
        )
        for statement in ROWS.split(";\n")[1:]:
            session.execute(text(statement))
        session.execute(text("UPDATE migrations SET machine = :said"), {"said": json.dumps(said)})
    schema.upgrade(database)
    schema.require_current(database)
    with database.read() as session:
        seen = views.migration(migrations.get(session, "acme", "m"))
        assert views.template(migrations.get(session, "acme", "m").template).mode == "migrate"
    assert (seen.guest, seen.guests, seen.system) == ({"os_type": "linux"}, [{"os_type": "linux"}], None)
    assert [warning.model_dump() for warning in seen.warnings] == [
        {"code": "tpm", "message": "a TPM", "severity": "warning", "action": None, "accepted": False}
    ]
    assert (seen.blocked, seen.hardware.model_dump(exclude_none=True)) == ([], {})


def test_the_revisions_make_exactly_the_tables_of_the_models(database: Database) -> None:
    schema.upgrade(database)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrading_what_is_up_to_date_changes_nothing(database: Database) -> None:
    schema.upgrade(database)
    schema.upgrade(database)
    schema.require_current(database)


def test_the_revisions_form_one_line() -> None:
    script = ScriptDirectory.from_config(schema._config())
    assert len(script.get_heads()) == len(script.get_bases()) == 1


def test_a_newer_schema_is_refused_and_left_alone(database: Database) -> None:
    schema.upgrade(database)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaError, match=r"'9999'.*newer version"):
        schema.upgrade(database)
    with pytest.raises(SchemaError):
        schema.require_current(database)
    with database.read() as session:
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == "9999"


def test_the_tables_can_be_made_on_postgresql() -> None:
    dialect = postgresql.dialect()
    for table in Base.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))
        for index in table.indexes:
            assert "CREATE" in str(CreateIndex(index).compile(dialect=dialect))
