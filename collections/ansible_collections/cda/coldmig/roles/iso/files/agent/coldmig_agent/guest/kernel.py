# SPDX-License-Identifier: GPL-3.0-or-later
"""Which kernel a Linux guest starts by default, and which of VMware's devices that kernel can drive.

A storage driver counts only if it is there before the root file system: built in, or in that kernel's initramfs. A
network driver may also come from the root file system (``modules.dep``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coldmig_agent.guest import initramfs
from coldmig_agent.guest.release import parse_assignments
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.text import clean, natural_key

STORAGE_DRIVERS = frozenset(
    {"vmw_pvscsi", "mptspi", "mptsas", "ahci", "nvme", "ata_piix", "BusLogic", "virtio_blk", "virtio_scsi"}
)
NETWORK_DRIVERS = frozenset({"vmxnet3", "e1000e", "e1000", "virtio_net"})
_WANTED = STORAGE_DRIVERS | NETWORK_DRIVERS
_MODULE = re.compile(r"(?:^|/)([A-Za-z0-9_-]+)\.ko(?:\.(?:gz|xz|zst))?$")
_VERSION = re.compile(r"(?:vmlinuz|vmlinux|bzImage|kernel|linux)-(.+)$")
_INITRD = re.compile(r"^(?:initrd\.img-(?P<a>.+)|initramfs-(?P<b>.+?)(?:\.img)?|initrd-(?P<c>.+?)(?:\.img)?)$")
_MAX_GRUB = 2 << 20
_MAX_INITRAMFS = 1 << 30
_MAX_ENTRIES = 512


@dataclass(frozen=True, slots=True)
class BootEntry:
    """One way to boot: a title, the kernel's and the initramfs' path as the boot loader names them."""

    title: str
    identity: str
    kernel: str
    initrds: tuple[str, ...]
    options: str

    @property
    def version(self) -> str | None:
        """Kernel release from the file's name: ``/boot/vmlinuz-6.1.0-13-amd64`` → ``6.1.0-13-amd64``."""
        found = _VERSION.search(self.kernel.rpartition("/")[2])
        return clean(found[1], 128) if found else None


def module_names(paths: Iterable[str]) -> set[str]:
    """Names of the wanted drivers among module paths; ``-`` and ``_`` are the same to the kernel."""
    found = set()
    for path in paths:
        match = _MODULE.search(path)
        if match and (name := match[1].replace("-", "_")) in _WANTED:
            found.add(name)
    return found


def parse_grub(text: str) -> tuple[str, list[BootEntry]]:
    """The ``default`` setting and the menu entries of a grub.cfg, in order, submenus flattened.

    Only what update-grub and grub2-mkconfig write is understood; this is no shell.
    """
    default = "0"
    entries: list[BootEntry] = []
    title = identity = kernel = options = ""
    initrds: tuple[str, ...] = ()
    inside = False
    for raw in text.splitlines():
        line = raw.strip()
        if found := re.match(r"""set default=["']?([^"']*)["']?$""", line):
            # The first plain value is the configured one; the same variable is set again inside conditions.
            if default == "0" or found[1] == "${saved_entry}":
                default = found[1]
        elif found := re.match(r"""menuentry\s+(?:'([^']*)'|"([^"]*)")""", line):
            title, inside = found[1] or found[2] or "", True
            marked = re.search(r"""(?:--id|menuentry_id_option)\s+['"]?([^'"\s{]+)""", line)
            identity, kernel, initrds, options = (marked[1] if marked else ""), "", (), ""
        elif inside and (found := re.match(r"(?:linux|linux16|linuxefi)\s+(\S+)\s*(.*)$", line)):
            kernel, options = found[1], found[2]
        elif inside and (found := re.match(r"(?:initrd|initrd16|initrdefi)\s+(.+)$", line)):
            initrds = tuple(found[1].split())
        elif inside and line == "}":
            if kernel and len(entries) < _MAX_ENTRIES:
                entries.append(BootEntry(title, identity, kernel, initrds, options))
            inside = False
    return default, entries


def parse_loader_entry(text: str, identity: str) -> BootEntry | None:
    """One file of ``/loader/entries`` (Boot Loader Specification type 1)."""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _blank, value = line.strip().partition(" ")
        if key and not key.startswith("#"):
            values.setdefault(key, []).append(value.strip())
    if "linux" not in values:
        return None
    initrds = tuple(word for value in values.get("initrd", []) for word in value.split() if "$" not in word)
    title = values.get("title", [identity])[0]
    return BootEntry(title, identity, values["linux"][0], initrds, " ".join(values.get("options", [])))


def choose_entry(default: str, saved: str, entries: Sequence[BootEntry]) -> BootEntry | None:
    """The entry that boots by itself. ``default`` may be a number, a title, an id, or stand for ``saved``."""
    wanted = saved if default in {"${saved_entry}", "saved"} else default
    last = wanted.rpartition(">")[2]
    for entry in entries:
        if last and last in {entry.identity, entry.title}:
            return entry
    if wanted.isdigit() and int(wanted) < len(entries):
        return entries[int(wanted)]
    return entries[0] if entries else None


def _saved_entry(root: GuestRoot, base: str) -> str:
    for path in (f"{base}/grub/grubenv", f"{base}/grub2/grubenv"):
        text = root.text(path, 4096)
        if text is not None:
            return parse_assignments(text.replace("\0", "")).get("saved_entry", "")
    return ""


def _newest_kernel(root: GuestRoot, base: str) -> BootEntry | None:
    versions = [name for name in root.names(base or "/") if name.startswith("vmlinuz-") and "rescue" not in name]
    if not versions:
        return None
    newest = max(versions, key=natural_key)
    return BootEntry(newest, "", f"{base}/{newest}", (), "")


def default_entry(root: GuestRoot, base: str) -> BootEntry | None:
    """The default boot entry found under ``base`` (``/boot``, or empty for a file system that is /boot itself)."""
    saved = _saved_entry(root, base)
    loader = f"{base}/loader/entries"
    parsed = [
        parse_loader_entry(root.text(f"{loader}/{name}") or "", name.removesuffix(".conf"))
        for name in sorted(root.names(loader), key=natural_key, reverse=True)[:_MAX_ENTRIES]
        if name.endswith(".conf")
    ]
    entries = [entry for entry in parsed if entry is not None]
    if entries:
        plain = [entry for entry in entries if "rescue" not in entry.identity] or entries
        return choose_entry(saved, saved, plain)
    for path in (f"{base}/grub/grub.cfg", f"{base}/grub2/grub.cfg"):
        text = root.text(path, _MAX_GRUB)
        if text is not None:
            default, entries = parse_grub(text)
            entry = choose_entry(default, saved, entries)
            if entry is not None:
                return entry
    return _newest_kernel(root, base)


def initramfs_path(root: GuestRoot, base: str, entry: BootEntry) -> str | None:
    """Path inside ``root`` of the entry's initramfs: as the entry names it, else the one made for its kernel."""
    for name in entry.initrds:
        file = name.rpartition("/")[2]
        if "ucode" not in file and root.is_file(f"{base}/{file}"):
            return f"{base}/{file}"
    for file in root.names(base or "/"):
        found = _INITRD.match(file)
        if found and entry.version in {found["a"], found["b"], found["c"]}:
            return f"{base}/{file}"
    return None


@dataclass(frozen=True, slots=True)
class BootFacts:
    """What a /boot says: default kernel, the wanted drivers in its initramfs, and whether that was readable."""

    kernel: str | None
    options: str
    initramfs: str | None
    drivers: tuple[str, ...]
    problem: str


def read_boot(root: GuestRoot, base: str) -> BootFacts | None:
    """Facts of the boot files under ``base``; None where there are none."""
    entry = default_entry(root, base)
    if entry is None:
        return None
    path = initramfs_path(root, base, entry)
    if path is None:
        return BootFacts(entry.version, clean(entry.options, 2048), None, (), "")
    drivers: set[str] = set()
    try:
        with root.open(path) as fd, os.fdopen(os.dup(fd), "rb") as file:
            if os.fstat(fd).st_size > _MAX_INITRAMFS:
                raise OSError("it is larger than 1 GiB")
            listing = initramfs.list_names(file, lambda name: drivers.update(module_names([name])))
            problem = listing.problem
    except OSError as error:
        problem = clean(str(error))
    return BootFacts(entry.version, clean(entry.options, 2048), path, tuple(sorted(drivers)), problem)


@dataclass(frozen=True, slots=True)
class ModuleFacts:
    """Wanted drivers of one kernel in the root file system: built in, and as modules."""

    kernel: str
    builtin: tuple[str, ...]
    modules: tuple[str, ...]


def read_modules(root: GuestRoot) -> list[ModuleFacts]:
    """Facts of every kernel under /lib/modules."""
    found: list[ModuleFacts] = []
    for name in root.names("/lib/modules")[:64]:
        builtin = root.text(f"/lib/modules/{name}/modules.builtin", 1 << 20) or ""
        dependencies = root.text(f"/lib/modules/{name}/modules.dep", 8 << 20)
        if not builtin and dependencies is None:
            continue
        loadable = (line.partition(":")[0] for line in (dependencies or "").splitlines())
        found.append(
            ModuleFacts(
                clean(name, 128),
                tuple(sorted(module_names(builtin.splitlines()))),
                tuple(sorted(module_names(loadable))),
            )
        )
    return found
