# SPDX-License-Identifier: GPL-3.0-or-later
"""Long lists in pages, newest first. A cursor names the last item given, so that new items do not shift the pages."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session

from coldmig_gateway.store.errors import StoreError
from coldmig_gateway.store.models import Listed


class CursorError(StoreError):
    """The cursor was not made by us."""


RowT = TypeVar("RowT", bound=Listed)
ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page: what comes behind the cursor (None: from the beginning), and how much of it."""

    after: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Page(Generic[ItemT]):
    """Some items, and the cursor of the next page when there are more."""

    items: Sequence[ItemT]
    next: str | None


def fetch(session: Session, query: Select[RowT], model: type[RowT], request: PageRequest) -> Page[RowT]:
    """Run a query that has no order yet, and give the page.

    Raises:
        CursorError: the cursor makes no sense.
    """
    if request.after is not None:
        query = query.where(tuple_(model.created_at, model.id) < tuple_(*_decode(request.after)))
    query = query.order_by(model.created_at.desc(), model.id.desc()).limit(request.limit + 1)
    rows = session.scalars(query).all()
    items = rows[: request.limit]
    return Page(items, _encode(items[-1]) if len(rows) > request.limit else None)


def _encode(row: Listed) -> str:
    return base64.urlsafe_b64encode(f"{row.created_at.isoformat()}|{row.id}".encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[datetime, str]:
    try:
        moment, identifier = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii").split("|")
        created_at = datetime.fromisoformat(moment)
    except (ValueError, binascii.Error):
        raise CursorError("must be the value of 'next' of the page before") from None
    if created_at.tzinfo is None:
        raise CursorError("must be the value of 'next' of the page before")
    return created_at, identifier
