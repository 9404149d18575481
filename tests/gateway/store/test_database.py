# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from coldmig_gateway.store import activation, audit
from coldmig_gateway.store.database import Database
from coldmig_gateway.store.models import AuditEntry, Disk
from gateway.sitekit import SiteKit


def test_sqlite_is_set_to_lose_nothing(site: SiteKit) -> None:
    with site.context.database.read() as session:
        values = {
            name: session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")
        }
        assert values == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
        assert session.scalar(text("PRAGMA busy_timeout")) == 30_000


def test_an_exception_undoes_the_whole_transaction(site: SiteKit) -> None:
    database = site.context.database

    def change_and_fail() -> None:
        with database.write() as session:
            activation.put(session, "test", active=True, organizations=["acme"])
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change_and_fail()
    with database.read() as session:
        assert not activation.get(session).active
        assert audit.entries(session, ("activation", "1"), skip=0, limit=10) == []


def test_a_change_and_its_audit_entry_are_one(site: SiteKit) -> None:
    database = site.context.database
    with database.write() as session:
        activation.put(session, "somebody", active=True, organizations=["acme"])
    with database.read() as session:
        (entry,) = audit.entries(session, ("activation", "1"), skip=0, limit=10)
        assert (entry.actor, entry.event, entry.detail["organizations"]) == ("somebody", "activation", ["acme"])


def test_foreign_keys_hold(site: SiteKit) -> None:
    disk = Disk(migration_id="nothing", index=0, size_bytes=1, chunks=1, path="/dev/sda", verified=False)
    with pytest.raises(IntegrityError), site.context.database.write() as session:
        session.add(disk)


def test_writers_of_several_connections_wait_for_each_other(site: SiteKit) -> None:
    first, second = site.context.database, Database(site.context.settings.database)
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        with (first, second)[number % 2].write() as session:
            audit.write(session, f"writer {number}", ("test", "1"), "write")

    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(8)))
        with first.read() as session:
            assert len(audit.entries(session, ("test", "1"), skip=0, limit=100)) == 8
    finally:
        second.close()


def test_moments_come_back_in_utc_and_naive_ones_are_refused(site: SiteKit) -> None:
    database = site.context.database
    moment = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5)))
    row = AuditEntry(at=moment, actor="x", subject_kind="test", subject_id="2", event="e", detail={})
    with database.write() as session:
        session.add(row)
    with database.read() as session:
        (entry,) = audit.entries(session, ("test", "2"), skip=0, limit=1)
        assert entry.at == moment
        assert entry.at.utcoffset() == timedelta(0)
    row = AuditEntry(at=moment.replace(tzinfo=None), actor="x", subject_kind="t", subject_id="3", event="e", detail={})
    with pytest.raises(Exception, match="time zone"), database.write() as session:
        session.add(row)


def test_the_password_of_a_database_is_not_in_what_can_be_logged(tmp_path: Path) -> None:
    from coldmig_gateway.config import ConfigError, check

    with pytest.raises(ConfigError) as caught:
        check({"state_dir": str(tmp_path), "names": ["a"], "database_url": "mysql://u:hunter2@h/d"}, where="x")
    assert "hunter2" not in str(caught.value)
    assert "database_url" in str(caught.value)


def test_writers_get_their_turn_in_the_order_in_which_they_asked(site: SiteKit) -> None:
    database = site.context.database
    order: list[int] = []

    def write(writer: int) -> None:
        with database.write() as session:
            session.execute(text("SELECT 1"))  # begins the transaction
            order.append(writer)
            time.sleep(0.005)  # long enough for whoever comes at the right moment

    with database.write() as session:
        session.execute(text("SELECT 1"))
        threads = [threading.Thread(target=write, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert order == sorted(order)
