# SPDX-License-Identifier: GPL-3.0-or-later
"""What one file system says about the systems that it is part of.

These records are made by the process that reads a guest's files and cross a pipe (:mod:`coldmig_agent.records`): every
text is short, every list bounded. :mod:`coldmig_agent.guest.assemble` puts those of all file systems together.
Paths are those of the file system that the record belongs to, and begin with ``/``.
"""

from __future__ import annotations

from dataclasses import dataclass

from coldmig_agent.guest.bsd import BsdFacts
from coldmig_agent.guest.windows.model import WindowsFacts

#: Bounds of what is handed on, far above what systems have.
MAX_SYSTEMS = 24
MAX_ENTRIES = 64
MAX_IMAGES = 8
MAX_KERNELS = 32
MAX_MODULES = 4000
MAX_MOUNTS = 64
MAX_NAMES = 24


@dataclass(frozen=True, slots=True)
class Release:
    """``id`` in lower case, ``version`` as os-release has it, ``release`` as exact as it is known: ``12.7``."""

    id: str
    version: str
    pretty_name: str
    release: str = ""
    id_like: tuple[str, ...] = ()
    platform_id: str = ""
    variant: str = ""


@dataclass(frozen=True, slots=True)
class DeviceDrivers:
    """Modules of one kernel that bind to a VMware device (``pvscsi``, ``e1000``, …), by their aliases."""

    device: str
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Needs:
    """The modules that another one cannot do without."""

    module: str
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """One kernel's modules in a root or /usr: ``builtin`` and ``modules`` are names with ``_`` instead of ``-``.

    Only those that VMware's devices may need are named. ``complete`` is False where the list of built-in drivers was
    not found. ``alias_source`` is the file that ``drivers`` comes from, empty where there is none.
    """

    version: str
    path: str
    builtin: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    drivers: tuple[DeviceDrivers, ...] = ()
    needs: tuple[Needs, ...] = ()
    complete: bool = True
    alias_source: str = ""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An initramfs. ``modules``: names of all that are in it; ``problem`` says why it was not read to its end."""

    path: str
    complete: bool
    problem: str = ""
    entries: int = 0
    modules: tuple[str, ...] = ()
    #: From the lists inside the image: of the kernel version that they are for.
    versions: tuple[str, ...] = ()
    builtin: tuple[str, ...] = ()
    builtin_known: bool = False
    drivers: tuple[DeviceDrivers, ...] = ()
    #: Modules that modprobe.d inside the image keeps from loading.
    blacklist: tuple[str, ...] = ()
    #: ``dracut``, ``initramfs-tools``, ``mkinitcpio``, ``nixos``, ``booster``; empty where it does not tell.
    maker: str = ""
    #: dracut's --hostonly: only the drivers of the machine that it was made on.
    hostonly: bool = False
    #: Encrypted volumes that it opens, as its crypttab names them.
    crypt: tuple[str, ...] = ()
    #: initrd-release or os-release inside, and the name of the computer.
    release: Release | None = None
    hostname: str | None = None


@dataclass(frozen=True, slots=True)
class KernelImage:
    """A kernel's file: ``version`` from its header (else its name), ``arch`` where the header tells.

    ``config``: its config-<version> beside it, with the names of the drivers that this one has built in.
    """

    path: str
    version: str | None
    arch: str | None
    config: str = ""
    builtin: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BootEntry:
    """One way to boot. ``kernel`` and ``initrds`` are as the boot loader names them; ``images`` were found here.

    ``volume``: UUID or label of the file system that the loader takes the kernel from, where the entry names it.
    ``chain``: the loader or sector that it hands over to, for an entry without a kernel.
    """

    title: str
    identity: str
    kernel: str
    initrds: tuple[str, ...]
    options: str
    version: str | None = None
    images: tuple[str, ...] = ()
    kernel_found: bool = False
    volume: str = ""
    rescue: bool = False
    chain: str = ""


@dataclass(frozen=True, slots=True)
class BootFacts:
    """One boot loader's menu. ``default`` is the index of the entry that boots by itself, None where it is not known.

    ``loader``: ``grub``, ``grub-bls``, ``grub-legacy``, ``systemd-boot``, ``syslinux``, ``uki``; ``files`` where there
    are only kernels and no menu. ``config`` is the file that was read. ``tree``: path of the system (or of the Btrfs
    subvolume) that it was found in. ``wants_saved``: the menu boots what grubenv names, and none was found beside it.
    """

    loader: str
    config: str
    entries: tuple[BootEntry, ...]
    default: int | None = None
    tree: str = ""
    wants_saved: bool = False


@dataclass(frozen=True, slots=True)
class GrubEnv:
    """A grubenv: the entry for the next boot (once), the saved one, and the options that BLS entries refer to."""

    path: str
    next_entry: str = ""
    saved_entry: str = ""
    kernelopts: str = ""


@dataclass(frozen=True, slots=True)
class MountLine:
    """A line of fstab: ``subvolume`` from its options; ``optional`` where the system starts without it."""

    spec: str
    mountpoint: str
    fstype: str
    subvolume: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Bound:
    """A setting that holds for this machine only: ``value`` is the name, address or list entry, ``path`` the file."""

    kind: str
    value: str
    path: str


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """A tree that looks like the root of a Linux system.

    ``path``: where it is in its file system, empty for the top, else a Btrfs subvolume or an ostree deployment.
    ``kind``: ``root``, ``subvolume``, ``snapshot``, ``ostree`` or ``nixos``. ``default``: what is mounted when nothing
    is asked for. ``aliases``: other paths under which a boot loader may name it (ostree's links).
    """

    path: str
    kind: str
    default: bool
    release: Release | None = None
    hostname: str | None = None
    arch: str | None = None
    init: bool = False
    kernels: tuple[KernelFacts, ...] = ()
    mounts: tuple[MountLine, ...] = ()
    bound: tuple[Bound, ...] = ()
    aliases: tuple[str, ...] = ()
    #: Volumes that are the disks of virtual machines which this system runs.
    guest_disks: tuple[str, ...] = ()
    #: Modules that modprobe.d keeps from loading.
    blacklist: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UsrFacts:
    """A /usr with a file system of its own."""

    release: Release | None = None
    arch: str | None = None
    kernels: tuple[KernelFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class Stub:
    """A loader's small configuration on the ESP that only says where the real one is."""

    path: str
    volume: str
    prefix: str


@dataclass(frozen=True, slots=True)
class EspFacts:
    """An EFI system partition. ``loaders`` are paths in lower case; ``fallback`` says what EFI/BOOT/BOOTX64.EFI is.

    ``fallback``: ``grub``, ``shim``, ``systemd-boot``, ``refind``, ``windows``, ``uki``, ``other``; empty where
    it is missing.
    """

    loaders: tuple[str, ...] = ()
    fallback: str = ""
    fallback32: bool = False
    windows: bool = False
    stubs: tuple[Stub, ...] = ()


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """What one file system holds. ``roles``: ``root``, ``boot``, ``esp``, ``usr``, ``windows``, ``bsd``."""

    roles: tuple[str, ...] = ()
    systems: tuple[SystemFacts, ...] = ()
    usr: UsrFacts | None = None
    esp: EspFacts | None = None
    boots: tuple[BootFacts, ...] = ()
    envs: tuple[GrubEnv, ...] = ()
    images: tuple[ImageFacts, ...] = ()
    kernels: tuple[KernelImage, ...] = ()
    #: Firmware that grub's modules here are for: ``bios``, ``efi``.
    firmware: tuple[str, ...] = ()
    windows: WindowsFacts | None = None
    bsd: BsdFacts | None = None
    #: What could not be looked at, for the log.
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InspectedFacts:
    """A file system (or what stands in its place) and what was found in it; ``facts`` None where it was not read.

    ``key``: ``disk0/2``, ``disk0``, ``lvm/<vg>/<lv>``, ``md/<name>``. ``names``: how guests may call it beside its UUID
    and label: ``/dev/mapper/vg-lv``, ``/dev/vg/lv``, ``/dev/md0``, ``/dev/md/<name>``, ``PARTUUID=…``, ``PARTLABEL=…``.
    ``fstype`` as blkid says, also ``crypto_LUKS``, ``swap``, ``BitLocker`` for volumes that were not mounted.
    ``snapshot``: an older state of another volume (LVM), with the same UUID.
    """

    place: str
    key: str
    disk: int | None
    fstype: str
    label: str = ""
    uuid: str = ""
    facts: VolumeFacts | None = None
    problem: str = ""
    names: tuple[str, ...] = ()
    snapshot: bool = False
