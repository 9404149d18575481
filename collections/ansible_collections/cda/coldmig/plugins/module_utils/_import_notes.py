# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Why an import failed or is repeated, noted on the migration in words that its tenant may read.

Errors of vCenter name hosts, datastores and paths of the provider, so a tenant learns of them no more than at whose
side it was. Cloud Director has texts for tenants of its own. The provider reads the whole error in the run's output.
"""

from __future__ import annotations

import contextlib
import typing as t
from collections.abc import Iterator

from ansible_collections.cda.coldmig.plugins.module_utils._claim import ClaimLostError
from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient, Migration
from ansible_collections.cda.coldmig.plugins.module_utils._vm_hardware import HardwareChoiceError

CHECK = "import"
AT_VCENTER = ("vcenter", "vCenter", "The provider's vCenter could not make the VM; the provider knows why")
AT_TEST_BOOT = ("test-boot", "vCenter", "The VM could not be booted to see whether it starts; the provider knows why")
AT_VCD = ("vcd", "Cloud Director", "Cloud Director could not take the VM over; the provider knows why")
LONGEST = 2000
NEXT = "The next run of the provider tries again."

Side = tuple[str, str, str]
"""Short name, name, and what a tenant reads where there is nothing better."""


def tenant_text(error: ColdmigError, side: Side) -> str:
    """What a tenant may read of this error."""
    told = error.details().get("tenant_msg")
    if told is None and isinstance(error, HardwareChoiceError):
        told = str(error)
    if told is None and getattr(error, "unreachable", False):
        told = f"{side[1]} did not answer"
    return str(told or side[2])[:LONGEST]


@contextlib.contextmanager
def noting_failures(gateway: GatewayClient, migration_id: str, side: Side) -> Iterator[None]:
    """Note the error that ends this; it goes on. Only of a run that has the migration claimed, and still has it."""
    try:
        yield
    except ClaimLostError:
        raise
    except ColdmigError as error:
        if gateway.holds(migration_id):
            _note(gateway, migration_id, side, tenant_text(error, side), f"The import failed. {NEXT}")
        raise


def note_repetition(gateway: GatewayClient, migration_id: str, side: Side) -> None:
    """Note that the run that is at work repeats the import."""
    _note(gateway, migration_id, side, side[2], "The import was interrupted, and the same run repeats it.")


def note_success(gateway: GatewayClient, migration: Migration) -> None:
    """Take the note of an earlier failure back; without one nothing is written."""
    earlier = (migration.get("checks") or {}).get(CHECK)
    if earlier is not None and not earlier["passed"]:
        with contextlib.suppress(ColdmigError):
            gateway.note_check(migration["id"], CHECK, {"passed": True, "detail": "The VM was made.", "findings": []})


def _note(gateway: GatewayClient, migration_id: str, side: Side, text: str, detail: str) -> None:
    code, subject, _unused = side
    finding: dict[str, t.Any] = {
        "code": f"{code}-import",
        "severity": "error",
        "subject": subject,
        "message": text,
        "expected": "",
    }
    # the error itself is what counts: a gateway that does not know this check, or does not answer, must not hide it
    with contextlib.suppress(ColdmigError):
        gateway.note_check(migration_id, CHECK, {"passed": False, "detail": detail, "findings": [finding]})
