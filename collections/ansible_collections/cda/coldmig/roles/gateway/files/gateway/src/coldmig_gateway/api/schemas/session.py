# SPDX-License-Identifier: GPL-3.0-or-later
"""What an agent and the site tell each other."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from coldmig_gateway.api.schemas.common import Count, Found, Input, Message, Output
from coldmig_gateway.api.schemas.machine import MAX_DISKS


class Enrolment(Output):
    """A registered machine. The session token is shown this once."""

    migration_id: str
    session_token: str
    state: str
    name: str
    poll_seconds: int


class SessionDisk(Output):
    """How much of a disk the site has."""

    index: int
    size_bytes: int
    chunks: int
    have_chunks: int


class Session(Output):
    """What an agent needs to know of its migration."""

    migration_id: str
    name: str
    state: str
    reason: str | None
    message: str | None
    poll_seconds: int
    connections: int = Field(description="How many connections the agent may use for the copy")
    disks: list[SessionDisk]


class KernelWrites(Input):
    """The kernel's own count of writes to a disk since boot; both must stay 0."""

    ios: Count
    sectors: Count


class DiskProgress(Input):
    """How far the copy of one disk is."""

    index: Annotated[int, Field(ge=0, lt=MAX_DISKS)]
    read_bytes: Count
    sent_bytes: Count
    done_chunks: Count
    bytes_per_second: Annotated[float, Field(ge=0, le=1e15)]
    seconds_left: Annotated[float, Field(ge=0, le=1e15)] | None = None
    kernel_writes: KernelWrites | None = None


class ProgressInput(Input):
    """An agent's report."""

    phase: Annotated[Found, StringConstraints(min_length=1, max_length=64)]
    message: Message = ""
    disks: Annotated[list[DiskProgress], Field(max_length=MAX_DISKS)] = Field(default_factory=list)
