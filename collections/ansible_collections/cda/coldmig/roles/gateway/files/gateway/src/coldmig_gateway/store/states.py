# SPDX-License-Identifier: GPL-3.0-or-later
"""The states of a migration and the ways between them. Pure logic, no storage."""

from __future__ import annotations

from enum import StrEnum

from coldmig_gateway.store.errors import StoreError


class State(StrEnum):
    """Where a migration is."""

    WAITING = "waiting"  # registered, somebody must confirm it
    CONFIRMED = "confirmed"  # may start to copy
    COPYING = "copying"
    COPIED = "copied"  # every chunk was re-read from staging and its digest matched
    IMPORTING = "importing"  # being made into a VM
    FINISHED = "finished"
    FAILED = "failed"
    CANCELED = "canceled"
    ASSESSED = "assessed"  # looked at and reported, as the template wanted; it has ended with that


class Action(StrEnum):
    """What moves a migration from one state to another."""

    CONFIRM = "confirm"
    BEGIN_COPYING = "begin-copying"
    COPIED = "copied"
    IMPORT = "import"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"
    UNDO = "undo"  # what was made at the destination is removed again
    REOPEN = "reopen"  # so that it can be imported again


ENDED = frozenset({State.FINISHED, State.FAILED, State.CANCELED, State.ASSESSED})
ACTIVE = frozenset(State) - ENDED
BEFORE_IMPORT = frozenset({State.WAITING, State.CONFIRMED, State.COPYING, State.COPIED})
STAGED = frozenset({State.COPIED, State.IMPORTING, State.FINISHED})  # the whole copy lies verified in staging

# action -> (states it may start from, state it leads to)
TRANSITIONS: dict[Action, tuple[frozenset[State], State]] = {
    Action.CONFIRM: (frozenset({State.WAITING}), State.CONFIRMED),
    # Each connection of an agent announces itself, so beginning again is nothing new.
    Action.BEGIN_COPYING: (frozenset({State.CONFIRMED, State.COPYING}), State.COPYING),
    Action.COPIED: (frozenset({State.COPYING}), State.COPIED),
    # An import that was interrupted is taken up again.
    Action.IMPORT: (frozenset({State.COPIED, State.IMPORTING}), State.IMPORTING),
    Action.FINISH: (frozenset({State.IMPORTING}), State.FINISHED),
    Action.FAIL: (ACTIVE, State.FAILED),
    Action.CANCEL: (ACTIVE, State.CANCELED),
    Action.UNDO: (STAGED, State.CANCELED),
    Action.REOPEN: (STAGED, State.COPIED),
}


class WrongStateError(StoreError):
    """The migration's state does not allow what was asked."""

    def __init__(self, wanted: str, state: State, allowed: frozenset[State]) -> None:
        self.wanted = wanted
        self.state = state
        self.allowed = sorted(allowed, key=list(State).index)
        super().__init__(
            f"'{wanted}' is not possible while the migration is '{state}'; "
            f"it is possible in: {', '.join(self.allowed)}."
        )


def after(action: Action, state: State) -> State:
    """The state that an action leads to.

    Raises:
        WrongStateError: the action is not possible in this state.
    """
    allowed, target = TRANSITIONS[action]
    require(str(action), state, allowed)
    return target


def require(wanted: str, state: State, allowed: frozenset[State]) -> None:
    """Raise WrongStateError unless ``state`` is one of ``allowed``."""
    if state not in allowed:
        raise WrongStateError(wanted, state, allowed)
