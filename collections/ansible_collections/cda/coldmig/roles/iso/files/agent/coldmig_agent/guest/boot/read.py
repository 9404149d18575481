# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the menus, kernels and initramfs images in one tree: a /boot, an ESP, or a whole root."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from coldmig_agent.guest import image
from coldmig_agent.guest.boot import binary, grub, spec, syslinux, uki
from coldmig_agent.guest.boot.menu import MAX_CONFIG, MAX_PARSED, entry, kernel_version
from coldmig_agent.guest.devices import DEVICES
from coldmig_agent.guest.facts import (
    MAX_ENTRIES,
    MAX_IMAGES,
    MAX_KERNELS,
    BootEntry,
    BootFacts,
    GrubEnv,
    ImageFacts,
    KernelImage,
    Stub,
)
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.text import clean, natural_key

_KERNEL_FILE = re.compile(r"^(?:vmlinuz|vmlinux|bzImage|kernel)(?:-.+)?$|^linux-.+$")
_INITRD_FILE = re.compile(r"^(?:initrd\.img-(.+)|initramfs-(.+?)(?:\.img)?|initrd-(.+?)(?:\.img)?)$")
_EARLY = re.compile(r"ucode|microcode", re.IGNORECASE)
_SYSLINUX = (
    "/extlinux/extlinux.conf", "/extlinux.conf", "/syslinux/syslinux.cfg", "/syslinux/extlinux.conf", "/syslinux.cfg",
    "/EFI/syslinux/syslinux.cfg", "/EFI/BOOT/syslinux.cfg",
)  # fmt: skip
_OPTION = re.compile(r"^CONFIG_([A-Z0-9_]+)=y$", re.MULTILINE)
#: Settings of a kernel's build and the drivers that are built in with them.
_BUILT_IN = {
    "VMWARE_PVSCSI": ("vmw_pvscsi",),
    "FUSION": ("mptbase", "mptscsih"),
    "FUSION_SAS": ("mptsas",),
    "FUSION_SPI": ("mptspi",),
    "SCSI_SAS_ATTRS": ("scsi_transport_sas",),
    "SCSI_SPI_ATTRS": ("scsi_transport_spi",),
    "SATA_AHCI": ("ahci", "libahci"),
    "ATA": ("libata",),
    "ATA_PIIX": ("ata_piix",),
    "BLK_DEV_PIIX": ("piix",),
    "BLK_DEV_IDEDISK": ("ide_disk",),
    "BLK_DEV_NVME": ("nvme",),
    "NVME_CORE": ("nvme_core",),
    "BLK_DEV_SD": ("sd_mod",),
    "SCSI": ("scsi_mod",),
    "VMXNET3": ("vmxnet3",),
    "E1000E": ("e1000e",),
    "E1000": ("e1000",),
}
_USUAL = frozenset(name for device in DEVICES if device.kind == "storage" for name in device.drivers[:1])


@dataclass(slots=True)
class Tree:
    """What was found in one tree; paths are those inside the tree."""

    boots: list[BootFacts] = field(default_factory=list)
    envs: list[GrubEnv] = field(default_factory=list)
    stubs: list[Stub] = field(default_factory=list)
    images: list[ImageFacts] = field(default_factory=list)
    kernels: list[KernelImage] = field(default_factory=list)
    firmware: set[str] = field(default_factory=set)


def _with_files(root: GuestRoot, base: str, found: BootEntry) -> BootEntry:
    """The entry with its files looked for here, and the kernel's version from its header where the name has none."""
    kernel = _locate(root, base, found.kernel)
    version = found.version
    if kernel and (found.rescue or kernel_version(kernel) is None):
        header = binary.read_kernel(root, kernel)
        version = (header.version if header else None) or version
    images = [path for word in found.initrds if (path := _locate(root, base, word)) and not _EARLY.search(word)]
    if found.initrds and not images and version:
        images = list(_initrds_of(root, base, found.kernel, version))[:1]
    return replace(found, version=version, images=tuple(images), kernel_found=bool(kernel))


def _locate(root: GuestRoot, base: str, path: str) -> str | None:
    """Where a path that a boot loader names is in this tree: it may mean another directory by ``/``."""
    if not path or "#" in path:
        return path or None
    name = path.rpartition("/")[2]
    plain = "/" + path.lstrip("/")
    candidates = [plain, f"{base}{plain}"]
    # On Btrfs GRUB counts from the top level: /@/boot/vmlinuz is /boot/vmlinuz of the subvolume.
    candidates += [f"/{rest}" for rest in _tails(plain) if rest.startswith(("boot/", "ostree/", "nix/"))]
    candidates.append(f"{base}/{name}")
    return next((clean(item, 512) for item in candidates if root.is_file(item)), None)


def _tails(path: str) -> Iterator[str]:
    parts = path.strip("/").split("/")
    return ("/".join(parts[number:]) for number in range(1, min(len(parts), 8)))


def _initrds_of(root: GuestRoot, base: str, kernel: str, version: str) -> Iterator[str]:
    """The images that are called after a kernel's version, or as its file: vmlinuz-linux and initramfs-linux.img."""
    wanted = {version, posixpath.basename(kernel).partition("-")[2]} - {""}
    for name in root.names(base or "/"):
        found = _INITRD_FILE.match(name)
        if found and wanted & set(found.groups()):
            yield f"{base}/{name}"


def _env(root: GuestRoot, path: str) -> GrubEnv | None:
    text = root.text(path, 4096)
    return None if text is None else grub.parse_grubenv(text, path)


def _specs(root: GuestRoot, directory: str, kernelopts: str) -> list[spec.Spec]:
    names = sorted(root.names(directory), key=natural_key, reverse=True)
    found = (
        spec.parse_entry(root.text(f"{directory}/{name}", 1 << 14) or "", name, kernelopts)
        for name in names[:MAX_PARSED]
        if name.endswith(".conf")
    )
    return [item for item in found if item is not None]


class _Finder:
    def __init__(self, root: GuestRoot, base: str, esp: bool) -> None:
        self._root = root
        self._base = base
        self._esp = esp
        self.tree = Tree()

    def find(self) -> Tree:
        """All menus of the tree; where there is none, its kernels stand for one."""
        self._modules_of_grub()
        configs = self._grub_configs()
        for path in configs:
            self._grub(path)
        if self._root.names(f"{self._base}/loader/entries") or self._ukis():
            self._loader_entries()
        self._legacy()
        for name in _SYSLINUX:
            path = f"{self._base}{name}"
            text = self._root.text(path, MAX_CONFIG)
            if text is not None:
                default, entries = syslinux.parse_syslinux(text, posixpath.dirname(path))
                self._add("syslinux", path, entries, default)
        self._kernel_files()
        return self.tree

    def _modules_of_grub(self) -> None:
        for directory in ("grub", "grub2"):
            for name in self._root.names(f"{self._base}/{directory}"):
                if name.endswith("-pc"):
                    self.tree.firmware.add("bios")
                elif name.endswith("-efi"):
                    self.tree.firmware.add("efi")

    def _grub_configs(self) -> list[str]:
        paths = [f"{self._base}/grub/grub.cfg", f"{self._base}/grub2/grub.cfg"]
        if self._esp:
            vendor = self._root.nocase("/EFI")
            paths += [f"{vendor}/{name}/grub.cfg" for name in self._root.names(vendor)[:64]] if vendor else []
            paths.append("/grub.cfg")
        return [path for path in paths if self._root.is_file(path)]

    def _add(
        self, loader: str, path: str, entries: Sequence[BootEntry], default: int | None, *, wants_saved: bool = False
    ) -> None:
        if not entries and not wants_saved:
            return
        # The one that boots is kept whatever its number.
        order = list(range(len(entries)))[:MAX_ENTRIES]
        if default is not None and default >= MAX_ENTRIES:
            order[-1], default = default, MAX_ENTRIES - 1
        chosen = tuple(_with_files(self._root, self._base, entries[number]) for number in order)
        self.tree.boots.append(BootFacts(loader, clean(path, 255), chosen, default, "", wants_saved))

    def _grub(self, path: str) -> None:
        text = self._root.text(path, MAX_CONFIG) or ""
        menu = grub.parse_grub(text)
        if not menu.items and not menu.uses_bls:
            stub = grub.parse_stub(text, path)
            if stub is not None:
                self.tree.stubs.append(stub)
            return
        directory = posixpath.dirname(path)
        env = _env(self._root, f"{directory}/grubenv")
        if env is not None:
            self.tree.envs.append(env)
        wanted = menu.default
        if wanted == grub.SAVED:
            wanted = env.saved_entry if env else ""
        if menu.uses_next and env and env.next_entry:
            wanted = env.next_entry
        missing = env is None and menu.default == grub.SAVED
        if menu.uses_bls:
            self._grub_specs(path, wanted, (env.kernelopts if env else "") or menu.kernelopts, missing)
            if not any(item.entry.kernel for item in menu.items):
                return
        self._add(
            "grub", path, [item.entry for item in menu.items], grub.choose(menu.items, wanted), wants_saved=missing
        )

    def _grub_specs(self, path: str, wanted: str, kernelopts: str, missing: bool) -> None:
        found = spec.grub_order(_specs(self._root, f"{self._base}/loader/entries", kernelopts))
        items = [grub.Item((number,), (), item.entry) for number, item in enumerate(found)]
        default = grub.choose(items, wanted)
        self._add("grub-bls", path, [item.entry for item in items], default, wants_saved=missing)

    def _ukis(self) -> list[str]:
        directory = self._root.nocase("/EFI/Linux") if self._esp else None
        names = self._root.names(directory)[:MAX_KERNELS] if directory else []
        return [f"{directory}/{name}" for name in names if name.lower().endswith(".efi")]

    def _loader_entries(self) -> None:
        """systemd-boot's entries and unified kernel images; entries that GRUB was seen to use are not its."""
        if any(boot.loader == "grub-bls" for boot in self.tree.boots):
            return
        directory = f"{self._base}/loader/entries"
        loader_conf = self._root.text(f"{self._base}/loader/loader.conf", 1 << 14)
        own_menu = any(boot.loader == "grub" for boot in self.tree.boots)
        if not self._esp and loader_conf is None and not own_menu:
            # A /boot whose GRUB is configured on the ESP.
            env = next(
                (item for name in ("grub2", "grub") if (item := _env(self._root, f"{self._base}/{name}/grubenv"))), None
            )
            if env is not None:
                self.tree.envs.append(env)
            found = spec.grub_order(_specs(self._root, directory, env.kernelopts if env else ""))
            items = [grub.Item((number,), (), item.entry) for number, item in enumerate(found)]
            wanted = (env.next_entry or env.saved_entry) if env else ""
            self._add("grub-bls", directory, [item.entry for item in items], grub.choose(items, wanted),
                      wants_saved=env is None)  # fmt: skip
            return
        if own_menu and loader_conf is None:
            return
        found = _specs(self._root, directory, "")
        for path in self._ukis():
            unified = uki.read_uki(self._root, path)
            if unified is not None:
                found.append(spec.Spec(unified.entry.identity, unified.entry, "", unified.entry.version or "", False))
        ordered = spec.systemd_order(found)
        default = spec.systemd_default(ordered, loader_conf or "")
        loader = "uki" if ordered and all("#" in "".join(item.entry.initrds) for item in ordered) else "systemd-boot"
        self._add(loader, directory, [item.entry for item in ordered], default)

    def _legacy(self) -> None:
        for name in ("menu.lst", "grub.conf"):
            path = f"{self._base}/grub/{name}"
            text = self._root.text(path, MAX_CONFIG)
            if text is not None and not any(boot.loader == "grub" for boot in self.tree.boots):
                saved = self._root.text(f"{self._base}/grub/default", 64) or ""
                default, entries = grub.parse_legacy(text, saved)
                self._add("grub-legacy", path, entries, default)
                return

    def _kernel_files(self) -> None:
        names = [name for name in self._root.names(self._base or "/") if _KERNEL_FILE.match(name)]
        names.sort(key=lambda name: ("rescue" not in name, natural_key(name)), reverse=True)
        for name in names[:MAX_KERNELS]:
            path = f"{self._base}/{name}"
            header = binary.read_kernel(self._root, path)
            if header is None or (header.version is None and not name.startswith(("vmlinu", "bzImage"))):
                continue
            version = header.version or kernel_version(path)
            config = f"{self._base}/config-{version}"
            settings = self._root.text(config, 1 << 20) if version else None
            self.tree.kernels.append(
                KernelImage(
                    clean(path, 255),
                    version,
                    header.arch,
                    clean(config, 255) if settings else "",
                    built_in(settings or ""),
                )
            )
        if self.tree.boots or not self.tree.kernels:
            return
        entries = []
        for item in self.tree.kernels:
            initrds = list(_initrds_of(self._root, self._base, item.path, item.version or ""))
            title = posixpath.basename(item.path)
            entries.append(entry(title, "", item.path, initrds, "", version=item.version or ""))
        self._add("files", self._base or "/", entries, None)


def built_in(config: str) -> tuple[str, ...]:
    """Names of the drivers that a kernel's config-<version> has built in, of those that matter here."""
    enabled = set(_OPTION.findall(config))
    return tuple(sorted({name for option, names in _BUILT_IN.items() if option in enabled for name in names}))


def wanted_images(boots: Iterable[BootFacts]) -> list[tuple[str, ...]]:
    """What to read of a tree's initramfs images, the most important first; each one the images of one entry."""
    default: list[tuple[str, ...]] = []
    rescue: list[tuple[str, ...]] = []
    others: list[tuple[str, ...]] = []
    for boot in boots:
        for number, item in enumerate(boot.entries):
            if not item.images:
                continue
            if boot.default == number and not boot.wants_saved:
                default.append(item.images)
            elif item.rescue:
                rescue.append(item.images)
            elif boot.default is None or boot.wants_saved:
                others.append(item.images)
    return list(dict.fromkeys([*default, *others[:3], *rescue[:1]]))


def read_images(root: GuestRoot, wanted: Sequence[tuple[str, ...]], deadline: float) -> list[ImageFacts]:
    """Read them one after the other; a rescue image is left alone when the first one has every driver anyway."""
    found: dict[str, ImageFacts] = {}
    for number, paths in enumerate(wanted):
        if number and "rescue" in paths[-1] and found and set(next(iter(found.values())).modules) >= _USUAL:
            continue
        for path in paths:
            if path in found or len(found) >= MAX_IMAGES:
                continue
            read = uki.read_initrd if path.endswith("#.initrd") else image.read_file
            found[path] = read(root, path, deadline)
    return list(found.values())


def read_tree(root: GuestRoot, base: str, *, esp: bool = False) -> Tree:
    """Menus of a tree whose /boot is at ``base`` (empty for a file system that is /boot or the ESP itself)."""
    return _Finder(root, base, esp).find()
