# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What preflight makes of the findings of both sides."""

from __future__ import annotations

from typing import Any

from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_check, _vcenter_check
from ansible_collections.cda.coldmig.plugins.module_utils._findings import Finding, ordered
from ansible_collections.cda.coldmig.plugins.module_utils._preflight import _of_vcd, as_migration
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import VcenterError

WANTED: dict[str, Any] = dict.fromkeys(
    ("datacenter", "cluster", "resource_pool", "folder", "datastore", "network", "hardware_version", "storage_policy")
)


def finding(severity: str, message: str = "m", tenant: str = "m") -> Finding:
    return Finding("code", severity, "subject", message, "right", tenant)


def test_worst_comes_first() -> None:
    found = [finding("info"), finding("error"), finding("warning")]
    assert [one.severity for one in ordered(found)] == ["error", "warning", "info"]


def test_what_is_noted_for_tenants_has_nothing_of_the_provider() -> None:
    assert finding("error", "datastore x is full", "not ready").as_note() == {
        "code": "code",
        "severity": "error",
        "subject": "subject",
        "message": "not ready",
        "expected": "",
    }
    assert finding("error").as_note()["expected"] == "right"


def test_texts_of_cloud_director_are_split_into_wrong_and_right() -> None:
    text = "destination.vdc: organization 'acme' has no VDC 'x'; there is 'y'"
    found = _of_vcd(_vcd_check.Finding("vcd-name", "error", text, text))
    assert (found.subject, found.message, found.expected) == (
        "destination.vdc",
        "organization 'acme' has no VDC 'x'",
        "there is 'y'",
    )
    assert found.tenant == found.message
    hidden = _of_vcd(_vcd_check.Finding("vm-quota", "error", "VDC 'y' may have 5 VMs, and has 5", "full"))
    assert (hidden.subject, hidden.expected, hidden.tenant) == ("VDC", "", "full")


def test_template_stands_for_a_machine_without_disks() -> None:
    template: Any = {
        "id": "t",
        "name": "linux",
        "organization": "acme",
        "name_pattern": "{name}-new",
        "destination": {"vdc": "v"},
        "power_on": False,
        "hardware": {},
    }
    made = as_migration(template)
    assert (made["name"], made["disks"], made["machine"]["nics"]) == ("machine-new", [], [])


class Unready:
    """A vCenter in which two names are wrong."""

    def survey(self, **_names: object) -> tuple[None, list[VcenterError]]:
        return None, [VcenterError("folder: there is no 'x' in y; there are 'a', 'b'"), VcenterError("network: none")]


def test_every_wrong_name_in_vcenter_is_a_finding() -> None:
    vcenter: Any = Unready()
    found = _vcenter_check.check(vcenter, WANTED, None)
    assert [(one.subject, one.message, one.expected) for one in found] == [
        ("folder", "there is no 'x' in y", "there are 'a', 'b'"),
        ("network", "none", ""),
    ]
    assert {one.tenant for one in found} == {_vcenter_check.FOR_TENANTS}


class Ready:
    """A vCenter whose account may not do everything, and whose datastore is small."""

    hostname = "vc"

    def root(self) -> str:
        return "root"

    def survey(self, **_names: object) -> tuple[Any, list[VcenterError]]:
        place: Any = type("Place", (), {})()
        place.pool, place.folder, place.datastore, place.network, place.compute = "pool", "folder", "store", None, "c"
        place.datastore_name, place.datastore_free_bytes = "store", 3 << 20
        return place, []

    def missing_rights(self, entity: str, rights: tuple[str, ...]) -> list[str]:
        return list(rights) if entity == "store" else []

    def offered_guests(self, _compute: object, _version: str | None) -> list[Any]:
        return []


def test_missing_rights_and_versions_are_told_without_stopping_at_the_first() -> None:
    vcenter: Any = Ready()
    found = _vcenter_check.check(vcenter, WANTED | {"cluster": "c", "hardware_version": "vmx-99"}, None)
    assert [(one.code, one.subject) for one in found] == [
        ("vcenter-right", "datastore"),
        ("hardware-version", "hardware_version"),
    ]
    assert "Datastore.AllocateSpace" in found[0].message


def test_room_is_an_error_only_when_it_is_known_what_the_disks_hold() -> None:
    vcenter: Any = Ready()
    disk = {"index": 0, "size_bytes": 9 << 20, "used_bytes": None, "data_chunks": 4}
    migration = {"machine": {}, "disks": [disk]}
    # without a hardware version that is offered, only the room is left to look at
    wanted = WANTED | {"cluster": "c", "hardware_version": "vmx-99"}
    (space,) = [one for one in _vcenter_check.check(vcenter, wanted, migration) if one.code == "datastore-space"]
    assert (space.severity, "4194304" in space.message) == ("error", True)
    disk["data_chunks"] = None
    (space,) = [one for one in _vcenter_check.check(vcenter, wanted, migration) if one.code == "datastore-space"]
    assert (space.severity, space.message.endswith("9437184 at most")) == ("warning", True)
