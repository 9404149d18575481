# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ``undo`` and its playbook: what a migration made is removed, as long as nobody has used it."""

from __future__ import annotations

import re

import pytest

from simulators.run import Site

from .conftest import Destination, Gateway, Provider, Stage, vapps_of, vms_of


def assert_nothing_there(site: Site, migration_id: str, name: str) -> None:
    assert vms_of(site, migration_id) == []
    assert vapps_of(site, name) == []


@pytest.mark.parametrize("into", ["vapp", "shared", "standalone"])
def test_what_was_made_is_removed_and_can_be_made_again(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination, into: str
) -> None:
    wanted = {"import_as": into, **({"vapp": "undo-{template}"} if into == "shared" else {})}
    migration = stage(sizes=(2, 1), destination=wanted)
    for to in ("copied", "canceled"):
        assert not destination.vcenter(migration.id).get("failed")
        made = destination.vcd(migration.id)
        assert made["migration"]["state"] == "finished", made
        would = destination("undo", migration.id, to=to, check=True)
        assert (would.get("changed"), len(would.get("removed", ()))) == (True, 2), would
        assert len(vms_of(site, migration.id)) == 1
        done = destination("undo", migration.id, to=to)
        assert (done["changed"], done["removed"]) == (True, would["removed"])
        assert done["migration"]["state"] == gateway.migration(migration.id)["state"] == to
        assert set(done["migration"]["refs"].values()) == {None}
        assert_nothing_there(site, migration.id, migration.name)
        assert vapps_of(site, "undo-") == []
    again = destination("undo", migration.id)
    assert (again["changed"], again["removed"], again["migration"]["state"]) == (False, [], "canceled")


def test_vm_that_runs_or_ran_is_not_removed_unless_forced(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage(sizes=(1,), power_on=True)
    destination.vcenter(migration.id)
    destination.vcd(migration.id)
    refused = destination("undo", migration.id)
    assert refused["failed"]
    assert "is powered_on in Cloud Director" in refused["msg"]
    assert "it may hold what is nowhere else" in refused["msg"]
    assert destination("undo", migration.id, force=True)["failed"]
    (vm,) = vms_of(site, migration.id)
    site.vcenter.call("POST", f"vms/{vm['id']}/power", {"state": "off"})
    refused = destination("undo", migration.id)
    assert refused["failed"]
    assert "was powered on (20" in refused["msg"]
    assert len(vms_of(site, migration.id)) == 1
    assert gateway.migration(migration.id)["state"] == "finished"
    assert not destination("undo", migration.id, force=True).get("failed")
    assert_nothing_there(site, migration.id, migration.name)


def test_half_made_things_of_a_canceled_migration_are_removed(
    site: Site, gateway: Gateway, stage: Stage, destination: Destination
) -> None:
    migration = stage(sizes=(1,))
    destination.vcenter(migration.id)
    gateway.call("POST", f"/migrations/{migration.id}/cancel", {"reason": "not this one"})
    done = destination("undo", migration.id)
    assert (done["changed"], done["migration"]["state"], done["migration"]["reason"]) == (
        True,
        "canceled",
        "not this one",
    )
    assert_nothing_there(site, migration.id, migration.name)
    refused = destination("undo", migration.id, to="copied")
    assert "cannot be copied again" in refused["msg"]


def test_migration_of_another_run_is_refused(gateway: Gateway, stage: Stage, destination: Destination) -> None:
    migration = stage(sizes=(1,))
    destination.vcenter(migration.id)
    claim = {"run": "job 7", "holder": "somebody-else", "seconds": 600}
    gateway.call("POST", f"/migrations/{migration.id}/claim", claim)
    refused = destination("undo", migration.id)
    assert refused["problem"]["type"] == "urn:coldmig:problem:claimed"
    assert "job 7" in refused["msg"]


def test_playbook_undoes_what_is_named_and_nothing_else(
    site: Site, gateway: Gateway, stage: Stage, provider: Provider
) -> None:
    named, other = stage(sizes=(1,)), stage(sizes=(1,))
    assert provider.finish(named, other).status == 0
    run = provider.start(playbook="undo", coldmig_undo=[named.name])
    output, _ = run.communicate(timeout=200)
    assert run.returncode == 0, output
    # in vCenter, Cloud Director has given the VM a name of its own
    assert re.search(rf"undone    {named.name}: removed {named.name}, {named.name}-\S+; it is canceled", output), output
    assert_nothing_there(site, named.id, named.name)
    assert len(vms_of(site, other.id)) == 1
    assert gateway.migration(other.id)["state"] == "finished"
