# SPDX-License-Identifier: GPL-3.0-or-later
"""Templates and destinations."""

from __future__ import annotations

import ipaddress
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from coldmig_gateway import naming
from coldmig_gateway.api.schemas.common import (
    MAX_INTEGER,
    BytesPerSecond,
    Input,
    Label,
    Line,
    Matching,
    Output,
    SimpleName,
    Slug,
)

Positive = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
MAX_MEMORY_MB = 24 << 20  # of a virtual machine of vSphere
Mode = Literal["migrate", "assess"]
System = Annotated[Line, StringConstraints(min_length=1, max_length=256)]


def _ip_address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("must be an IP address") from None


def _each_once(value: list[str]) -> list[str]:
    return sorted(set(value))


AcceptedWarnings = Annotated[list[Slug], Field(max_length=100), AfterValidator(_each_once)]


def _name_pattern(value: str) -> str:
    naming.check_pattern(value)
    return value


class NetworkConnection(Input):
    """How one NIC of the source is connected at the destination."""

    network: Label = Field(description="Name of the VCD network, or `none`")
    ip_mode: Literal["DHCP", "POOL", "MANUAL", "NONE"] = "DHCP"
    ip: Annotated[str, AfterValidator(_ip_address)] | None = Field(default=None, description="Only with MANUAL")
    keep_mac: bool = False
    connected: bool = True
    adapter: Literal["vmxnet3", "e1000e", "e1000"] | None = Field(
        default=None, description="Kind of this adapter; null takes that of the virtual hardware"
    )

    @model_validator(mode="after")
    def _address_fits_mode(self) -> Self:
        if self.ip_mode == "MANUAL" and self.ip is None:
            raise ValueError("ip must be given when ip_mode is MANUAL")
        if self.ip_mode != "MANUAL" and self.ip is not None:
            raise ValueError(f"ip must be null when ip_mode is {self.ip_mode}")
        return self


class DiskPlace(Input):
    """Where one disk of the source is kept."""

    storage_profile: Label | None = Field(default=None, description="Null is that of the VM")


def _own_keys(value: dict[str, str]) -> dict[str, str]:
    for key in value:
        if key.startswith("coldmig."):
            raise ValueError(f"keys must not begin with coldmig., as {key} does: these are the product's own")
    return value


MetadataKey = Annotated[
    str, Matching(r"[A-Za-z0-9][A-Za-z0-9 ._:@-]{0,127}", "1 to 128 letters, digits, spaces and . _ : @ -")
]


class Destination(Input):
    """Where in VCD the machine goes."""

    vdc: Label
    storage_profile: Label | None = Field(default=None, description="Of the VM; null is the default one of the VDC")
    import_as: Literal["vapp", "shared", "existing", "standalone"] | None = Field(
        default=None,
        description="`vapp`: into a vApp of its own; `shared`: into the vApp of this name, which is made if it is not "
        "there; `existing`: into one that is there; `standalone`: without a vApp. Null is `existing` where `vapp` is "
        "given, else `vapp`.",
    )
    vapp: Label | None = Field(
        default=None,
        description="Name of the vApp. {name}, {serial} and {id} are replaced as in `name_pattern`, {template} by the "
        "template's name.",
    )
    description: Annotated[Line, StringConstraints(max_length=256)] | None = Field(
        default=None, description="Of VM and vApp; null names the migration"
    )
    owner: Label | None = Field(default=None, description="User of the organization who gets the vApp")
    metadata: Annotated[
        dict[MetadataKey, Annotated[Line, StringConstraints(max_length=1000)]],
        Field(max_length=20),
        AfterValidator(_own_keys),
    ] = Field(default_factory=dict, description="Metadata of the VM, visible to the organization")
    disks: Annotated[list[DiskPlace], Field(max_length=256)] = Field(
        default_factory=list,
        description="For disk 0, 1, … of the source. Disks beyond the list are kept where the VM is.",
    )
    networks: Annotated[list[NetworkConnection], Field(max_length=10)] = Field(
        default_factory=list,
        description="For NIC 0, 1, … of the source. NICs beyond the list are created disconnected.",
    )

    @model_validator(mode="after")
    def _vapp_fits_import(self) -> Self:
        if self.import_as in ("shared", "existing") and self.vapp is None:
            raise ValueError(f"vapp must be given when import_as is {self.import_as}")
        if self.import_as == "standalone" and self.vapp is not None:
            raise ValueError("vapp must be null when import_as is standalone")
        # what was kept before there were patterns stays readable
        if self.import_as is not None and self.vapp is not None:
            naming.check_vapp_pattern(self.vapp)
        return self


class Limits(Input):
    """What machines under a template may take; null is no limit. Sizes in bytes."""

    max_migrations: Positive | None = Field(default=None, description="Migrations under way at a time")
    max_disk_bytes: Positive | None = Field(default=None, description="Size of one disk")
    max_total_bytes: Positive | None = Field(default=None, description="Size of all disks of one machine together")
    bandwidth_limit: BytesPerSecond | None = Field(
        default=None, description="Bytes per second of all copies together; a change holds for copies that run"
    )


class Hardware(Input):
    """Virtual hardware instead of what is chosen by itself; null lets it be chosen."""

    guest_id: Annotated[str, Matching(r"[A-Za-z0-9_]{1,64}", "a guest id of vSphere, like debian12_64Guest")] | None = (
        None
    )
    firmware: Literal["bios", "efi"] | None = None
    secure_boot: bool | None = Field(default=None, description="Only with firmware efi")
    disk_controller: Literal["pvscsi", "lsilogic-sas", "ahci", "nvme", "lsilogic", "ide"] | None = None
    nic_type: Literal["vmxnet3", "e1000e", "e1000"] | None = None
    cpus: Annotated[int, Field(ge=1, le=768)] | None = Field(default=None, description="Cores of all sockets together")
    cores_per_socket: Annotated[int, Field(ge=1, le=768)] | None = None
    memory_mb: Annotated[int, Field(ge=4, le=MAX_MEMORY_MB, multiple_of=4)] | None = Field(
        default=None, description="MiB, in steps of 4"
    )

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.secure_boot and self.firmware == "bios":
            raise ValueError("secure_boot needs firmware efi, not bios")
        if self.cpus is not None and self.cores_per_socket is not None and self.cpus % self.cores_per_socket:
            raise ValueError(f"cpus ({self.cpus}) must be a multiple of cores_per_socket ({self.cores_per_socket})")
        return self


AtEndAction = Literal["stay", "poweroff", "reboot"]


class AtEnd(Input):
    """What a source machine does when its migration has ended there."""

    success: AtEndAction | None = Field(
        default=None,
        description="Once the whole copy is verified, or the assessment done; null: as its ISO says, or stay",
    )
    failure: AtEndAction | None = Field(default=None, description="Once it has failed or was canceled; null: stay")


class TemplateInput(Input):
    """A template as it is to be."""

    name: SimpleName
    organization: SimpleName | None = Field(
        default=None, description="Required of the provider; of a tenant it is its own. It cannot be changed."
    )
    description: Annotated[Line, StringConstraints(max_length=1000)] = ""
    destination: Destination
    auto_start: bool = Field(default=False, description="Start to copy without confirmation")
    power_on: bool = Field(default=False, description="Power the VM on in the end")
    name_pattern: Annotated[str, StringConstraints(max_length=100), AfterValidator(_name_pattern)] = Field(
        default="{name}", description="Name of the migration and the VM; {name}, {serial} and {id} are replaced"
    )
    skip_free: Literal["auto", "never"] = Field(
        default="auto", description="Whether space that a file system surely does not use is left out"
    )
    mode: Mode = Field(default="migrate", description="With `assess` machines are looked at and reported, never copied")
    system: System | None = Field(
        default=None,
        description="Which system of a machine is meant where there are several: its key, or a pattern on key, type, "
        "id, host name, place or name, like windows*",
    )
    accept_warnings: AcceptedWarnings = Field(
        default_factory=list, description="Codes of warnings that shall not hold machines back"
    )
    hardware: Hardware = Hardware()
    at_end: AtEnd = AtEnd()
    collect_logs: bool = Field(
        default=False, description="Whether the agent sends its log and the kernel's when its migration has ended"
    )
    limits: Limits = Limits()


class Template(Output):
    """A template as it is."""

    id: str
    name: str
    organization: str
    description: str
    destination: Destination
    auto_start: bool
    power_on: bool
    name_pattern: str
    skip_free: Literal["auto", "never"]
    mode: Mode
    system: str | None
    accept_warnings: list[str]
    hardware: Hardware
    at_end: AtEnd
    collect_logs: bool
    limits: Limits
    created_at: datetime
    created_by: str
    updated_at: datetime
