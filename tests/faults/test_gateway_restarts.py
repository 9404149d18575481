# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway loses power while chunks are written, and comes back: the same, a newer, or an older version."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from coldmig_gateway.store import schema
from coldmig_gateway.store.database import Database
from faults.lab import Lab
from support.agent import Agent
from support.images import MIB, random_image, sha256
from support.processes import wait_until
from support.relay import Relay


@pytest.fixture
def link(own_relay: Relay) -> Relay:
    """The way to the test's own gateway, slow enough to do something on the way."""
    own_relay.crawl(after=16 * MIB)
    return own_relay


def interrupted(lab: Lab, link: Relay, image: Path) -> Agent:
    """A copy whose gateway was killed in the middle of it."""
    agent = lab.boot(lab.iso(url=link.url), image)
    lab.wait_stored(agent, 6)
    lab.gateway.kill()
    return agent


def test_a_gateway_killed_while_it_writes_loses_nothing_that_it_acknowledged(own_lab: Lab, link: Relay) -> None:
    image = random_image(own_lab.work / "disk.img", 48, 1)
    agent = own_lab.boot(own_lab.iso(url=link.url), image)
    own_lab.wait_stored(agent, 6)
    acknowledged = wait_until(lambda: own_lab.migration(agent)["disks"][0]["have_chunks"], "acknowledged chunks")
    own_lab.gateway.kill()
    agent.wait_for("PROBLEM: cannot reach")
    found = own_lab.gateway.run("verify", agent.migration_id).stdout
    assert int(re.search(r"(\d+) of 48 chunks are there", found)[1]) >= acknowledged
    own_lab.gateway.start()
    link.crawl(after=12 * MIB)
    own_lab.wait_stored(agent, acknowledged + 6)
    own_lab.gateway.kill()
    own_lab.gateway.start()
    link.hurry()
    assert agent.finish() == 0, agent.text
    assert "the problem is over; going on" in agent.text
    # Never the whole disk again: what was on the way when the power went, twice.
    assert link.sent < (48 + 2 * 40) * MIB
    own_lab.assert_arrived(agent, image)
    assert own_lab.verify(agent)[0] == 0


def previous_revision() -> str:
    """The schema before the newest."""
    scripts = ScriptDirectory.from_config(schema._config())
    head = scripts.get_revision(scripts.get_current_head() or "")
    assert isinstance(head.down_revision, str)
    return head.down_revision


def go_back(path: Path, revision: str) -> None:
    """Make the database what a gateway of an earlier schema would have: only the columns that it knew."""
    old = path.with_name("old.db")
    database = Database(f"sqlite:///{old}")
    schema.upgrade(database, revision)
    database.close()
    with closing(sqlite3.connect(old)) as target, target:
        target.execute("PRAGMA foreign_keys = OFF")
        target.execute("ATTACH ? AS new", (str(path),))
        tables = [row[0] for row in target.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")]
        for table in tables:
            if table == "alembic_version" or table.startswith("sqlite_"):
                continue
            theirs = {row[1] for row in target.execute(f"PRAGMA new.table_info({table})")}
            columns = ", ".join(
                f'"{row[1]}"' for row in target.execute(f"PRAGMA main.table_info({table})") if row[1] in theirs
            )
            target.execute(f"DELETE FROM main.{table}")  # noqa: S608 - names from the schema
            target.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")  # noqa: S608
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    old.replace(path)


def test_a_newer_gateway_takes_the_database_of_the_older_along_in_the_middle_of_a_copy(
    own_lab: Lab, link: Relay
) -> None:
    image = random_image(own_lab.work / "disk.img", 32, 2)
    agent = interrupted(own_lab, link, image)
    go_back(own_lab.gateway.database, previous_revision())
    own_lab.gateway.start()
    link.hurry()
    own_lab.assert_copied(agent, image)


def test_an_older_gateway_refuses_the_database_of_a_newer_and_changes_nothing(own_lab: Lab, link: Relay) -> None:
    image = random_image(own_lab.work / "disk.img", 32, 3)
    agent = interrupted(own_lab, link, image)
    with closing(sqlite3.connect(own_lab.gateway.database)) as database, database:
        (now,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    content = own_lab.gateway.content()
    staged = {path: sha256(path) for path in own_lab.gateway.staging.rglob("*") if path.is_file()}
    assert staged
    for command in (["serve"], ["init"], ["verify", agent.migration_id], ["token", "list"]):
        refused = own_lab.gateway.run(*command)
        assert refused.returncode == 1
        assert "Traceback" not in refused.stderr
        assert len(refused.stderr.splitlines()) == 1, refused.stderr
    refused = own_lab.gateway.run("serve")
    assert "schema '9999'" in refused.stderr
    assert "newer version" in refused.stderr
    assert own_lab.gateway.content() == content
    assert {path: sha256(path) for path in own_lab.gateway.staging.rglob("*") if path.is_file()} == staged

    # The version that knows the schema goes on where it was.
    with closing(sqlite3.connect(own_lab.gateway.database)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (now,))
    own_lab.gateway.start()
    link.hurry()
    own_lab.assert_copied(agent, image)
