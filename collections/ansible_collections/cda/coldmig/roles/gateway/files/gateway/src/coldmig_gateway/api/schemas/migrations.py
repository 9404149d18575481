# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations as people and Ansible see them, and what these may ask of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from coldmig_gateway.api.schemas.common import Input, Line, Matching, Output
from coldmig_gateway.api.schemas.templates import Destination
from coldmig_gateway.naming import NAME
from coldmig_gateway.store.states import State

VmName = Annotated[
    str, Matching(NAME.pattern, "1 to 80 letters, digits, '.', '_' and '-', beginning with a letter or digit")
]
Reference = Annotated[Line, StringConstraints(min_length=1, max_length=512)]


class TemplateReference(Output):
    """The template a machine was registered under."""

    id: str
    name: str


class DiskSource(Output):
    """What the disk was at the source."""

    path: str
    serial: str | None
    model: str | None


class Disk(Output):
    """One disk. The last five are known once it is verified. Sizes in bytes."""

    index: int
    size_bytes: int
    chunks: int = Field(description="Of 1 MiB; the last one may be shorter")
    have_chunks: int = Field(description="Chunks that the site has, as last reported by the agent")
    verified: bool
    data_chunks: int | None = Field(description="Chunks that are not all zeros")
    stored_bytes: int | None
    vmdk_bytes: int | None = Field(description="Length of its streamOptimized image")
    digest: str | None = Field(description="BLAKE3 of the digests of its chunks")
    source: DiskSource


class References(Output):
    """What was made at the destination."""

    vcenter_vm: str | None
    vcd_vapp: str | None
    vcd_vm: str | None


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
    source_ip: str | None
    machine: dict[str, Any] = Field(description="What the agent said when it registered (schema Machine)")
    destination: Destination
    power_on: bool
    disks: list[Disk]
    progress: dict[str, Any] | None = Field(
        description="The agent's last report (schema ProgressInput) and its time `at`"
    )
    refs: References


class AuditEntry(Output):
    """Something that happened to a migration."""

    at: datetime
    actor: str
    event: str
    from_: str | None = Field(serialization_alias="from")
    to: str | None
    detail: dict[str, Any]


class CancelInput(Input):
    """Why a migration is canceled."""

    reason: Annotated[Line, StringConstraints(max_length=500)] = ""


class ChangeInput(Input):
    """What may be changed until the import begins; what is left out or null stays."""

    name: VmName | None = None
    power_on: bool | None = None
    destination: Destination | None = None


class ImportInput(Input):
    """Who imports, for example the id of a CI job."""

    run: Annotated[Line, StringConstraints(min_length=1, max_length=200)]


class VcenterResult(Input):
    """The VM in vCenter."""

    vm: Reference
    name: Reference


class VcdResult(Input):
    """The VM in VCD."""

    vapp_href: Reference
    vm_href: Reference


class FinishInput(Input):
    """What was made at the destination."""

    vcenter: VcenterResult
    vcd: VcdResult | None = None


class ReferencesInput(Input):
    """Notes for a later run; what is left out stays, null forgets."""

    vcenter_vm: Reference | None = None
    vcd_vapp: Reference | None = None
    vcd_vm: Reference | None = None
