# SPDX-License-Identifier: GPL-3.0-or-later
"""The site itself: health, address and switch."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from coldmig_gateway.api.schemas.common import Input, Output, SimpleName


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
