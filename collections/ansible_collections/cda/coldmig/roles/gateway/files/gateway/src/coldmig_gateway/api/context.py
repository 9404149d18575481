# SPDX-License-Identifier: GPL-3.0-or-later
"""What every request handler needs: settings, database, the caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from coldmig_gateway.api.problems import Problem, forbidden
from coldmig_gateway.config import Settings
from coldmig_gateway.principal import Principal, Role
from coldmig_gateway.store import principals
from coldmig_gateway.store.database import Database


@dataclass(frozen=True, slots=True)
class Context:
    """One running site."""

    settings: Settings
    database: Database


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


SiteContext = Annotated[Context, Depends(_context)]

_bearer = HTTPBearer(auto_error=False, description="A token of the provider, an organization, an ISO or a session")


def _principal(
    context: SiteContext, authorization: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Principal:
    if authorization is None:
        detail = "Send the header 'Authorization: Bearer <token>'."
        raise Problem(401, "unauthenticated", "No token", detail)
    with context.database.read() as session:
        return principals.authenticate(session, authorization.credentials)


def _require(*roles: Role) -> Callable[[Principal], Principal]:
    def check(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
        if principal.role not in roles:
            allowed = " or ".join(f"'{role}'" for role in roles)
            raise forbidden(f"This is for a token of kind {allowed}; yours is of kind '{principal.role}'.")
        return principal

    return check


AnyCaller = Annotated[Principal, Depends(_principal)]
ProviderCaller = Annotated[Principal, Depends(_require(Role.PROVIDER))]
TenantCaller = Annotated[Principal, Depends(_require(Role.PROVIDER, Role.ORGANIZATION))]
IsoCaller = Annotated[Principal, Depends(_require(Role.ISO))]
SessionCaller = Annotated[Principal, Depends(_require(Role.SESSION))]


def source_address(request: Request) -> str | None:
    """The caller's IP address, as the front told it."""
    return request.client.host if request.client and request.client.host else None
