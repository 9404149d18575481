# SPDX-License-Identifier: GPL-3.0-or-later
"""The answer that every agent asks for every few seconds, made without models: those cost more than the rest of it."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from coldmig_gateway.api.context import Context
from coldmig_gateway.store.sessions import SessionState
from coldmig_gateway.store.states import State

# Enough to fill a fast link; each costs the agent about 2 MiB of memory.
CONNECTIONS = 4
CODECS = ("grains", "zstd")
_AGENTS_PER_SECOND = 50
_MAX_POLL_SECONDS = 60


def poll_seconds(context: Context) -> int:
    """How long an agent that waits should wait before it asks again: the more there are, the longer."""
    crowded = -(-context.presence.count() // _AGENTS_PER_SECOND)
    return max(context.settings.poll_seconds, min(crowded, _MAX_POLL_SECONDS, context.settings.silent_seconds // 4))


def session_body(context: Context, session: Session, state: SessionState) -> dict[str, Any]:
    """An agent's migration in the form of ``schemas.session.Session``."""
    place = None
    if state.state == State.CONFIRMED:
        found = context.queue.get(session, context.heard_since).place_of(state.migration_id)
        place = {"place": found.place, "waiting": found.waiting} if found else None
    waits = state.state in (State.WAITING, State.CONFIRMED)
    return {
        "migration_id": state.migration_id,
        "name": state.name,
        "state": state.state,
        "reason": state.reason,
        "message": state.message,
        "poll_seconds": poll_seconds(context) if waits else context.settings.poll_seconds,
        "connections": CONNECTIONS,
        "skip_free": state.skip_free,
        "mode": state.mode,
        "blocked": state.blocked,
        "at_end": {when: state.at_end.get(when) for when in ("success", "failure")},
        "collect_logs": state.collect_logs,
        "codecs": CODECS,
        "queue": place,
        "disks": [
            {
                "index": disk.index,
                "size_bytes": disk.size_bytes,
                "chunks": disk.chunks,
                "have_chunks": disk.have_chunks,
            }
            for disk in state.disks
        ],
    }
