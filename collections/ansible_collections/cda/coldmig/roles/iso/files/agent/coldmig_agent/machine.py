# SPDX-License-Identifier: GPL-3.0-or-later
"""The description of a source machine, as the site receives it. Sizes are bytes, addresses text in lower case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a person should know before the copy. ``code`` is stable, ``message`` is for reading."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Cpu:
    """Processors in use: ``threads`` counts logical CPUs of the whole machine."""

    sockets: int
    cores_per_socket: int
    threads: int
    model: str


@dataclass(frozen=True, slots=True)
class Nic:
    """A wired network interface. ``pci_id`` is ``vendor:device`` in hexadecimal."""

    name: str
    mac: str
    permanent_mac: str
    driver: str
    speed_mbps: int | None
    carrier: bool
    pci_id: str | None


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition. ``type`` is a GPT type GUID in lower case or an MBR type such as ``0x83``."""

    number: int
    start_bytes: int
    size_bytes: int
    type: str
    fstype: str
    label: str


@dataclass(frozen=True, slots=True)
class FreeArea:
    """A partition (or a whole disk without a table, ``partition`` None) and what was decided about its free space.

    ``decision`` is ``mapped`` (``free_bytes`` of it are not copied) or ``whole``; ``reason`` says why.
    """

    start_bytes: int
    size_bytes: int
    partition: int | None
    fstype: str | None
    decision: str
    reason: str
    free_bytes: int


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """The free space of a disk: ``digest`` names the map that the agent goes by (BLAKE3, hexadecimal)."""

    digest: str
    areas: tuple[FreeArea, ...]


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of the source; its ``index`` names it in the whole migration.

    ``used_bytes``: what has to be copied when free space is left out; None where nobody looked.
    """

    index: int
    path: str
    size_bytes: int
    logical_sector: int
    serial: str
    model: str
    wwn: str
    rotational: bool
    table: str | None
    partitions: tuple[Partition, ...]
    physical_sector: int | None = None
    used_bytes: int | None = None
    free_map: FreeSpace | None = None


@dataclass(frozen=True, slots=True)
class Guest:
    """The operating system that was found. ``drivers``: what its default kernel can load for VMware's hardware."""

    os_type: str = "unknown"
    id: str = ""
    version: str = ""
    pretty_name: str = ""
    hostname: str | None = None
    kernel: str | None = None
    drivers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that is sent at registration. ``name`` is the computer's name, or its address where none was found."""

    agent_version: str
    smbios_uuid: str | None
    vendor: str
    product: str
    serial: str
    firmware: str
    secure_boot: bool | None
    live_boot_firmware: str
    cpu: Cpu
    memory_bytes: int
    nics: tuple[Nic, ...]
    disks: tuple[Disk, ...]
    guest: Guest
    addresses: tuple[str, ...]
    name: str
    warnings: tuple[Notice, ...] = field(default=())

    def to_json(self) -> Mapping[str, object]:
        """The document of POST /enrolments."""
        return asdict(self)
