# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens of organizations. The provider's own are made on the gateway's command line only."""

from __future__ import annotations

from fastapi import APIRouter

from coldmig_gateway.api import views
from coldmig_gateway.api.context import ProviderCaller, SiteContext
from coldmig_gateway.api.problems import responses
from coldmig_gateway.api.schemas.common import Paged, PageOf
from coldmig_gateway.api.schemas.tokens import NewToken, Token, TokenInput
from coldmig_gateway.store import tokens

router = APIRouter(prefix="/tokens", tags=["tokens"])


@router.post("", status_code=201, responses=responses())
def create_token(context: SiteContext, caller: ProviderCaller, body: TokenInput) -> NewToken:
    """Make a token for an organization. It is in this answer and nowhere else."""
    with context.database.write() as session:
        row, secret = tokens.add(session, caller.actor, body.organization, body.description)
        return NewToken(**views.token(row).model_dump(), token=secret)


@router.get("", responses=responses())
def list_tokens(context: SiteContext, _caller: ProviderCaller, paged: Paged) -> PageOf[Token]:
    """All tokens, revoked ones too."""
    with context.database.read() as session:
        page = tokens.listing(session, paged)
        return PageOf(items=[views.token(row) for row in page.items], next=page.next)


@router.delete("/{token_id}", status_code=204, responses=responses(404))
def revoke_token(context: SiteContext, caller: ProviderCaller, token_id: str) -> None:
    """Make a token useless at once."""
    with context.database.write() as session:
        tokens.revoke(session, caller.actor, token_id)
