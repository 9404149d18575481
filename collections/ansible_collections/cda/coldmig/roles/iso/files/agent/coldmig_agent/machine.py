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
    #: ``info``, ``warning``, or ``block``: the copy begins only after somebody has accepted it.
    severity: str = "warning"
    #: What to do about it, a sentence; empty where nothing needs to be done.
    action: str = ""


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
    #: A virtual function (SR-IOV), and a card that belongs to the management controller.
    virtual_function: bool = False
    management: bool = False


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
    #: ``sata``, ``sas``, ``nvme``, ``usb``, ``virtio``, …; empty where it is not known.
    transport: str = ""
    #: Other names of the same disk: its further paths, where it is reached by several.
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A disk of the machine that is not copied; ``reason`` says by whose wish."""

    path: str
    size_bytes: int
    serial: str
    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a system can use one kind of virtual device from its first moment on.

    ``device``: ``pvscsi``, ``lsilogic-sas``, ``ahci``, ``nvme``, ``lsilogic``, ``ide`` (``kind`` storage) or
    ``vmxnet3``, ``e1000e``, ``e1000`` (``kind`` network). ``verdict``: ``ready`` (seen), ``likely`` (should, but is not
    proven), ``no``, ``unknown``.
    """

    device: str
    kind: str
    verdict: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Guest:
    """An operating system that was found.

    ``os_type``: ``linux``, ``windows``, ``freebsd``, ``netbsd``, ``openbsd``, ``other`` or ``unknown``. ``version`` of
    Windows is NT's with the build (``10.0.20348``). ``drivers``: what its default kernel can load of those for VMware.
    """

    os_type: str = "unknown"
    id: str = ""
    version: str = ""
    pretty_name: str = ""
    hostname: str | None = None
    kernel: str | None = None
    drivers: tuple[str, ...] = ()
    #: Names this system among the machine's, the same at every boot: ``disk0/2``, ``lvm/vg/root``, ``disk1/3/@``.
    key: str = ""
    #: Where it is, for a person: "disk 0, partition 2", "LVM volume vg/root".
    place: str = ""
    #: ``x86_64``, ``i386``, ``aarch64``; None where it could not be seen.
    arch: str | None = None
    id_like: tuple[str, ...] = ()
    platform_id: str = ""
    #: The full release where ``version`` is only its beginning: ``12.5``, ``9.4 (Plow)``, ``10.0.20348.2113``.
    release: str = ""
    #: os-release's VARIANT_ID, Windows' EditionID.
    edition: str = ""
    build: int | None = None
    ubr: int | None = None
    #: ``WinNT`` (a client), ``ServerNT``, ``LanmanNT`` (a domain controller); empty for others.
    product_type: str = ""
    domain: str | None = None
    #: Windows' NetBIOS name, beside ``hostname``, which is the DNS form.
    computer_name: str | None = None
    #: ``bios`` or ``efi`` where its boot loader tells.
    firmware: str | None = None
    #: Title of the entry that boots by itself.
    boot_entry: str = ""
    #: Whether a boot loader on these disks refers to it.
    bootable: bool = False
    readiness: tuple[Readiness, ...] = ()


@dataclass(frozen=True, slots=True)
class InspectedVolume:
    """A file system, or what stands in its place, that was looked at. ``problem`` says why it could not be."""

    place: str
    fstype: str
    label: str = ""
    role: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class KernelWrites:
    """The kernel's own count of writes to a disk since the live system started, after everything was looked at."""

    index: int
    ios: int
    sectors: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """How the look into the disks went. ``overlay_bytes``: changes that were kept in memory instead of on a disk."""

    seconds: float = 0.0
    overlay_bytes: int = 0
    volumes: tuple[InspectedVolume, ...] = ()
    writes: tuple[KernelWrites, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tpm:
    """A Trusted Platform Module; ``version`` is ``1.2``, ``2.0`` or empty."""

    version: str = ""


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
    #: Every system that was found, the one that boots by itself first; ``guest`` is the first of them.
    guests: tuple[Guest, ...] = ()
    tpm: Tpm | None = None
    inspection: Inspection | None = None
    #: Disks that are there and are not copied, by the settings.
    left_out: tuple[LeftOut, ...] = ()

    def to_json(self) -> Mapping[str, object]:
        """The document of POST /enrolments."""
        return asdict(self)
