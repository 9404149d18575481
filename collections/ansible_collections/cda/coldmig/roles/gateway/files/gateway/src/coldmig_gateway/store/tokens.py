# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens of the provider and of organizations."""

from __future__ import annotations

import uuid

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from coldmig_gateway.clock import now
from coldmig_gateway.store import audit
from coldmig_gateway.store.errors import NotFoundError
from coldmig_gateway.store.models import Token
from coldmig_gateway.store.paging import Page, PageRequest, fetch
from coldmig_gateway.tokens import TokenKind, new_token, token_digest


def add(session: Session, actor: str, organization: str | None, description: str) -> tuple[Token, str]:
    """Make a token, for the provider when there is no organization. The text is given out here and never again."""
    secret = new_token(TokenKind.ORGANIZATION if organization else TokenKind.PROVIDER)
    token = Token(
        id=str(uuid.uuid4()),
        organization=organization,
        description=description,
        digest=token_digest(secret),
        created_at=now(),
        created_by=actor,
    )
    session.add(token)
    audit.write(session, actor, ("token", token.id), "create", detail={"organization": organization})
    return token, secret


def listing(session: Session, page: PageRequest) -> Page[Token]:
    """All tokens, revoked ones too, newest first."""
    return fetch(session, select(Token), Token, page)


def revoke(session: Session, actor: str, token_id: str) -> None:
    """Make a token useless at once. Revoking it again is nothing new."""
    token = session.get(Token, token_id)
    if token is None:
        raise NotFoundError("token", token_id)
    if token.revoked_at is None:
        token.revoked_at = now()
        audit.write(session, actor, ("token", token.id), "revoke")


def count_provider_tokens(session: Session) -> int:
    """How many provider tokens are good now."""
    query = select(func.count()).select_from(Token).where(Token.organization.is_(None), Token.revoked_at.is_(None))
    return session.scalar(query) or 0
