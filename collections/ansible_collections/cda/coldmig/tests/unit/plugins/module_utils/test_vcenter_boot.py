# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_boot import Begun, Seen, first_use, judge


@pytest.mark.parametrize(
    ("seen", "seconds", "expected"),
    [
        (Seen(powered_on=True), 5, None),
        (Seen(powered_on=True), 90, (True, "running")),
        (Seen(powered_on=True, heartbeat="green"), 1, None),  # what is left of a run before
        (Seen(powered_on=True, tools=True), 90, None),  # they start before their heart beats
        (Seen(powered_on=True, tools=True, heartbeat="red"), 300, (False, "none")),
        (Seen(powered_on=True, tools=True, heartbeat="green"), 1, (True, "heartbeat")),
        (Seen(powered_on=True, tools=True, heartbeat="yellow"), 1, (True, "heartbeat")),
        (Seen(powered_on=True, tools=True, heartbeat="green", crashed=True), 1, (False, "none")),
        (Seen(powered_on=True, question="Did you move or copy it?"), 1, (False, "none")),
        (Seen(powered_on=False), 1, (False, "none")),
    ],
)
def test_sign_of_life(seen: Seen, seconds: float, expected: tuple[bool, str] | None) -> None:
    verdict = judge(seen, seconds, timeout=300, without_tools=90)
    assert (None if verdict is None else verdict[:2]) == expected


def test_question_of_vcenter_is_quoted() -> None:
    verdict = judge(Seen(powered_on=True, question="Moved or copied?"), 1, timeout=300, without_tools=90)
    assert verdict is not None
    assert "Moved or copied?" in verdict[2]


def at(minutes: float) -> datetime:
    return datetime(2026, 5, 4, 10, 0, tzinfo=UTC) + timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("power_ons", "begun", "first"),
    [
        ([], [], None),
        ([], [0], None),  # killed before the VM was powered on
        ([1], [0], None),
        ([-1], [0], None),  # clocks differ
        ([1, 1.1], [0], None),  # one power-on, by two events
        ([1, 2], [0], 2),  # somebody uses it right after
        ([30], [0], 30),
        ([1, 41], [0, 40], None),  # the first run was killed
        ([1, 41, 90], [0, 40], 90),
        ([5], [], 5),
    ],
)
def test_power_on_that_was_no_test_boot_is_use(power_ons: list[float], begun: list[float], first: float | None) -> None:
    boots = [Begun(at(minutes), seconds=20 * 60) for minutes in begun]
    found = first_use([at(minutes) for minutes in reversed(power_ons)], boots)
    assert found == (None if first is None else at(first))
