# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from ansible_collections.cda.coldmig.plugins.module_utils._diff import Differences


def test_only_wanted_names_are_compared() -> None:
    found = Differences.between({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 5, "d": None})
    assert found.as_diff() == {"before": {"b": 2}, "after": {"b": 5}}
    assert found


def test_no_difference_is_false() -> None:
    assert not Differences.between({"a": [1, {"x": None}]}, {"a": [1, {"x": None}]})
