# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_boot import Seen, judge


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
