# SPDX-License-Identifier: GPL-3.0-or-later
"""Claims of runners, undoing, how long staging is kept after success, and what checks found."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import update

from coldmig_gateway.clock import now
from coldmig_gateway.store.janitor import Janitor
from coldmig_gateway.store.models import Migration
from gateway.sitekit import TEMPLATE, Caller, SiteKit

ONE = {"run": "job 1", "holder": "11111111-1", "seconds": 60}
TWO = {"run": "job 2", "holder": "22222222-2", "seconds": 60}
VM = {"vcenter": {"vm": "vm-42", "name": "erp-db-01"}}
REFS = {"vcenter_vm": "vm-42", "vcd_vapp": "https://vcd/1", "vcd_vm": "https://vcd/2"}


@pytest.fixture
def acme(site: SiteKit) -> Caller:
    site.activate("acme")
    return site.tenant("acme")


@pytest.fixture
def path(site: SiteKit, acme: Caller) -> str:
    """Of a migration that is copied."""
    iso = site.iso(acme, acme.ok("POST", "/templates", TEMPLATE | {"auto_start": True})["id"])
    migration, _ = site.enrol(iso)
    site.copy(migration)
    return f"/migrations/{migration}"


@pytest.fixture
def set_row(site: SiteKit, path: str) -> Callable[..., None]:
    """Changes columns of the migration behind the gateway's back."""

    def change(**values: object) -> None:
        with site.context.database.write() as session:
            session.execute(update(Migration).where(Migration.id == path.rpartition("/")[2]).values(**values))

    return change


def test_one_runner_at_a_time_imports(site: SiteKit, path: str) -> None:
    first = site.provider.ok("POST", f"{path}/import", ONE)
    assert first["claim"]["run"] == "job 1"
    problem = site.provider.problem(409, "claimed", "POST", f"{path}/import", TWO)
    assert (problem["run"], problem["since"][:19]) == ("job 1", first["claim"]["since"][:19])
    assert "job 1" in problem["detail"]
    for verb, body in (("import", {"run": "job 3"}), ("claim", TWO), ("finish", VM), ("undone", {"run": "job 3"})):
        site.provider.problem(409, "claimed", "POST", f"{path}/{verb}", body)
    site.provider.problem(409, "claimed", "POST", f"{path}/release", {"holder": TWO["holder"]})
    done = site.provider.ok("POST", f"{path}/finish", VM | {"holder": ONE["holder"]})
    assert (done["state"], done["claim"]) == ("finished", None)


def test_of_many_that_ask_at_once_one_gets_it(site: SiteKit, path: str) -> None:
    def ask(number: int) -> int:
        body = {"run": f"job {number}", "holder": f"{number:08}"}
        return site.provider.request("POST", f"{path}/claim", body).status_code

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(ask, range(6))) == [200, 409, 409, 409, 409, 409]


def test_a_claim_is_renewed_without_an_entry_in_the_trail_and_ends_by_itself(
    site: SiteKit, path: str, set_row: Callable[..., None]
) -> None:
    first = site.provider.ok("POST", f"{path}/claim", ONE)["claim"]
    entries = len(site.provider.ok("GET", f"{path}/audit")["items"])
    set_row(run_until=now() + timedelta(seconds=1))
    renewed = site.provider.ok("POST", f"{path}/claim", ONE | {"run": "other words"})["claim"]
    assert (renewed["run"], renewed["since"]) == ("job 1", first["since"])
    assert renewed["until"] >= first["until"]
    assert len(site.provider.ok("GET", f"{path}/audit")["items"]) == entries
    set_row(run_until=now() - timedelta(seconds=1))
    assert site.provider.ok("GET", path)["claim"] is None
    assert site.provider.ok("POST", f"{path}/claim", TWO)["claim"]["run"] == "job 2"
    site.provider.problem(409, "claimed", "POST", f"{path}/claim", ONE)


def test_a_claim_that_is_let_go_is_free_at_once(site: SiteKit, path: str) -> None:
    site.provider.ok("POST", f"{path}/import", ONE)
    assert site.provider.ok("POST", f"{path}/release", {"holder": ONE["holder"]})["claim"] is None
    assert site.provider.ok("POST", f"{path}/import", TWO)["claim"]["run"] == "job 2"
    site.provider.problem(409, "claimed", "POST", f"{path}/release", {"holder": ONE["holder"]})


def test_only_the_provider_claims_and_undoes(acme: Caller, path: str) -> None:
    for verb, body in (("claim", ONE), ("release", {"holder": ONE["holder"]}), ("undone", {"run": "x"})):
        acme.problem(403, "forbidden", "POST", f"{path}/{verb}", body)


@pytest.mark.parametrize("finished", [True, False])
def test_undone_migrations_are_canceled_or_copied_again(site: SiteKit, path: str, *, finished: bool) -> None:
    site.provider.ok("POST", f"{path}/import", ONE)
    site.provider.ok("PATCH", f"{path}/destination-refs", REFS)
    if finished:
        site.provider.ok("POST", f"{path}/finish", VM | {"holder": ONE["holder"], "keep_staging_hours": 1})
    again = site.provider.ok("POST", f"{path}/undone", {"run": "job 1", "holder": ONE["holder"], "to": "copied"})
    assert (again["state"], set(again["refs"].values()), again["claim"]) == ("copied", {None}, None)
    assert again["keep_staging_until"] is None
    site.provider.ok("POST", f"{path}/import", ONE)
    gone = site.provider.ok("POST", f"{path}/undone", {"run": "job 1", "holder": ONE["holder"]})
    assert (gone["state"], gone["reason"], gone["claim"]) == ("canceled", "undone", None)
    still = site.provider.ok("POST", f"{path}/undone", {"run": "job 1"})
    assert still["state"] == "canceled"


def test_what_is_not_staged_any_more_cannot_be_copied_again(
    site: SiteKit, path: str, set_row: Callable[..., None]
) -> None:
    site.provider.ok("POST", f"{path}/import", ONE)
    site.provider.ok("POST", f"{path}/finish", VM | {"holder": ONE["holder"]})
    set_row(staging_removed_at=now())
    site.provider.problem(409, "not-staged", "POST", f"{path}/undone", {"run": "job 1", "to": "copied"})
    assert site.provider.ok("GET", path)["state"] == "finished"


def test_staging_is_kept_after_success_as_long_as_the_runner_said(
    site: SiteKit, path: str, set_row: Callable[..., None]
) -> None:
    staging = site.context.settings.staging
    directory = staging / path.rpartition("/")[2]
    directory.mkdir(exist_ok=True)
    janitor = Janitor(site.context.database, staging, timedelta(hours=168))

    def is_there() -> bool:
        janitor.run(now() - timedelta(minutes=2))
        return directory.exists()

    site.provider.ok("POST", f"{path}/import", ONE)
    body = VM | {"holder": ONE["holder"], "keep_staging_hours": 500}
    assert site.provider.ok("POST", f"{path}/finish", body)["keep_staging_until"] is not None
    set_row(ended_at=now() - timedelta(hours=200))  # longer than the site keeps others
    assert is_there()
    set_row(keep_staging_until=now() - timedelta(seconds=1))
    assert not is_there()


def test_what_a_check_found_is_told_to_all_who_see_the_migration(site: SiteKit, acme: Caller, path: str) -> None:
    finding = {
        "code": "no-storage-profile",
        "severity": "error",
        "subject": "destination.storage_profile",
        "message": "there is no 'gold'",
        "expected": "silver",
    }
    site.provider.ok("PUT", f"{path}/checks/preflight", {"passed": False, "findings": [finding]})
    site.provider.ok("PUT", f"{path}/checks/test-boot", {"passed": True, "detail": "Tools answered"})
    seen = acme.ok("GET", path)["checks"]
    assert seen["preflight"]["findings"] == [finding]
    assert (seen["test-boot"]["passed"], seen["test-boot"]["detail"]) == (True, "Tools answered")
    site.provider.ok("PUT", f"{path}/checks/preflight", {"passed": True})
    assert acme.ok("GET", path)["checks"]["preflight"]["findings"] == []
    site.provider.problem(422, "validation", "PUT", f"{path}/checks/other", {"passed": True})
