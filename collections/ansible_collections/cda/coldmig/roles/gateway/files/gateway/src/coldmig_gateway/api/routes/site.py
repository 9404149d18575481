# SPDX-License-Identifier: GPL-3.0-or-later
"""Health, address of the site, activation."""

from __future__ import annotations

from fastapi import APIRouter

from coldmig_gateway.api.context import AnyCaller, ProviderCaller, SiteContext, TenantCaller
from coldmig_gateway.api.problems import responses
from coldmig_gateway.api.schemas.site import Activation, ActivationInput, Health, Site, SiteLimits, SiteLimitsInput
from coldmig_gateway.store import activation, limits
from coldmig_gateway.version import VERSION

router = APIRouter(tags=["site"])


@router.get("/health")
def health(context: SiteContext) -> Health:
    """Whether the service works and reaches its database. Needs no token."""
    with context.database.read() as session:
        return Health(status="ok", version=VERSION, activated=activation.get(session).active)


@router.get("/site", responses=responses())
def site(context: SiteContext, _caller: AnyCaller) -> Site:
    """Address and CA certificate, as an ISO needs them."""
    settings = context.settings
    ca_pem = settings.ca_path.read_text(encoding="ascii")
    return Site(url=settings.public_url, ca_pem=ca_pem, version=VERSION, name=settings.site_name)


@router.get("/site/limits", responses=responses())
def get_limits(context: SiteContext, _caller: ProviderCaller) -> SiteLimits:
    """What all copies together may take."""
    with context.database.read() as session:
        return SiteLimits.model_validate(limits.get(session))


@router.patch("/site/limits", responses=responses())
def change_limits(context: SiteContext, caller: ProviderCaller, body: SiteLimitsInput) -> SiteLimits:
    """Change limits; they hold at once. Fewer copies at a time stop none that runs."""
    with context.database.write() as session:
        return SiteLimits.model_validate(limits.change(session, caller.actor, body.model_dump(exclude_unset=True)))


@router.get("/activation", responses=responses())
def get_activation(context: SiteContext, caller: TenantCaller) -> Activation:
    """Whether machines may register. An organization sees only whether it is itself on the list."""
    with context.database.read() as session:
        row = Activation.model_validate(activation.get(session))
    if caller.organization is not None:
        row.organizations = [name for name in row.organizations if name == caller.organization]
        row.changed_by = None
    return row


@router.put("/activation", responses=responses())
def put_activation(context: SiteContext, caller: ProviderCaller, body: ActivationInput) -> Activation:
    """Switch cold migration on or off. Off stops new registrations; what is under way goes on."""
    with context.database.write() as session:
        row = activation.put(session, caller.actor, active=body.active, organizations=body.organizations)
        return Activation.model_validate(row)
