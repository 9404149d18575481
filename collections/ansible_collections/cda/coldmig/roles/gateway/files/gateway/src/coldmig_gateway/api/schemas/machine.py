# SPDX-License-Identifier: GPL-3.0-or-later
"""A source machine as its agent describes it. Sizes in bytes."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, field_validator

from coldmig_gateway.api.schemas.common import Count, Found, Input, Matching, Message, Slug

MAX_DISK = 62 << 40  # bytes: the largest virtual disk of vSphere
MAX_DISKS = 64
Mac = Annotated[str, Matching(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}", "a MAC address like 52:54:00:12:34:56")]
DriverName = Annotated[str, Matching(r"[A-Za-z0-9_.-]{1,64}", "the name of a driver, like vmw_pvscsi")]
Uuid = Annotated[str, Matching(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", "a UUID")]


def _address(value: str) -> str:
    try:
        ipaddress.ip_interface(value)
    except ValueError:
        raise ValueError("must be an IP address, with or without a prefix length") from None
    return value


class Cpu(Input):
    """Processors. `threads` counts those of the whole machine."""

    sockets: Annotated[int, Field(ge=1, le=1024)]
    cores_per_socket: Annotated[int, Field(ge=1, le=4096)]
    threads: Annotated[int, Field(ge=1, le=1 << 20)]
    model: Found | None = None


class Nic(Input):
    """A network interface."""

    name: Found
    mac: Mac
    permanent_mac: Mac | None = None
    driver: Found | None = None
    speed_mbps: Count | None = None
    carrier: bool
    pci_id: Found | None = None
    virtual_function: bool = Field(default=False, description="A virtual function (SR-IOV)")
    management: bool = Field(default=False, description="Belongs to the management controller")


class Partition(Input):
    """A partition of a disk."""

    number: Annotated[int, Field(ge=1, le=1024)]
    start_bytes: Count
    size_bytes: Count
    type: Found | None = None
    fstype: Found | None = None
    label: Found | None = None


class FreeArea(Input):
    """A part of a disk and what was decided about it."""

    start_bytes: Count
    size_bytes: Count
    partition: Annotated[int, Field(ge=1, le=1024)] | None = None
    fstype: Found | None = None
    decision: Literal["mapped", "whole"] = Field(description="Whether its free space is left out or all is copied")
    reason: Found
    free_bytes: Count


class FreeMap(Input):
    """The free space of a disk that is not copied."""

    digest: Annotated[str, Matching("[0-9a-f]{64}", "64 lower-case hexadecimal digits")]
    areas: Annotated[list[FreeArea], Field(max_length=512)] = Field(default_factory=list)


class SourceDisk(Input):
    """A disk; `index` is its place in the list."""

    index: Annotated[int, Field(ge=0, lt=MAX_DISKS)]
    path: Found
    size_bytes: Annotated[int, Field(ge=512, le=MAX_DISK, multiple_of=512)]
    logical_sector: Literal[512, 4096]
    physical_sector: Annotated[int, Field(ge=512, le=1 << 24)] | None = None
    serial: Found | None = None
    model: Found | None = None
    wwn: Found | None = None
    rotational: bool
    table: Literal["gpt", "dos"] | None = None
    partitions: Annotated[list[Partition], Field(max_length=1024)] = Field(default_factory=list)
    used_bytes: Count | None = Field(default=None, description="What has to be copied when free space is left out")
    free_map: FreeMap | None = Field(default=None, description="What was found to be free, and why")
    transport: Found | None = Field(default=None, description="sata, sas, nvme, usb, virtio, …")
    paths: Annotated[list[Found], Field(max_length=64)] = Field(
        default_factory=list, description="Other names of the same disk, where it is reached by several paths"
    )


class LeftOut(Input):
    """A disk that is there and is not copied."""

    path: Found
    size_bytes: Count
    serial: Found | None = None
    model: Found | None = None
    reason: Message


class Readiness(Input):
    """Whether a system can use one kind of virtual device from its first moment on."""

    device: Literal["pvscsi", "lsilogic-sas", "ahci", "nvme", "lsilogic", "ide", "vmxnet3", "e1000e", "e1000"]
    kind: Literal["storage", "network"]
    verdict: Literal["ready", "likely", "no", "unknown"]
    evidence: Annotated[list[Message], Field(max_length=16)] = Field(default_factory=list)


class Guest(Input):
    """An operating system on the disks, as far as it could be seen."""

    os_type: Literal["linux", "windows", "freebsd", "netbsd", "openbsd", "other", "unknown"]
    id: Found | None = None
    version: Found | None = None
    pretty_name: Found | None = None
    hostname: Found | None = None
    kernel: Found | None = None
    drivers: Annotated[list[DriverName], Field(max_length=500)] = Field(
        default_factory=list, description="Storage drivers it can load at boot and network drivers it has"
    )
    key: Found | None = Field(default=None, description="Names this system among those of the machine")
    place: Found | None = Field(default=None, description="Where it is, for a person")
    arch: Found | None = None
    id_like: Annotated[list[Found], Field(max_length=16)] = Field(default_factory=list)
    platform_id: Found | None = None
    release: Found | None = Field(default=None, description="The full release: 12.5, 10.0.20348.2113")
    edition: Found | None = Field(default=None, description="VARIANT_ID, or Windows' EditionID")
    build: Count | None = None
    ubr: Count | None = None
    product_type: Literal["", "WinNT", "ServerNT", "LanmanNT"] | None = None
    domain: Found | None = None
    computer_name: Found | None = Field(default=None, description="NetBIOS name of a Windows, beside hostname")
    firmware: Literal["bios", "efi"] | None = None
    boot_entry: Found | None = None
    bootable: bool = Field(default=False, description="Whether a boot loader on these disks refers to it")
    readiness: Annotated[list[Readiness], Field(max_length=16)] = Field(default_factory=list)


class InspectedVolume(Input):
    """A file system that was looked at, or why it could not be."""

    place: Found
    fstype: Found | None = None
    label: Found | None = None
    role: Found | None = None
    problem: Message | None = None


class KernelWrites(Input):
    """The kernel's count of writes to a disk since the live system started."""

    index: Annotated[int, Field(ge=0, lt=MAX_DISKS)]
    ios: Count
    sectors: Count


class Inspection(Input):
    """How the look into the disks went."""

    seconds: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    overlay_bytes: Count = Field(default=0, description="Changes that were kept in memory instead of on a disk")
    volumes: Annotated[list[InspectedVolume], Field(max_length=256)] = Field(default_factory=list)
    writes: Annotated[list[KernelWrites], Field(max_length=MAX_DISKS)] = Field(default_factory=list)
    problems: Annotated[list[Message], Field(max_length=64)] = Field(default_factory=list)


class Tpm(Input):
    """A Trusted Platform Module."""

    version: Found | None = None


class Warning(Input):  # noqa: A001 - the name of the thing
    """Something a person should know before the copy."""

    code: Slug
    message: Message
    severity: Literal["info", "warning", "block"] = Field(
        default="warning", description="With `block` the copy begins only after the code was accepted"
    )
    action: Message | None = Field(default=None, description="What to do about it")


class Machine(Input):
    """Everything an agent found out about the machine it runs on."""

    agent_version: Annotated[Found, StringConstraints(min_length=1, max_length=64)]
    smbios_uuid: Uuid | None = None
    vendor: Found | None = None
    product: Found | None = None
    serial: Found | None = None
    firmware: Literal["bios", "efi"] = Field(description="With what the machine boots its own system")
    secure_boot: bool | None = None
    live_boot_firmware: Literal["bios", "efi"] = Field(description="With what it booted the ISO")
    cpu: Cpu
    memory_bytes: Annotated[int, Field(ge=1, le=1 << 50)]
    nics: Annotated[list[Nic], Field(max_length=64)]
    disks: Annotated[list[SourceDisk], Field(min_length=1, max_length=MAX_DISKS)]
    guest: Guest
    addresses: Annotated[list[Annotated[str, AfterValidator(_address)]], Field(max_length=64)]
    name: Annotated[Found, StringConstraints(min_length=1)] = Field(description="Computer name, else an IP address")
    warnings: Annotated[list[Warning], Field(max_length=100)] = Field(default_factory=list)
    guests: Annotated[list[Guest], Field(max_length=32)] = Field(
        default_factory=list, description="Every system that was found, the one that boots by itself first"
    )
    tpm: Tpm | None = None
    inspection: Inspection | None = None
    left_out: Annotated[list[LeftOut], Field(max_length=64)] = Field(
        default_factory=list, description="Disks that are not copied, by the settings of the ISO or at its console"
    )

    @field_validator("disks")
    @classmethod
    def _indices_count_up(cls, disks: list[SourceDisk]) -> list[SourceDisk]:
        if [disk.index for disk in disks] != list(range(len(disks))):
            raise ValueError("the disks must have the indices 0, 1, 2, … in this order")
        return disks
