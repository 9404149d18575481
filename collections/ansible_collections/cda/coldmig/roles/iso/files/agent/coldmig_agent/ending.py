# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine does when its migration has ended: stay, power off or reboot, as its template or its ISO says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from coldmig_agent.config import Config
from coldmig_agent.keys import Keys
from coldmig_agent.status import Phase

if TYPE_CHECKING:
    from coldmig_agent.lifecycle import Agent

LOG = logging.getLogger(__name__)

#: Time for a person to keep the machine as it is.
COUNTDOWN_SECONDS = 30.0
#: After a key was pressed: time to press another one.
LAST_SECONDS = 5.0
_FOREVER = 3600.0


class Act(StrEnum):
    """What is done at the end."""

    STAY = "stay"
    POWER_OFF = "poweroff"
    REBOOT = "reboot"


#: key → what a person may choose; the console says it with these words.
KEYS: Mapping[str, Act] = {"r": Act.REBOOT, "p": Act.POWER_OFF}
WORDS: Mapping[Act, str] = {Act.REBOOT: "rebooting", Act.POWER_OFF: "powering off"}

Actions = Mapping[str, tuple[str, Callable[[], None]]]
_GOOD = frozenset({Phase.DONE, Phase.ASSESSED})


@dataclass(frozen=True, slots=True)
class AtEnd:
    """The template's settings as the site tells them; None is left open."""

    success: Act | None = None
    failure: Act | None = None


LEFT_OPEN = AtEnd()


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done, and who wants it."""

    act: Act
    because: str = ""


def decide(phase: Phase, at_end: AtEnd, config: Config) -> Decision:
    """What a machine does whose migration has ended in this phase.

    An assessment only ends in the way that the template says: its ISO's setting was made for copies.
    """
    wanted = at_end.success if phase in _GOOD else at_end.failure
    if wanted is not None:
        return Decision(wanted, "as its template says")
    if phase is Phase.DONE and config.poweroff_when_done:
        return Decision(Act.POWER_OFF, "as this ISO says")
    return Decision(Act.STAY)


def finish(agent: Agent, keys: Keys, actions: Actions, at_end: AtEnd) -> None:
    """Do what was decided; a key that is pressed before keeps the machine as it is, and then offers the choice.

    Never ends but by Stopped. ``actions``: key of :data:`KEYS` → (what will happen, how).
    """
    snapshot = agent.status.snapshot()
    decision = decide(snapshot.phase, at_end, agent.config)
    wanted = [actions[key] for key, act in KEYS.items() if act is decision.act and key in actions]
    for what, do in wanted:
        say = f"{what} in {COUNTDOWN_SECONDS:.0f} s, {decision.because}; press a key to stay"
        agent.status.phase(snapshot.phase, "; ".join(part for part in (snapshot.detail, say) if part))
        pressed = agent.key(keys, COUNTDOWN_SECONDS)
        agent.status.phase(snapshot.phase, snapshot.detail if pressed else f"{what}, {decision.because}")
        if not pressed:
            do()
    offer(agent, keys, actions)


def offer(agent: Agent, keys: Keys, actions: Actions) -> None:
    """Do what the operator chooses. Never ends but by Stopped.

    ``actions``: key → (what will happen, how). Another key within the last seconds calls it off.
    """
    before = agent.status.snapshot()
    if actions:
        agent.status.event(f"press {' or '.join(f'{key} for {what}' for key, (what, _do) in actions.items())}")
    while True:
        key = agent.key(keys, _FOREVER)
        if key not in actions:
            continue
        what, do = actions[key]
        agent.status.phase(before.phase, f"{what} in {LAST_SECONDS:.0f} s; press another key to stay")
        if agent.key(keys, LAST_SECONDS, besides=key):  # a key that is held down repeats itself
            agent.status.phase(before.phase, before.detail)
        else:
            agent.status.phase(before.phase, what)
            do()
