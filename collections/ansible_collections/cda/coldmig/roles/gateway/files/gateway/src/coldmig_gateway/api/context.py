# SPDX-License-Identifier: GPL-3.0-or-later
"""What every request handler needs: settings, database, the caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from coldmig_gateway.api.problems import Problem, forbidden
from coldmig_gateway.config import Settings
from coldmig_gateway.principal import Principal, Role
from coldmig_gateway.store import principals
from coldmig_gateway.store.confirmation import Staging
from coldmig_gateway.store.database import Database
from coldmig_gateway.store.presence import Presence, heard_since
from coldmig_gateway.store.queue import RecentQueue
from coldmig_gateway.tokens import TokenKind, kind_of, token_digest


@dataclass(frozen=True, slots=True)
class Context:
    """One running site."""

    settings: Settings
    database: Database
    presence: Presence = field(default_factory=Presence)
    queue: RecentQueue = field(default_factory=RecentQueue)

    @property
    def staging(self) -> Staging:
        """The staging area as confirmations see it."""
        return Staging(self.settings.staging, self.settings.staging_reserve_bytes)

    @property
    def silent_after(self) -> timedelta:
        """An agent that was not heard of for so long is gone."""
        return timedelta(seconds=self.settings.silent_seconds)

    @property
    def heard_since(self) -> datetime:
        """Since when an agent must have been heard of to count as being there."""
        return heard_since(self.presence.started, self.silent_after)


async def _context(request: Request) -> Context:
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


def _require(*roles: Role) -> Callable[[Principal], Awaitable[Principal]]:
    async def check(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
        if principal.role not in roles:
            raise _not_for(principal, *roles)
        return principal

    return check


def _not_for(principal: Principal, *roles: Role) -> Problem:
    allowed = " or ".join(f"'{role}'" for role in roles)
    return forbidden(f"This is for a token of kind {allowed}; yours is of kind '{principal.role}'.")


AnyCaller = Annotated[Principal, Depends(_principal)]
ProviderCaller = Annotated[Principal, Depends(_require(Role.PROVIDER))]
TenantCaller = Annotated[Principal, Depends(_require(Role.PROVIDER, Role.ORGANIZATION))]
IsoCaller = Annotated[Principal, Depends(_require(Role.ISO))]
SessionCaller = Annotated[Principal, Depends(_require(Role.SESSION))]


async def _session_token(
    context: SiteContext, authorization: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> str:
    """The digest of a session's token, which is not looked up yet."""
    if authorization is None or kind_of(authorization.credentials) is not TokenKind.SESSION:
        principal = await run_in_threadpool(_principal, context, authorization)
        raise _not_for(principal, Role.SESSION)
    return token_digest(authorization.credentials)


SessionToken = Annotated[str, Depends(_session_token)]


def source_address(request: Request) -> str | None:
    """The caller's IP address, as the front told it."""
    return request.client.host if request.client and request.client.host else None
