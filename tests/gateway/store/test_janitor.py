# SPDX-License-Identifier: GPL-3.0-or-later
"""Which staged copies are removed, and when."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from coldmig_gateway.clock import now
from coldmig_gateway.store import janitor as janitor_module
from coldmig_gateway.store.janitor import Janitor
from coldmig_gateway.store.models import Migration
from gateway.sitekit import TEMPLATE, Caller, SiteKit

WEEK = timedelta(hours=168)


@pytest.fixture
def acme(site: SiteKit) -> Caller:
    site.activate("acme")
    return site.tenant("acme")


@pytest.fixture
def iso(site: SiteKit, acme: Caller) -> Caller:
    return site.iso(acme, acme.ok("POST", "/templates", TEMPLATE | {"auto_start": True})["id"])


class Staging:
    """The staging area and the rounds of the janitor."""

    def __init__(self, site: SiteKit) -> None:
        self.site = site
        self.root = site.context.settings.staging
        self.janitor = Janitor(site.context.database, self.root, WEEK)

    def put(self, migration: str) -> None:
        directory = self.root / migration
        directory.mkdir(exist_ok=True)
        (directory / "disk-0.pack").write_bytes(b"x")

    def round(self) -> set[str]:
        """One round; gives what is staged then."""
        self.janitor.run(now() - timedelta(minutes=2))
        return {entry.name for entry in self.root.iterdir()}

    def set(self, migration: str, **ago: timedelta) -> None:
        values = {name: now() - passed for name, passed in ago.items()}
        with self.site.context.database.write() as session:
            session.execute(update(Migration).where(Migration.id == migration).values(**values))


@pytest.fixture
def staging(site: SiteKit) -> Staging:
    return Staging(site)


def _ended(acme: Caller, migration: str) -> None:
    acme.ok("POST", f"/migrations/{migration}/cancel", {})


def test_an_ended_copy_is_kept_for_the_time_that_was_set(
    site: SiteKit, acme: Caller, iso: Caller, staging: Staging
) -> None:
    migration, _ = site.enrol(iso)
    staging.put(migration)
    assert staging.round() == {migration}
    staging.set(migration, created_at=2 * WEEK, last_seen_at=2 * WEEK)  # under way, however long
    assert staging.round() == {migration}
    _ended(acme, migration)
    assert staging.round() == {migration}
    staging.set(migration, ended_at=WEEK - timedelta(minutes=1))
    assert staging.round() == {migration}
    staging.set(migration, ended_at=WEEK + timedelta(minutes=1))
    assert staging.round() == set()
    seen = acme.ok("GET", f"/migrations/{migration}")
    assert seen["staging_removed_at"] is not None
    events = [entry["event"] for entry in acme.ok("GET", f"/migrations/{migration}/audit")["items"]]
    assert events[-1] == "staging-removed"
    staging.round()
    assert len(acme.ok("GET", f"/migrations/{migration}/audit")["items"]) == len(events)


def test_a_superseded_copy_stays_until_the_new_one_needs_it_no_more(
    site: SiteKit, acme: Caller, iso: Caller, staging: Staging
) -> None:
    first, _ = site.enrol(iso)
    staging.put(first)
    second, _ = site.enrol(iso)
    staging.put(second)
    staging.set(first, last_seen_at=timedelta(minutes=5))
    assert staging.round() == {first, second}
    assert acme.ok("GET", f"/migrations/{first}")["reason"] == "superseded"
    site.data_plane.begin_copying(second)
    assert staging.round() == {first, second}
    site.copy(second)
    assert staging.round() == {second}


def test_a_superseded_copy_goes_when_the_new_one_has_ended(
    site: SiteKit, acme: Caller, iso: Caller, staging: Staging
) -> None:
    first, _ = site.enrol(iso)
    staging.put(first)
    second, _ = site.enrol(iso)
    staging.set(first, last_seen_at=timedelta(minutes=5))
    staging.round()
    third, _ = site.enrol(iso)
    _ended(acme, second)
    assert staging.round() == {first}  # the third boot has it on its list as well
    _ended(acme, third)
    assert staging.round() == set()


def test_a_superseded_copy_waits_for_a_boot_that_does_not_know_of_it_yet(
    site: SiteKit, acme: Caller, staging: Staging
) -> None:
    by_hand = site.iso(acme, acme.ok("POST", "/templates", TEMPLATE | {"name": "by-hand"})["id"])
    first, second = site.enrol(by_hand)[0], site.enrol(by_hand)[0]
    staging.put(first)  # it began after the second had registered
    staging.set(first, last_seen_at=timedelta(minutes=5))
    assert staging.round() == {first}
    confirmed = acme.ok("POST", f"/migrations/{second}/confirm")
    assert confirmed["disks"][0]["earlier"] == [{"migration_id": first, "index": 0}]


def test_who_waits_in_silence_for_too_long_keeps_nothing(
    site: SiteKit, acme: Caller, iso: Caller, staging: Staging
) -> None:
    first, _ = site.enrol(iso)
    staging.put(first)
    second, _ = site.enrol(iso)
    _ended(acme, first)
    staging.set(first, ended_at=2 * WEEK)
    assert staging.round() == {first}
    staging.set(second, last_seen_at=WEEK + timedelta(minutes=1))
    assert staging.round() == set()


def test_an_interrupted_removal_is_taken_up_again(
    site: SiteKit, acme: Caller, iso: Caller, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration, _ = site.enrol(iso)
    staging.put(migration)
    _ended(acme, migration)
    staging.set(migration, ended_at=2 * WEEK)

    def killed(path: Path, **_: object) -> None:
        (path / "disk-0.index").touch()
        (path / "disk-0.pack").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(janitor_module.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        staging.round()
    monkeypatch.undo()
    assert staging.round() == set()
    staging.put(migration)  # somebody had opened it once more
    assert staging.round() == set()
    events = [entry["event"] for entry in acme.ok("GET", f"/migrations/{migration}/audit")["items"]]
    assert events.count("staging-removed") == 1


def test_what_is_half_gone_is_offered_to_nobody(site: SiteKit, acme: Caller, iso: Caller, staging: Staging) -> None:
    migration, _ = site.enrol(iso)
    staging.put(migration)
    _ended(acme, migration)
    staging.set(migration, ended_at=2 * WEEK)
    staging.round()
    staging.put(migration)
    assert acme.ok("GET", f"/migrations/{site.enrol(iso)[0]}")["disks"][0]["earlier"] == []


def test_what_belongs_to_no_migration_goes_later_and_other_files_never(site: SiteKit, staging: Staging) -> None:
    del site
    orphan, keepsake = str(uuid.uuid4()), "lost+found"
    for name in (orphan, keepsake):
        (staging.root / name).mkdir()
    assert staging.round() == {orphan, keepsake}
    old = time.time() - WEEK.total_seconds() - 60
    for name in (orphan, keepsake):
        os.utime(staging.root / name, (old, old))
    assert staging.round() == {keepsake}


def test_a_copy_that_shares_files_with_a_removed_one_keeps_them(
    site: SiteKit, acme: Caller, iso: Caller, staging: Staging
) -> None:
    first, second = site.enrol(iso)[0], site.enrol(iso)[0]
    staging.put(first)
    (staging.root / second).mkdir()
    shared = staging.root / second / "disk-0.base-1.pack"
    shared.hardlink_to(staging.root / first / "disk-0.pack")
    staging.set(first, last_seen_at=timedelta(minutes=5))
    site.copy(second)
    assert staging.round() == {second}
    assert acme.ok("GET", f"/migrations/{first}")["staging_removed_at"] is not None
    assert shared.read_bytes() == b"x"


def test_a_file_that_cannot_be_removed_does_not_keep_the_others(
    site: SiteKit, acme: Caller, iso: Caller, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations = sorted(site.enrol(iso)[0] for _ in range(2))
    for migration in migrations:
        staging.put(migration)
        _ended(acme, migration)
        staging.set(migration, ended_at=2 * WEEK)
    rmtree = shutil.rmtree

    def stubborn(path: Path, **options: object) -> None:
        if path.name == migrations[0]:
            options["onerror"](os.unlink, str(path), (OSError, OSError("busy"), None))  # type: ignore[operator]
        else:
            rmtree(path)

    monkeypatch.setattr(janitor_module.shutil, "rmtree", stubborn)
    assert staging.round() == {migrations[0]}
