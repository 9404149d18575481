# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Errors of VMware Cloud Director, with what a tenant may read of them.

The full text is for the provider: it may name hosts, datastores and objects of vCenter. A tenant gets VCD's own
``TenantError`` where there is one, and else only that it did not work and by which request to ask the provider.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError, TransportError

BUSY = "BUSY_ENTITY"
DUPLICATE_NAME = "DUPLICATE_NAME"
LIMIT = "OPERATION_LIMIT"

_BUSY_TEXT = re.compile(r"\bis busy\b|\bcurrently busy\b", re.IGNORECASE)
_PASSING = frozenset({408, 429, 500, 502, 503, 504})


class VcdError(ColdmigError):
    """Cloud Director refused, or did not do what it was asked for.

    *tenant* is the text that a tenant may read; without it he gets one that says no more than that it failed.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        minor: str = "",
        request_id: str | None = None,
        tenant: str | None = None,
    ) -> None:
        super().__init__(message + (f" [request {request_id}]" if request_id else ""))
        self.status = status
        self.minor = minor
        self.request_id = request_id
        self.tenant = tenant
        self._message = message

    @property
    def busy(self) -> bool:
        """Whether something else works on the entity: nothing was done, and it can be asked for again."""
        if self.minor == BUSY or LIMIT in self.minor.upper():
            return True
        return self.status in (None, 400) and _BUSY_TEXT.search(self._message) is not None

    @property
    def passing(self) -> bool:
        """Whether the server had trouble of its own, so that the same request may well succeed."""
        return self.status in _PASSING

    @property
    def tenant_text(self) -> str:
        """What a tenant may read."""
        text = self.tenant or f"Cloud Director could not do it{f' ({self.minor})' if self.minor else ''}"
        return text + (f" [request {self.request_id}]" if self.request_id else "")

    def details(self) -> dict[str, t.Any]:
        found = {
            "http_status": self.status,
            "vcd_error": self.minor or None,
            "vcd_request_id": self.request_id,
            "tenant_msg": self.tenant_text,
        }
        return {name: value for name, value in found.items() if value is not None}


class TaskFailedError(VcdError):
    """A task ended otherwise than well."""


class DestinationError(ColdmigError):
    """The destination names something that VCD does not have; lists what it has.

    *for_tenants* is False where the text names what is the provider's.
    """

    def __init__(self, message: str, *, for_tenants: bool = True) -> None:
        super().__init__(message)
        self.for_tenants = for_tenants

    def details(self) -> dict[str, t.Any]:
        return {"tenant_msg": str(self)} if self.for_tenants else {}


def is_uncertain(error: ColdmigError) -> bool:
    """Whether what was asked for may have been done nevertheless."""
    if isinstance(error, TransportError):
        return error.sent
    return isinstance(error, VcdError) and error.status is not None and error.status >= 500
