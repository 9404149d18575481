# SPDX-License-Identifier: GPL-3.0-or-later
"""Why an import fails or is repeated, as the tenant of the migration learns it: without what is the provider's."""

from __future__ import annotations

import json
from typing import Any

from simulators.run import Site

from .conftest import ORGANIZATION, Destination, Gateway, Provider, Stage


def as_tenant(gateway: Gateway, destination: Destination, migration_id: str) -> dict[str, Any]:
    """The checks of a migration as the module migration_info shows them to its tenant."""
    token = gateway.organization_token(ORGANIZATION)
    found = destination("migration_info", migration_id, gateway_token=token)
    (migration,) = found["migrations"]
    checks: dict[str, Any] = migration["checks"]
    return checks


def test_failed_import_is_told_until_it_succeeds(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage(sizes=(1,))
    site.vcenter.faults(refuse_import="no space left on datastore-1 of esx-07", refuse_import_times=9)
    failed = destination.vcenter(migration.id, import_attempts=1)
    site.vcenter.faults()
    assert "esx-07" in failed["msg"]
    told = as_tenant(gateway, destination, migration.id)["import"]
    assert (told["passed"], told["detail"]) == (
        False,
        "The import failed. The next run of the provider tries again.",
    )
    assert [(one["subject"], one["message"]) for one in told["findings"]] == [
        ("vCenter", "The provider's vCenter could not make the VM; the provider knows why")
    ]
    assert "esx-07" not in json.dumps(told)

    destination.vcenter(migration.id)
    message = {"message": "no room on datastore-1 of esx-07", "tenant": "not enough room"}
    site.vcd.faults(task_errors={"importSingletonVapp": message}, task_error_times=1)
    assert "esx-07" in destination.vcd(migration.id)["msg"]
    (finding,) = as_tenant(gateway, destination, migration.id)["import"]["findings"]
    assert (finding["subject"], finding["message"].partition(" [")[0]) == ("Cloud Director", "not enough room")

    assert not destination.vcd(migration.id).get("failed")
    done = as_tenant(gateway, destination, migration.id)["import"]
    assert (done["passed"], done["findings"]) == (True, [])


def test_import_without_trouble_notes_nothing(
    gateway: Gateway, stage: Stage, destination: Destination, site: Site
) -> None:
    migration = stage(sizes=(1,))
    destination.vcenter(migration.id)
    # refused because another run is at it: that is none of the tenant's business
    gateway.call(
        "POST", f"/migrations/{migration.id}/claim", {"run": "job 7", "holder": "somebody-else", "seconds": 600}
    )
    assert destination.vcd(migration.id)["failed"]
    gateway.call("POST", f"/migrations/{migration.id}/release", {"holder": "somebody-else"})
    assert not destination.vcd(migration.id).get("failed")
    assert gateway.migration(migration.id)["checks"] == {}


def test_import_that_is_repeated_says_so_while_it_goes_on(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage(sizes=(2,))
    # both the first upload and its repetitions within the lease break off
    site.vcenter.faults(drop_upload_after=50_000, drop_upload_times=3)
    result = destination.vcenter(migration.id)
    assert not result.get("failed"), result
    told = gateway.migration(migration.id)["checks"]["import"]
    assert (told["passed"], told["detail"]) == (False, "The import was interrupted, and the same run repeats it.")
    destination.vcd(migration.id)
    assert gateway.migration(migration.id)["checks"]["import"]["passed"]


def test_wrong_name_that_finish_meets_is_noted_and_shown_where_one_confirms(
    gateway: Gateway, stage: Stage, provider: Provider
) -> None:
    migration = stage(sizes=(1,), destination={"storage_profile": "platinum"})
    run = provider.finish(migration)
    assert run.status != 0
    assert f"FAILED    {migration.name}" in run.text
    told = gateway.migration(migration.id)["checks"]["preflight"]
    assert [(one["subject"], "platinum" in one["message"]) for one in told["findings"]] == [
        ("destination.storage_profile", True)
    ]
    assert gateway.migration(migration.id)["state"] == "copied"
    host = f"{migration.name}-{migration.id[:8]}"
    # confirm shows it again, whatever it may confirm
    shown = provider.start(playbook="confirm", coldmig_confirm_hosts=host, coldmig_preflight_fail_on="never")
    output, _ = shown.communicate(timeout=200)
    assert "preflight (20" in output
    assert "error  destination.storage_profile: there is no 'platinum'" in output
