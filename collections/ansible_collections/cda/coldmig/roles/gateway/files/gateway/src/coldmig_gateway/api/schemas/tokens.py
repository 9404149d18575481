# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens and ISO credentials. The secret is in the answer to the creation and nowhere else."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from coldmig_gateway.api.schemas.common import Description, Input, Output, SimpleName


class TokenInput(Input):
    """A new token for an organization."""

    organization: SimpleName
    description: Description = ""


class Token(Output):
    """A token, without its secret."""

    id: str
    kind: Literal["provider", "organization"]
    organization: str | None
    description: str
    created_at: datetime
    created_by: str
    revoked_at: datetime | None


class NewToken(Token):
    """A token with its secret, which is shown this once."""

    token: str


class IsoCredentialInput(Input):
    """A new credential for an ISO."""

    ttl_hours: Annotated[int, Field(ge=1, le=8760, description="Hours until it expires")] = 168
    max_registrations: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    description: Description = ""


class IsoCredential(Output):
    """A credential, without its secret."""

    id: str
    template_id: str
    fingerprint: str = Field(description="First 16 hexadecimal digits of the SHA-256 of the secret")
    description: str
    created_at: datetime
    created_by: str
    expires_at: datetime
    max_registrations: int | None
    uses: int
    last_used_at: datetime | None
    revoked_at: datetime | None


class NewIsoCredential(IsoCredential):
    """A credential with its secret, which is shown this once."""

    credential: str
