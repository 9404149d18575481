# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations as people and Ansible see them, and what these may ask of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from coldmig_gateway.api.schemas.common import Input, Line, Matching, Output
from coldmig_gateway.api.schemas.templates import AcceptedWarnings, AtEnd, Destination, Hardware, Mode, System
from coldmig_gateway.naming import NAME
from coldmig_gateway.store.states import State

VmName = Annotated[
    str, Matching(NAME.pattern, "1 to 80 letters, digits, '.', '_' and '-', beginning with a letter or digit")
]


class TemplateReference(Output):
    """The template a machine was registered under."""

    id: str
    name: str


class DiskSource(Output):
    """What the disk was at the source."""

    path: str
    serial: str | None
    model: str | None


class EarlierDisk(Output):
    """The same disk in an earlier attempt of the same machine."""

    migration_id: str
    index: int


class Unreadable(Output):
    """What could not be read at the source; zeros stand for it."""

    bytes: int = Field(description="As the agent reported")
    chunks: int | None = Field(description="Of 1 MiB, with such bytes in them; known once the disk is verified")
    ranges: list[tuple[int, int]] = Field(description="[start, length] in bytes, the first 1000")


class Disk(Output):
    """One disk. Sizes in bytes."""

    index: int
    size_bytes: int
    chunks: int = Field(description="Of 1 MiB; the last one may be shorter")
    used_bytes: int | None = Field(description="What has to be copied when free space is left out; null: not known")
    have_chunks: int = Field(description="Chunks that the site has, as last reported by the agent")
    earlier: list[EarlierDisk] = Field(description="Whose staged chunks are used again, newest first")
    unreadable: Unreadable
    verified: bool = Field(description="Every chunk was read again from staging; only then the four below are known")
    data_chunks: int | None = Field(description="Chunks that are not all zeros")
    stored_bytes: int | None
    vmdk_bytes: int | None = Field(description="Length of its streamOptimized image")
    merkle_root: str | None = Field(description="Root of the BLAKE3 tree over the digests of all its chunks")
    source: DiskSource


class References(Output):
    """What was made at the destination."""

    vcenter_vm: str | None
    vcd_vapp: str | None
    vcd_vm: str | None


class Claim(Output):
    """Who makes its VM just now."""

    run: str
    since: datetime
    until: datetime = Field(description="When the claim ends unless it is renewed")


class MigrationWarning(Output):
    """Something to know before the copy."""

    code: str
    severity: Literal["info", "warning", "block"] = Field(
        description="With `block` nothing is copied before the code was accepted"
    )
    message: str
    action: str | None = Field(description="What to do about it")
    accepted: bool


class Migration(Output):
    """One boot of one source machine, and what became of it."""

    id: str
    name: str
    organization: str
    template: TemplateReference
    state: State
    reason: str | None
    detail: str | None
    created_at: datetime
    updated_at: datetime
    last_seen_at: datetime | None = Field(description="When the agent was last heard of, to about 10 seconds")
    source_ip: str | None
    machine: dict[str, Any] = Field(description="What the agent said when it registered (schema Machine)")
    mode: Mode = Field(description="The template's when the machine registered")
    system: str | None = Field(description="Which of its systems is meant, as it was asked for: a key or a pattern")
    guest: dict[str, Any] = Field(description="The system that the virtual machine is made for (schema Guest)")
    guests: list[dict[str, Any]] = Field(description="All its systems, the one that boots by itself first")
    warnings: list[MigrationWarning]
    accept_warnings: list[str] = Field(description="Codes that shall not hold it back")
    blocked: list[str] = Field(description="Codes that hold it back: accept them, or do what the warnings say")
    hardware: Hardware = Field(description="Virtual hardware that was asked for; null is chosen by itself")
    at_end: AtEnd = Field(description="What the machine does at the end; the template's when it registered")
    collect_logs: bool = Field(
        description="Whether the agent sends its logs; the template's when the machine registered"
    )
    destination: Destination
    power_on: bool
    skip_free: Literal["auto", "never"]
    accept_unreadable: bool = Field(description="Somebody accepts that sectors are missing, as far as reported by then")
    reserved_bytes: int | None = Field(description="Room in staging that was promised at the confirmation")
    superseded_by: str | None = Field(description="The migration of a later boot of the same machine")
    staging_removed_at: datetime | None = Field(description="When the site removed the staged copy by itself")
    disks: list[Disk]
    progress: dict[str, Any] | None = Field(
        description="The agent's last report (schema ProgressInput) and its time `at`"
    )
    refs: References
    claim: Claim | None = Field(description="The runner that works on the destination; null: nobody")
    keep_staging_until: datetime | None = Field(
        description="Until when the staged copy is kept after success; null: as long as the site keeps what has ended"
    )
    checks: dict[str, Any] = Field(
        description="What was found last by `preflight` and `test-boot`: `at`, `by`, `passed`, `detail`, `findings`"
    )


class AgentLogs(Output):
    """What the agent of a migration has logged, with its kernel's log."""

    at: datetime = Field(description="When it was sent")
    text: str = Field(description="Lines; control characters are taken out")


class AuditEntry(Output):
    """Something that happened to a migration."""

    at: datetime
    actor: str
    event: str
    from_: str | None = Field(serialization_alias="from")
    to: str | None
    detail: dict[str, Any]


class ConfirmInput(Input):
    """What is accepted with the confirmation, beside what was accepted before."""

    accept_warnings: AcceptedWarnings = Field(default_factory=list)


class CancelInput(Input):
    """Why a migration is canceled."""

    reason: Annotated[Line, StringConstraints(max_length=500)] = ""


class ChangeInput(Input):
    """What may be changed until the import begins; what is left out or null stays."""

    name: VmName | None = None
    power_on: bool | None = None
    destination: Destination | None = None
    system: System | None = Field(
        default=None, description="Key of the system that is meant, or a pattern that fits one of the machine's"
    )
    accept_warnings: AcceptedWarnings | None = Field(default=None, description="In place of what was accepted before")
    hardware: Hardware | None = Field(default=None, description="In place of all that was asked for before")
    accept_unreadable: bool | None = Field(
        default=None, description="Import although sectors of the source could not be read"
    )
