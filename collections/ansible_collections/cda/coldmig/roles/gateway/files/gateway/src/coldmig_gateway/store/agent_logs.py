# SPDX-License-Identifier: GPL-3.0-or-later
"""Logs that agents have sent. They come from machines of tenants: bounded, and cleaned before anybody reads them."""

from __future__ import annotations

import base64
import binascii
import re
import zlib

from sqlalchemy.orm import Session

from coldmig_gateway.clock import now
from coldmig_gateway.store import audit
from coldmig_gateway.store.errors import NotFoundError, StoreError
from coldmig_gateway.store.models import AgentLogs, Migration

MAX_TEXT = 8 << 20  # bytes
_GZIP = 31  # zlib's wbits for a gzip stream with a window of 32 KiB
_CONTROL = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]")


class BadLogsError(StoreError):
    """What was sent as logs is not one gzip stream of at most MAX_TEXT bytes."""


def decode(text: str) -> bytes:
    """The gzip stream behind base64, checked to its end. Raises BadLogsError."""
    try:
        content = base64.b64decode(text, validate=True)
        _unpack(content)
    except (binascii.Error, ValueError, zlib.error):
        raise BadLogsError(f"must be base64 of one gzip stream of at most {MAX_TEXT} bytes") from None
    return content


def keep(session: Session, migration: Migration, actor: str, content: bytes) -> None:
    """Keep what :func:`decode` gave, in place of what was kept before."""
    session.merge(AgentLogs(migration_id=migration.id, at=now(), content=content))
    audit.write(session, actor, ("migration", migration.id), "logs", detail={"bytes": len(content)})


def get(session: Session, migration: Migration) -> AgentLogs:
    """What is kept of a migration. Raises NotFoundError."""
    kept = session.get(AgentLogs, migration.id)
    if kept is None:
        raise NotFoundError("log of migration", migration.id)
    return kept


def text_of(kept: AgentLogs) -> str:
    """The text that a terminal can show."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _unpack(kept.content).decode("utf-8", "replace"))


def _unpack(content: bytes) -> bytes:
    unpacker = zlib.decompressobj(_GZIP)
    text = unpacker.decompress(content, MAX_TEXT)
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("cut, too long, or more than one stream")
    return text
