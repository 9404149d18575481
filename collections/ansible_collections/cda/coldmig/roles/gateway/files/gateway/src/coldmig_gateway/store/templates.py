# SPDX-License-Identifier: GPL-3.0-or-later
"""Templates: where machines go and what they may do. ``scope`` is an organization; None, for the provider, is all."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from coldmig_gateway.clock import now
from coldmig_gateway.store import audit
from coldmig_gateway.store.errors import DuplicateNameError, NotFoundError
from coldmig_gateway.store.models import Template
from coldmig_gateway.store.paging import Page, PageRequest, fetch


@dataclass(frozen=True, slots=True)
class TemplateSettings:
    """What can be set on a template; the API has checked the values."""

    name: str
    description: str
    destination: dict[str, Any]
    auto_start: bool
    power_on: bool
    name_pattern: str
    skip_free: str
    mode: str
    system: str | None
    accept_warnings: list[str]
    hardware: dict[str, Any]
    at_end: dict[str, Any]
    collect_logs: bool
    max_migrations: int | None
    max_disk_bytes: int | None
    max_total_bytes: int | None
    bandwidth_limit: int | None


def get(session: Session, scope: str | None, template_id: str, *, lock: bool = False) -> Template:
    """One template that is not deleted; NotFoundError when there is none or it is another organization's."""
    query = select(Template).where(Template.id == template_id, Template.deleted_at.is_(None))
    if scope is not None:
        query = query.where(Template.organization == scope)
    template = session.scalar(query.with_for_update() if lock else query)
    if template is None:
        raise NotFoundError("template", template_id)
    return template


def listing(
    session: Session, scope: str | None, page: PageRequest, *, name: str | None, organization: str | None
) -> Page[Template]:
    """Templates that are not deleted, newest first."""
    query = select(Template).where(Template.deleted_at.is_(None))
    if scope is not None:
        query = query.where(Template.organization == scope)
    if organization is not None:
        query = query.where(Template.organization == organization)
    if name is not None:
        query = query.where(Template.name == name)
    return fetch(session, query, Template, page)


def add(session: Session, actor: str, organization: str, settings: TemplateSettings) -> Template:
    """Make a template; DuplicateNameError when the organization has one of this name."""
    _require_free(session, organization, settings.name, besides=None)
    moment = now()
    template = Template(
        id=str(uuid.uuid4()),
        organization=organization,
        created_at=moment,
        created_by=actor,
        updated_at=moment,
        **asdict(settings),
    )
    session.add(template)
    audit.write(session, actor, ("template", template.id), "create", detail=asdict(settings))
    return template


def change(session: Session, scope: str | None, actor: str, template_id: str, settings: TemplateSettings) -> Template:
    """Replace the settings. Migrations that exist keep the destination with which they were registered."""
    template = get(session, scope, template_id, lock=True)
    changes = {name: value for name, value in asdict(settings).items() if getattr(template, name) != value}
    if changes:
        _require_free(session, template.organization, settings.name, besides=template.id)
        for name, value in changes.items():
            setattr(template, name, value)
        template.updated_at = now()
        audit.write(session, actor, ("template", template.id), "change", detail=changes)
    return template


def delete(session: Session, scope: str | None, actor: str, template_id: str) -> None:
    """Delete a template: its ISOs register nothing any more, migrations that exist go on."""
    template = get(session, scope, template_id, lock=True)
    template.deleted_at = now()
    audit.write(session, actor, ("template", template.id), "delete")


def _require_free(session: Session, organization: str, name: str, *, besides: str | None) -> None:
    query = select(Template.id).where(
        Template.organization == organization, Template.name == name, Template.deleted_at.is_(None)
    )
    if session.scalar(query) not in (None, besides):
        raise DuplicateNameError("template", name)
