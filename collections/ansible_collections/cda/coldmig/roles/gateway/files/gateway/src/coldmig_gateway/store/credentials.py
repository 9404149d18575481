# SPDX-License-Identifier: GPL-3.0-or-later
"""Credentials of ISOs: the right to register machines under one template."""

from __future__ import annotations

import uuid
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from coldmig_gateway.clock import now
from coldmig_gateway.store import audit, templates
from coldmig_gateway.store.errors import NotFoundError
from coldmig_gateway.store.models import IsoCredential
from coldmig_gateway.store.paging import Page, PageRequest, fetch
from coldmig_gateway.tokens import TokenKind, new_token, token_digest


def add(
    session: Session,
    scope: str | None,
    actor: str,
    template_id: str,
    *,
    ttl: timedelta,
    max_registrations: int | None,
    description: str,
) -> tuple[IsoCredential, str]:
    """Make a credential. The text is given out here and never again."""
    template = templates.get(session, scope, template_id, lock=True)
    secret = new_token(TokenKind.ISO)
    credential = IsoCredential(
        id=str(uuid.uuid4()),
        template=template,
        description=description,
        digest=token_digest(secret),
        created_at=now(),
        created_by=actor,
        expires_at=now() + ttl,
        max_registrations=max_registrations,
        uses=0,
    )
    session.add(credential)
    audit.write(session, actor, ("credential", credential.id), "create", detail={"template": template.id})
    return credential, secret


def get(session: Session, scope: str | None, template_id: str, credential_id: str) -> IsoCredential:
    """One credential of a template that the scope may see."""
    templates.get(session, scope, template_id)
    query = select(IsoCredential).where(IsoCredential.id == credential_id, IsoCredential.template_id == template_id)
    credential = session.scalar(query)
    if credential is None:
        raise NotFoundError("ISO credential", credential_id)
    return credential


def listing(session: Session, scope: str | None, template_id: str, page: PageRequest) -> Page[IsoCredential]:
    """All credentials of a template, revoked and expired ones too, newest first."""
    templates.get(session, scope, template_id)
    return fetch(session, select(IsoCredential).where(IsoCredential.template_id == template_id), IsoCredential, page)


def revoke(session: Session, scope: str | None, actor: str, template_id: str, credential_id: str) -> None:
    """Make a credential useless at once; machines that registered with it go on. Again is nothing new."""
    credential = get(session, scope, template_id, credential_id)
    if credential.revoked_at is None:
        credential.revoked_at = now()
        audit.write(session, actor, ("credential", credential.id), "revoke")
