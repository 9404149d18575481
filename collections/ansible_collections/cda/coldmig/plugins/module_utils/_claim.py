# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""The claim of a runner on one migration, renewed in a thread as long as the runner works.

A runner that is killed lets go by itself, after the seconds that a claim holds. Every process has a claim of its own: a
job that is repeated must not go on beside what is left of the job before.
"""

from __future__ import annotations

import threading
import typing as t
import uuid
from collections.abc import Callable

from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError, HttpError, StateError

SECONDS = 60
"""How long a claim holds unless it is renewed, by default."""
RENEWALS = 3
"""How often it is renewed within that time."""


class ClaimLostError(StateError):
    """The migration is not this runner's any more."""


class Claim:
    """Keeps a claim. *renew* asks the gateway once and gives the migration; it is called in a thread of its own."""

    def __init__(self, seconds: int, renew: Callable[[], t.Mapping[str, t.Any]]) -> None:
        self.lost: ClaimLostError | None = None
        self._seconds = seconds
        self._renew = renew
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="claim", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Renew no more."""
        self._ended.set()
        self._thread.join(timeout=5)

    def require(self) -> None:
        """Raise ClaimLostError when another runner has the migration, or it was canceled."""
        if self.lost is not None:
            raise self.lost

    def _keep(self) -> None:
        while not self._ended.wait(self._seconds / RENEWALS):
            try:
                migration = self._renew()
            except HttpError as error:
                if error.status in (404, 409):
                    self.lost = ClaimLostError(f"this run has lost the migration: {error}")
                    return
            except ColdmigError:
                continue  # the gateway may be back before the claim ends
            else:
                if migration.get("state") in ("canceled", "failed"):
                    self.lost = ClaimLostError(f"the migration was {migration['state']} while its VM was being made")
                    return


def new_holder() -> str:
    """By what the gateway knows this process."""
    return str(uuid.uuid4())
