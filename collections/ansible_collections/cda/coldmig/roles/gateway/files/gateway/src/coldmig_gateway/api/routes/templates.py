# SPDX-License-Identifier: GPL-3.0-or-later
"""Templates. A tenant sees and changes its own; those of others do not exist for it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from coldmig_gateway.api import views
from coldmig_gateway.api.context import SiteContext, TenantCaller
from coldmig_gateway.api.problems import forbidden, invalid, responses
from coldmig_gateway.api.schemas.common import Paged, PageOf
from coldmig_gateway.api.schemas.templates import Template, TemplateInput
from coldmig_gateway.principal import Principal
from coldmig_gateway.store import templates
from coldmig_gateway.store.templates import TemplateSettings

router = APIRouter(prefix="/templates", tags=["templates"])

Filter = Annotated[str | None, Query(max_length=100)]


@router.get("", responses=responses())
def list_templates(
    context: SiteContext, caller: TenantCaller, paged: Paged, name: Filter = None, organization: Filter = None
) -> PageOf[Template]:
    """Templates, newest first; `name` and `organization` must match exactly."""
    with context.database.read() as session:
        page = templates.listing(session, caller.organization, paged, name=name, organization=organization)
        return PageOf(items=[views.template(row) for row in page.items], next=page.next)


@router.post("", status_code=201, responses=responses(409))
def create_template(context: SiteContext, caller: TenantCaller, body: TemplateInput) -> Template:
    """Make a template. Its name must be unique within the organization."""
    organization = _organization(caller, body)
    with context.database.write() as session:
        return views.template(templates.add(session, caller.actor, organization, _settings(body)))


@router.get("/{template_id}", responses=responses(404))
def get_template(context: SiteContext, caller: TenantCaller, template_id: str) -> Template:
    """One template."""
    with context.database.read() as session:
        return views.template(templates.get(session, caller.organization, template_id))


@router.put("/{template_id}", responses=responses(404, 409))
def change_template(context: SiteContext, caller: TenantCaller, template_id: str, body: TemplateInput) -> Template:
    """Replace a template. Machines that are registered already keep what they were registered with."""
    with context.database.write() as session:
        owner = templates.get(session, caller.organization, template_id).organization
        if body.organization not in (None, owner):
            raise invalid("organization", body.organization, f"cannot be changed; it is {owner!r}")
        row = templates.change(session, caller.organization, caller.actor, template_id, _settings(body))
        return views.template(row)


@router.delete("/{template_id}", status_code=204, responses=responses(404))
def delete_template(context: SiteContext, caller: TenantCaller, template_id: str) -> None:
    """Delete a template. Its ISOs register nothing any more; migrations under way go on."""
    with context.database.write() as session:
        templates.delete(session, caller.organization, caller.actor, template_id)


def _organization(caller: Principal, body: TemplateInput) -> str:
    if caller.organization is None:
        if body.organization is None:
            raise invalid("organization", None, "must be given by the provider")
        return body.organization
    if body.organization not in (None, caller.organization):
        raise forbidden(f"Your token is for the organization {caller.organization!r} only.")
    return caller.organization


def _settings(body: TemplateInput) -> TemplateSettings:
    return TemplateSettings(
        name=body.name,
        description=body.description,
        destination=body.destination.model_dump(mode="json"),
        auto_start=body.auto_start,
        power_on=body.power_on,
        name_pattern=body.name_pattern,
        skip_free=body.skip_free,
        mode=body.mode,
        system=body.system,
        accept_warnings=body.accept_warnings,
        hardware=body.hardware.model_dump(mode="json", exclude_none=True),
        at_end=body.at_end.model_dump(mode="json", exclude_none=True),
        collect_logs=body.collect_logs,
        **body.limits.model_dump(),
    )
