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
    if state in ("failed", "canceled"):
        with pytest.raises(StateError, match=r"migration 'erp-db-01' \(m-1\) .* boot the source"):
            _migration.needs_confirmation(migration(state))
    else:
        assert _migration.needs_confirmation(migration(state)) is (state == "waiting")


@pytest.mark.parametrize("state", _migration.STATES)
def test_only_one_under_way_is_canceled(state: str) -> None:
    if state in ("failed", "finished"):
        with pytest.raises(StateError, match=f"has {state} already"):
            _migration.needs_cancellation(migration(state))
    else:
        assert _migration.needs_cancellation(migration(state)) is (state != "canceled")


@pytest.mark.parametrize("state", _migration.STATES)
def test_only_an_ended_one_is_removed(state: str) -> None:
    if state in ("finished", "failed", "canceled"):
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
    [(options(name="two words"), "name"), (options(name=""), "name"), (options(reason=" "), "reason")],
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
