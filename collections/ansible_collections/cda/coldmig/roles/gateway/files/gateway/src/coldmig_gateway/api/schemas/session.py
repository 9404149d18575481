# SPDX-License-Identifier: GPL-3.0-or-later
"""What an agent and the site tell each other."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, StringConstraints, field_validator, model_validator

from coldmig_gateway.api.schemas.common import Count, Found, Input, Message, Output
from coldmig_gateway.api.schemas.machine import MAX_DISKS
from coldmig_gateway.api.schemas.templates import AtEnd

# A JSON list of two numbers.
Range = Annotated[tuple[Count, Annotated[int, Field(ge=1, le=1 << 60)]], Strict(False)]


class Enrolment(Output):
    """A registered machine. The session token is shown this once."""

    migration_id: str
    session_token: str
    state: str
    name: str
    mode: str = Field(description="`migrate`, or `assess`: the machine is only looked at, and that has ended now")
    blocked: list[str] = Field(description="Codes of the warnings that hold it back until somebody accepts them")
    poll_seconds: int


class QueuePlace(Output):
    """Where a confirmed migration stands while no copy slot is free for it."""

    place: int = Field(description="From 1")
    waiting: int = Field(description="How many wait")


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
    skip_free: Literal["auto", "never"] = Field(description="Whether free space of the source may be left out")
    mode: Literal["migrate", "assess"]
    blocked: list[str] = Field(description="With `waiting`: codes of the warnings that somebody has to accept first")
    at_end: AtEnd
    collect_logs: bool = Field(description="Send the logs with PUT /session/logs at the end")
    codecs: list[str] = Field(description="What the site takes beside raw chunks, now")
    queue: QueuePlace | None = Field(description="With `confirmed`: wait until it is null, then begin to copy")
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
    skipped_bytes: Count | None = Field(default=None, description="Free space that was not read")
    reused_chunks: Count | None = Field(default=None, description="Chunks that an earlier attempt had brought")
    unreadable_bytes: Count | None = None


class Sample(Input):
    """Chunks that were read a second time to find a disk that lies."""

    checked: Count
    mismatched: Count


class ProgressInput(Input):
    """An agent's report."""

    phase: Annotated[Found, StringConstraints(min_length=1, max_length=64)]
    message: Message = ""
    disks: Annotated[list[DiskProgress], Field(max_length=MAX_DISKS)] = Field(default_factory=list)
    limited_by: Literal["disk", "cpu", "link", "site"] | None = Field(
        default=None, description="What the copy waits for most"
    )
    connections: Annotated[int, Field(ge=0, le=1024)] | None = Field(default=None, description="In use now")
    codec: Annotated[Found, StringConstraints(max_length=16)] | None = None
    sample: Sample | None = None


class LogsInput(Input):
    """The agent's log and its kernel's: one text in UTF-8."""

    gzip: Annotated[str, StringConstraints(max_length=1_000_000)] = Field(
        description="Compressed with gzip, then base64; the text has at most 8 MiB"
    )


class UnreadableDisk(Input):
    """What cannot be read of one disk, in bytes."""

    index: Annotated[int, Field(ge=0, lt=MAX_DISKS)]
    bytes: Count = Field(description="In all, also beyond the ranges that are listed")
    ranges: Annotated[list[Range], Field(max_length=1000)] = Field(
        default_factory=list, description="[start, length], ascending, not overlapping"
    )

    @model_validator(mode="after")
    def _ranges_are_in_order(self) -> Self:
        end = 0
        for start, length in self.ranges:
            if start < end:
                raise ValueError(f"the ranges must ascend and not overlap; one starts at {start}, before {end}")
            end = start + length
        listed = sum(length for _start, length in self.ranges)
        if listed > self.bytes:
            raise ValueError(f"bytes must be at least {listed}, what the ranges have together, not {self.bytes}")
        return self


class UnreadableInput(Input):
    """What an agent could not read."""

    disks: Annotated[list[UnreadableDisk], Field(min_length=1, max_length=MAX_DISKS)]

    @field_validator("disks")
    @classmethod
    def _each_disk_once(cls, disks: list[UnreadableDisk]) -> list[UnreadableDisk]:
        if len({disk.index for disk in disks}) < len(disks):
            raise ValueError("each disk may be named once")
        return disks
