# SPDX-License-Identifier: GPL-3.0-or-later
"""When agents were last heard of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from coldmig_gateway.clock import now
from coldmig_gateway.store import presence
from coldmig_gateway.store.presence import heard_since
from gateway.sitekit import TEMPLATE, Caller, SiteKit

TWO_MINUTES = timedelta(minutes=2)


@pytest.fixture
def acme(site: SiteKit) -> Caller:
    site.activate("acme")
    return site.tenant("acme")


def _last_seen(acme: Caller, migration: str) -> datetime:
    return datetime.fromisoformat(acme.ok("GET", f"/migrations/{migration}")["last_seen_at"])


def test_every_question_of_an_agent_counts_and_is_written_down_at_the_next_flush(site: SiteKit, acme: Caller) -> None:
    migration, agent = site.enrol(site.iso(acme, acme.ok("POST", "/templates", TEMPLATE)["id"]))
    heard = _last_seen(acme, migration)
    report = {"disks": [{"index": 0, "bytes": 0}]}
    for method, path, body in [
        ("GET", "/session", None),
        ("POST", "/session/progress", {"phase": "waiting"}),
        ("POST", "/session/unreadable", report),
    ]:
        agent.ok(method, path, body)
        assert _last_seen(acme, migration) == heard
        site.context.presence.flush(site.context.database, TWO_MINUTES)
        assert _last_seen(acme, migration) > heard
        heard = _last_seen(acme, migration)


def test_nothing_is_written_when_nobody_was_heard(site: SiteKit, acme: Caller) -> None:
    _, agent = site.enrol(site.iso(acme, acme.ok("POST", "/templates", TEMPLATE)["id"]))
    agent.ok("GET", "/session")
    site.context.presence.flush(site.context.database, TWO_MINUTES)
    statements: list[str] = []
    event.listen(site.context.database.engine, "before_cursor_execute", lambda *words: statements.append(str(words[2])))
    site.context.presence.flush(site.context.database, TWO_MINUTES)
    assert statements == []


def test_who_is_silent_is_forgotten(site: SiteKit, acme: Caller) -> None:
    _, agent = site.enrol(site.iso(acme, acme.ok("POST", "/templates", TEMPLATE)["id"]))
    agent.ok("GET", "/session")
    assert site.context.presence.count() == 1
    site.context.presence.flush(site.context.database, timedelta(0))
    assert site.context.presence.count() == 0


def test_nobody_is_silent_before_the_service_has_run_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
    monkeypatch.setattr(presence, "now", lambda: moment)
    assert heard_since(moment - TWO_MINUTES, TWO_MINUTES) == moment - TWO_MINUTES
    assert heard_since(moment - TWO_MINUTES + timedelta(seconds=1), TWO_MINUTES) < now() - timedelta(days=1000)


def test_a_poll_reads_two_rows_by_index_and_writes_nothing(site: SiteKit, acme: Caller) -> None:
    _, agent = site.enrol(site.iso(acme, acme.ok("POST", "/templates", TEMPLATE)["id"]))
    agent.ok("GET", "/session")
    statements: list[str] = []
    event.listen(site.context.database.engine, "before_cursor_execute", lambda *words: statements.append(str(words[2])))
    agent.ok("GET", "/session")
    assert [statement.split()[0] for statement in statements] == ["BEGIN", "SELECT", "SELECT"]
    assert "machine" not in statements[1].split("WHERE")[0]
