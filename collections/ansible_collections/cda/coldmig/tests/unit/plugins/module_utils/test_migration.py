# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _migration
from ansible_collections.cda.coldmig.plugins.module_utils._errors import InputError, StateError


def migration(state: str, **changes: t.Any) -> dict[str, t.Any]:
    return {"id": "m-1", "name": "erp-db-01", "state": state, "reason": None, "power_on": False, **changes}


def options(**changes: t.Any) -> dict[str, t.Any]:
    return {"name": None, "power_on": None, "destination": None, "reason": "enough", **changes}


@pytest.mark.parametrize("state", _migration.STATES)
def test_only_one_that_waits_is_confirmed(state: str) -> None:
    if state in ("failed", "canceled", "assessed"):
        with pytest.raises(StateError, match=r"migration 'erp-db-01' \(m-1\) .* boot the source"):
            _migration.needs_confirmation(migration(state))
    else:
        assert _migration.needs_confirmation(migration(state)) is (state == "waiting")


@pytest.mark.parametrize("state", _migration.STATES)
def test_only_one_under_way_is_canceled(state: str) -> None:
    if state in ("failed", "finished"):
        with pytest.raises(StateError, match=f"has {state} already"):
            _migration.needs_cancellation(migration(state))
    elif state == "assessed":
        with pytest.raises(StateError, match="was an assessment; there is nothing to cancel"):
            _migration.needs_cancellation(migration(state))
    else:
        assert _migration.needs_cancellation(migration(state)) is (state != "canceled")


@pytest.mark.parametrize("state", _migration.STATES)
def test_only_an_ended_one_is_removed(state: str) -> None:
    if state in ("finished", "failed", "canceled", "assessed"):
        _migration.require_ended(migration(state))
    else:
        with pytest.raises(StateError, match=f"is {state}; cancel it"):
            _migration.require_ended(migration(state))


@pytest.mark.parametrize("state", _migration.STATES)
def test_settings_change_until_the_import(state: str) -> None:
    if state in ("waiting", "confirmed", "copying", "copied"):
        found = _migration.wanted_changes(migration(state), options(power_on=True, name="erp-db-01"))
        assert found.after == {"power_on": True}
    else:
        with pytest.raises(StateError, match=f"is {state}: power_on can be changed only before the import"):
            _migration.wanted_changes(migration(state), options(power_on=True))


def test_settings_that_are_so_already_are_no_error_after_the_import() -> None:
    assert not _migration.wanted_changes(migration("finished"), options(power_on=False, name="erp-db-01"))


def test_reason_of_a_failure_is_told() -> None:
    with pytest.raises(StateError, match=r"has failed \(disk-unreadable\)"):
        _migration.needs_confirmation(migration("failed", reason="disk-unreadable"))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (options(name="two words"), "name"),
        (options(name=""), "name"),
        (options(reason=" "), "reason"),
        (options(system=""), "system"),
        (options(system="x" * 257), "system"),
        (options(accept_warnings=["tpm-sealed", "Not A Code"]), "accept_warnings[1]"),
        (options(hardware={"memory_mb": 4095}), "hardware.memory_mb"),
    ],
)
def test_bad_option_is_named(given: dict[str, t.Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        _migration.check_options(given)
    assert caught.value.field == field


def test_unreadable_sectors_are_accepted_before_the_import_only() -> None:
    accept = options(accept_unreadable=True)
    found = _migration.wanted_changes(migration("copied", accept_unreadable=False), accept)
    assert found.after == {"accept_unreadable": True}
    assert not _migration.wanted_changes(migration("importing", accept_unreadable=True), accept)
    with pytest.raises(StateError, match="accept_unreadable can be changed only before the import"):
        _migration.wanted_changes(migration("importing", accept_unreadable=False), accept)


DEBIAN = {"key": "disk0/2", "os_type": "linux", "id": "debian", "hostname": "erp-db-01", "place": "disk 0, partition 2"}
WINDOWS = {"key": "disk1/1", "os_type": "windows", "id": "windows", "hostname": "ERP", "pretty_name": "Windows 10"}
SEALED = {
    "code": "tpm-sealed",
    "severity": "block",
    "message": "A key is sealed.",
    "action": "Add another.",
    "accepted": False,
}
NOT_FOUND = {"code": "system-not-found", "severity": "block", "message": "No macos.", "action": None, "accepted": False}
KNOWN = {"code": "unclean-filesystem", "severity": "warning", "message": "Dirty.", "action": None, "accepted": False}


def held_back(*warnings: dict[str, t.Any]) -> dict[str, t.Any]:
    codes = [warning["code"] for warning in warnings if warning["severity"] == "block"]
    found = {"guest": DEBIAN, "guests": [DEBIAN, WINDOWS], "system": None, "machine": {"guest": DEBIAN}}
    return migration("waiting", warnings=list(warnings), blocked=codes, accept_warnings=[], **found)


def test_what_holds_it_back_is_listed_with_what_to_do_about_it() -> None:
    with pytest.raises(_migration.HeldBackError) as caught:
        _migration.require_free(held_back(SEALED, KNOWN, NOT_FOUND))
    assert str(caught.value).splitlines() == [
        "migration 'erp-db-01' (m-1) is held back by warnings:",
        "- tpm-sealed: A key is sealed. Add another",
        "- system-not-found: No macos",
        "Do what they say and boot the machine again, or accept them with"
        " accept_warnings: [tpm-sealed, system-not-found]",
    ]
    details = caught.value.details()
    assert details["blocked"] == ["tpm-sealed", "system-not-found"]
    assert details["held_back_by"][0] == {name: SEALED[name] for name in ("code", "message", "action")}


def test_what_is_accepted_holds_nothing_back() -> None:
    found = held_back(SEALED, KNOWN)
    changes = _migration.wanted_changes(found, options(accept_warnings=["tpm-sealed"])).after
    after = _migration.predicted(found, changes)
    assert after["blocked"] == []
    assert [item["accepted"] for item in after["warnings"]] == [True, False]
    _migration.require_free(after)


def test_codes_are_accepted_beside_those_of_before() -> None:
    found = {**held_back(SEALED), "accept_warnings": ["hibernated"]}
    assert _migration.wanted_changes(found, options(accept_warnings=["tpm-sealed"])).after == {
        "accept_warnings": ["hibernated", "tpm-sealed"]
    }
    assert not _migration.wanted_changes(found, options(accept_warnings=["hibernated"]))


def test_choosing_a_system_that_is_there_settles_the_question() -> None:
    found = held_back(NOT_FOUND)
    changes = _migration.wanted_changes(found, options(system="disk1/1")).after
    after = _migration.predicted(found, changes)
    assert (after["guest"], after["blocked"], after["warnings"]) == (WINDOWS, [], [])
    with pytest.raises(InputError, match="disk0/2, disk1/1"):
        _migration.wanted_changes(found, options(system="macos*"))


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("disk1/1", WINDOWS),
        ("DISK1/1", WINDOWS),
        ("windows*", WINDOWS),
        ("erp", WINDOWS),
        ("linux", DEBIAN),
        ("disk*", DEBIAN),
        ("*", DEBIAN),
        ("solaris", None),
    ],
)
def test_a_system_is_found_by_its_key_before_any_pattern(system: str, expected: t.Any) -> None:
    assert _migration.find_guest(held_back(), system) == expected


def test_an_older_gateway_tells_of_one_system_and_no_hardware() -> None:
    old = migration("copied", machine={"guest": DEBIAN})
    assert _migration.guest_of(old) == DEBIAN
    assert set(_migration.hardware_of(old).values()) == {None}
    assert _migration.hardware_of(migration("copied", hardware={"cpus": 2}))["cpus"] == 2
