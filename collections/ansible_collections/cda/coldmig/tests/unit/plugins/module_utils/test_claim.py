# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The claim of a runner: renewed until it is stopped, and lost when somebody else has the migration."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._claim import Claim, ClaimLostError, new_holder
from ansible_collections.cda.coldmig.plugins.module_utils._errors import HttpError, Problem, TransportError


class Gateway:
    """Answers each renewal with the next of these; the last one stays."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = threading.Semaphore(0)

    def renew(self) -> dict[str, str]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.asked.release()
        if isinstance(answer, Exception):
            raise answer
        return {"state": answer}

    def wait_for(self, renewals: int) -> None:
        for _renewal in range(renewals):
            assert self.asked.acquire(timeout=30)


def refused(status: int) -> HttpError:
    problem = Problem(detail="Another runner works on it: job 7", status=status)
    return HttpError(method="POST", url="https://gw/claim", status=status, problem=problem)


def kept(gateway: Gateway, renewals: int) -> Claim:
    """A claim after so many renewals."""
    claim = Claim(0, gateway.renew)
    claim.start()
    gateway.wait_for(renewals)
    claim.stop()
    return claim


@pytest.mark.parametrize(
    "passing", [refused(500), refused(503), TransportError("refused", method="POST", url="https://gw", sent=False)]
)
def test_claim_is_renewed_through_trouble_that_passes(passing: Exception) -> None:
    kept(Gateway("importing", passing, "importing"), 4).require()


@pytest.mark.parametrize("status", [404, 409])
def test_claim_is_lost_when_the_gateway_refuses_it(status: int) -> None:
    claim = kept(Gateway("importing", refused(status)), 2)
    with pytest.raises(ClaimLostError, match=r"lost the migration.*job 7"):
        claim.require()


@pytest.mark.parametrize("state", ["canceled", "failed"])
def test_migration_that_ended_meanwhile_is_not_gone_on_with(state: str) -> None:
    claim = kept(Gateway("importing", state), 2)
    with pytest.raises(ClaimLostError, match=f"was {state} while its VM was being made"):
        claim.require()


def test_stopped_claim_is_renewed_no_more() -> None:
    gateway = Gateway("importing")
    kept(gateway, 2)
    while gateway.asked.acquire(blocking=False):
        pass
    assert not gateway.asked.acquire(timeout=0.1)


def test_every_process_has_a_name_of_its_own() -> None:
    assert new_holder() != new_holder()
