# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldmig_gateway import naming

ID = "0fb5b1de-7a57-4a53-9d3e-6a6c6f1f3f10"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{name}", "db-1"),
        ("cust7-{name}-{id}", "cust7-db-1-0fb5b1de"),
        ("{serial}", "S-9"),
        ("{name}{name}", "db-1db-1"),
    ],
)
def test_placeholders_are_replaced(pattern: str, expected: str) -> None:
    naming.check_pattern(pattern)
    assert naming.expand(pattern, name="db-1", serial="S/9", migration_id=ID) == expected


@given(st.sampled_from(["{name}", "-{name}.", "{serial}-{name}", "x{id}{serial}"]), st.text(), st.none() | st.text())
def test_whatever_a_machine_says_the_name_is_plain(pattern: str, name: str, serial: str | None) -> None:
    assert naming.NAME.fullmatch(naming.expand(pattern, name=name, serial=serial, migration_id=ID))


@pytest.mark.parametrize(
    "pattern", ["", "x", "{}", "{0}", "{name.x}", "{name[0]}", "{name!s}", "{name:9}", "{", "}", "ä{id}", "{id}/"]
)
def test_a_pattern_that_could_give_something_else_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="placeholder"):
        naming.check_pattern(pattern)
