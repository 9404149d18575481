# SPDX-License-Identifier: GPL-3.0-or-later
"""Credentials of ISOs, below their template."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter

from coldmig_gateway.api import views
from coldmig_gateway.api.context import SiteContext, TenantCaller
from coldmig_gateway.api.problems import responses
from coldmig_gateway.api.schemas.common import Paged, PageOf
from coldmig_gateway.api.schemas.tokens import IsoCredential, IsoCredentialInput, NewIsoCredential
from coldmig_gateway.store import credentials

router = APIRouter(prefix="/templates/{template_id}/iso-credentials", tags=["ISO credentials"])


@router.post("", status_code=201, responses=responses(404))
def create_credential(
    context: SiteContext, caller: TenantCaller, template_id: str, body: IsoCredentialInput
) -> NewIsoCredential:
    """Make a credential for an ISO. It is in this answer and nowhere else."""
    with context.database.write() as session:
        row, secret = credentials.add(
            session,
            caller.organization,
            caller.actor,
            template_id,
            ttl=timedelta(hours=body.ttl_hours),
            max_registrations=body.max_registrations,
            description=body.description,
        )
        session.flush()
        return NewIsoCredential(**views.iso_credential(row).model_dump(), credential=secret)


@router.get("", responses=responses(404))
def list_credentials(
    context: SiteContext, caller: TenantCaller, template_id: str, paged: Paged
) -> PageOf[IsoCredential]:
    """All credentials of a template with their uses; revoked and expired ones too."""
    with context.database.read() as session:
        page = credentials.listing(session, caller.organization, template_id, paged)
        return PageOf(items=[views.iso_credential(row) for row in page.items], next=page.next)


@router.get("/{credential_id}", responses=responses(404))
def get_credential(context: SiteContext, caller: TenantCaller, template_id: str, credential_id: str) -> IsoCredential:
    """One credential."""
    with context.database.read() as session:
        row = credentials.get(session, caller.organization, template_id, credential_id)
        return views.iso_credential(row)


@router.delete("/{credential_id}", status_code=204, responses=responses(404))
def revoke_credential(context: SiteContext, caller: TenantCaller, template_id: str, credential_id: str) -> None:
    """Make a credential useless at once. Machines that registered with it go on."""
    with context.database.write() as session:
        credentials.revoke(session, caller.organization, caller.actor, template_id, credential_id)
