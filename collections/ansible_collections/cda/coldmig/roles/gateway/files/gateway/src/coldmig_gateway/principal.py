# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is asking."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a caller is to the site."""

    PROVIDER = "provider"  # runs the site, sees everything
    ORGANIZATION = "organization"  # a tenant, sees its own
    ISO = "iso"  # a booted ISO, may register under its template
    SESSION = "session"  # an agent, may work on its one migration


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    Attributes:
        id: of the token or ISO credential; of the migration for a session.
        organization: the one it belongs to; None for the provider only.
    """

    role: Role
    id: str
    organization: str | None

    @property
    def actor(self) -> str:
        """How the audit trail calls this caller."""
        if self.role is Role.ORGANIZATION:
            return f"organization {self.organization} (token {self.id})"
        names = {Role.PROVIDER: "provider (token {})", Role.ISO: "ISO credential {}", Role.SESSION: "agent of {}"}
        return names[self.role].format(self.id)
