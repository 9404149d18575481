# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from coldmig_gateway.store.states import ACTIVE, ENDED, TRANSITIONS, Action, State, WrongStateError, after, require


def test_the_ordinary_way_leads_from_waiting_to_finished() -> None:
    state = State.WAITING
    for action in (Action.CONFIRM, Action.BEGIN_COPYING, Action.COPIED, Action.IMPORT, Action.FINISH):
        state = after(action, state)
    assert state is State.FINISHED


@pytest.mark.parametrize("state", sorted(ENDED))
@pytest.mark.parametrize("action", Action)
def test_nothing_leaves_an_end(action: Action, state: State) -> None:
    if state is State.FINISHED and action in (Action.UNDO, Action.REOPEN):
        return  # what was made of it is removed again
    with pytest.raises(WrongStateError):
        after(action, state)


def test_an_assessment_is_an_end_that_no_action_leads_to() -> None:
    assert State.ASSESSED in ENDED
    assert State.ASSESSED not in {target for _, target in TRANSITIONS.values()}


@pytest.mark.parametrize("state", sorted(ACTIVE))
def test_everything_under_way_can_fail_and_be_canceled(state: State) -> None:
    assert after(Action.FAIL, state) is State.FAILED
    assert after(Action.CANCEL, state) is State.CANCELED


def test_copied_is_reached_only_from_copying_or_where_the_copy_lies_staged() -> None:
    ways = {action: states for action, (states, target) in TRANSITIONS.items() if target is State.COPIED}
    assert ways == {Action.COPIED: {State.COPYING}, Action.REOPEN: {State.COPIED, State.IMPORTING, State.FINISHED}}


def test_the_error_names_state_and_what_is_allowed() -> None:
    with pytest.raises(WrongStateError, match=r"'import'.*'waiting'.*copied, importing") as caught:
        after(Action.IMPORT, State.WAITING)
    assert caught.value.allowed == [State.COPIED, State.IMPORTING]
    require("anything", State.WAITING, frozenset({State.WAITING}))
