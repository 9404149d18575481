# SPDX-License-Identifier: GPL-3.0-or-later
"""A vCenter or a Cloud Director that takes calls and does not answer: given up after a while, by name and step."""

from __future__ import annotations

from typing import Any

import pytest

from simulators.control import Control

from .conftest import Destination, Gateway, Stage, vms_of

MOST_CALLS = 8
"""So many may hang in all: with the usual minute for each, that is how long a run waits at most."""


def hang(service: Control, **which: Any) -> int:
    """From the first of these calls on nothing is answered any more; gives how many calls have hung before."""
    every = {"from": 1, "action": "hang"}
    service.faults(calls=[{**every, **which}])
    return len(service.events("call-fault"))


LATE_VCENTER = [
    pytest.param(
        ["RetrievePropertiesEx"],
        "vCenter {}: no answer to RetrievePropertiesEx within 1 seconds, 2 calls in a row",
        marks=pytest.mark.long,
        id="reading",
    ),
    pytest.param(["ImportVApp"], "vCenter {}: no answer to ImportVApp within 1 seconds, 2 times", id="making the VM"),
    pytest.param(["upload"], "disk 0 to 127.0.0.1:", marks=pytest.mark.long, id="a host that takes the disk"),
]


@pytest.mark.parametrize(
    ("methods", "step"),
    [
        pytest.param(
            None,
            "logging in: vCenter {}: no answer to RetrieveServiceContent within 1 seconds, 2 calls in a row",
            id="from the beginning",
        ),
        *LATE_VCENTER,
    ],
)
def test_silent_vcenter_is_given_up(
    gateway: Gateway, stage: Stage, destination: Destination, *, methods: list[str] | None, step: str
) -> None:
    site, migration = destination.site, stage(sizes=(1,))
    before = hang(site.vcenter, **({} if methods is None else {"methods": methods}))
    result = destination.vcenter(migration.id, vcenter_timeout=1, wait_timeout=5)
    hung = len(site.vcenter.events("call-fault")) - before
    site.vcenter.faults()
    where = f"{site.state['vcenter']['host']}:{site.state['vcenter']['port']}"
    assert result["failed"], result
    assert step.format(where) in result["msg"], result["msg"]
    assert 0 < hung <= MOST_CALLS + (1 if methods == ["upload"] else 0), hung
    told = gateway.migration(migration.id)["checks"]["import"]
    assert not told["passed"]
    assert where not in str(told["findings"])
    # it was only for a while
    assert not destination.vcenter(migration.id).get("failed")
    assert len(vms_of(site, migration.id)) == 1


@pytest.mark.parametrize(
    ("which", "step"),
    [
        pytest.param({}, "logging in: GET {}/api/versions: ", id="from the beginning"),
        pytest.param(
            {"path": "/api/query"}, "looking for VDC 'acme-production': GET {}/api/query?", marks=pytest.mark.long
        ),
        pytest.param({"path": "/importVmAsVApp"}, "importing VM vm-", marks=pytest.mark.long),
        pytest.param({"path": "/api/task/"}, ": waiting: GET {}/api/task/", id="following a task"),
    ],
)
def test_silent_cloud_director_is_given_up(
    gateway: Gateway, stage: Stage, destination: Destination, *, which: dict[str, str], step: str
) -> None:
    site, migration = destination.site, stage(sizes=(1,))
    destination.vcenter(migration.id)
    before = hang(site.vcd, **which)
    result = destination.vcd(migration.id, vcd_timeout=1)
    hung = len(site.vcd.events("call-fault")) - before
    site.vcd.faults()
    assert result["failed"], result
    assert step.format(site.state["vcd"]["url"]) in result["msg"], result["msg"]
    assert result["msg"].endswith("no answer within 1 seconds")
    assert 0 < hung <= MOST_CALLS, hung
    (told,) = gateway.migration(migration.id)["checks"]["import"]["findings"]
    assert told["message"] == "Cloud Director did not answer"
    assert not destination.vcd(migration.id).get("failed")
