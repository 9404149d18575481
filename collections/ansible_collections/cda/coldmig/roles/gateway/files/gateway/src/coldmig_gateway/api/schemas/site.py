# SPDX-License-Identifier: GPL-3.0-or-later
"""The site itself: health, address and switch."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from coldmig_gateway.api.schemas.common import BytesPerSecond, Input, Output, SimpleName


class Health(Output):
    """The service works and reaches its database."""

    status: str
    version: str
    activated: bool


class Site(Output):
    """What an ISO must know to find the site and to trust it."""

    url: str
    ca_pem: str
    version: str
    name: str


class SiteLimits(Output):
    """What all copies of the site may take together; null is no limit."""

    bandwidth_limit: int | None = Field(description="Bytes per second")
    max_concurrent_copies: int | None
    changed_at: datetime | None
    changed_by: str | None


class SiteLimitsInput(Input):
    """Limits to change; what is left out stays, null takes a limit away."""

    bandwidth_limit: BytesPerSecond | None = None
    max_concurrent_copies: Annotated[int, Field(ge=1, le=100_000)] | None = None


class Activation(Output):
    """Whether machines may register, and of which organizations (an empty list: of none)."""

    active: bool
    organizations: list[str]
    changed_at: datetime | None
    changed_by: str | None


class ActivationInput(Input):
    """The switch. `organizations` null leaves them as they are."""

    active: bool
    organizations: Annotated[list[SimpleName], Field(max_length=10_000)] | None = None
