# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._errors import InputError
from ansible_collections.cda.coldmig.plugins.module_utils._site_limits import check_options, wanted_changes


@pytest.mark.parametrize(
    ("options", "field", "expected"),
    [
        ({"bandwidth_limit": 65535}, "bandwidth_limit", "from 65536 on, or 0 for no limit"),
        ({"bandwidth_limit": -1}, "bandwidth_limit", "from 65536 on"),
        ({"max_concurrent_copies": -1}, "max_concurrent_copies", "from 1 on, or 0"),
    ],
)
def test_limit_that_no_site_can_have_is_named(options: dict[str, t.Any], field: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        check_options(options)
    assert caught.value.field == field


@pytest.mark.parametrize("value", [None, 0, 65536, 1 << 40])
def test_good_limits_pass(value: int | None) -> None:
    check_options({"bandwidth_limit": value, "max_concurrent_copies": value})


def test_zero_takes_a_limit_away_and_nothing_leaves_it() -> None:
    current = {"bandwidth_limit": 70000, "max_concurrent_copies": 2}
    found = wanted_changes(current, {"bandwidth_limit": 0, "max_concurrent_copies": None})
    assert found.as_diff() == {"before": {"bandwidth_limit": 70000}, "after": {"bandwidth_limit": None}}
    assert not wanted_changes(current, {"bandwidth_limit": 70000, "max_concurrent_copies": 2})
    assert not wanted_changes({"bandwidth_limit": None}, {"bandwidth_limit": 0})
