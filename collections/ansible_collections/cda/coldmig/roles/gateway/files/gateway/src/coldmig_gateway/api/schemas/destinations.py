# SPDX-License-Identifier: GPL-3.0-or-later
"""What the provider's playbook says about the destination of a migration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from coldmig_gateway.api.schemas.common import Input, Label, Line, Matching, Message, Slug

Reference = Annotated[Line, StringConstraints(min_length=1, max_length=512)]
Run = Annotated[Line, StringConstraints(min_length=1, max_length=200)]
Holder = Annotated[str, Matching(r"[A-Za-z0-9-]{8,64}", "8 to 64 letters, digits and '-'")]
HoldSeconds = Annotated[int, Field(ge=2, le=3600, description="How long the claim holds unless it is renewed")]
CheckName = Literal["preflight", "test-boot", "import"]


class ClaimInput(Input):
    """Who works on the migration."""

    run: Run = Field(description="For people, for example the address of a CI job")
    holder: Holder = Field(description="Chosen at random by each runner; who knows it may renew the claim")
    seconds: HoldSeconds = 60


class ReleaseInput(Input):
    """Whose claim ends."""

    holder: Holder


class ImportInput(Input):
    """Who imports. With a holder it takes the claim too."""

    run: Run
    holder: Holder | None = None
    seconds: HoldSeconds = 60


class VcenterResult(Input):
    """The VM in vCenter."""

    vm: Reference
    name: Reference


class VcdResult(Input):
    """The VM in VCD."""

    vapp_href: Reference
    vm_href: Reference


class FinishInput(Input):
    """What was made at the destination. It ends the claim."""

    vcenter: VcenterResult
    vcd: VcdResult | None = None
    holder: Holder | None = None
    keep_staging_hours: Annotated[int, Field(ge=0, le=87_600)] | None = Field(
        default=None, description="How long the staged copy is kept from now on; null is what the site has set"
    )


class UndoneInput(Input):
    """What becomes of a migration whose VM was removed again. It ends the claim."""

    run: Run
    holder: Holder | None = None
    to: Literal["canceled", "copied"] = "canceled"


class ReferencesInput(Input):
    """Notes for a later run; what is left out stays, null forgets."""

    vcenter_vm: Reference | None = None
    vcd_vapp: Reference | None = None
    vcd_vm: Reference | None = None


class Finding(Input):
    """One thing that was found."""

    code: Slug
    severity: Literal["info", "warning", "error"]
    subject: Label = Field(description="What it is about, for example destination.storage_profile")
    message: Message = Field(description="What is wrong; tenants read it")
    expected: Message = Field(default="", description="What would be right")


class CheckInput(Input):
    """What a check found."""

    passed: bool
    detail: Message = ""
    findings: Annotated[list[Finding], Field(max_length=200)] = Field(default_factory=list)
