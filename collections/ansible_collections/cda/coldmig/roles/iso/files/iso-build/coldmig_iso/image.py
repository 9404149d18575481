# SPDX-License-Identifier: GPL-3.0-or-later
"""Stage "iso": put everything into one hybrid image for BIOS and UEFI, CD and disk."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from coldmig_iso import FORMAT, SOURCES, VERSION
from coldmig_iso.bootloader import BIOS_CORE, BIOS_MBR, EFI_IMAGE
from coldmig_iso.initrd import INITRD
from coldmig_iso.layer import LAYER
from coldmig_iso.lists import read_list
from coldmig_iso.run import SOURCE_DATE_EPOCH, run
from coldmig_iso.system import KERNEL, SYSTEM
from coldmig_iso.tree import MANIFEST

ISO = "coldmig-base.iso"
ARGUMENTS = "kernel-arguments.txt"
CONFIG_SLOT_BYTES = 256 << 10
ARGS_SLOT_BYTES = 8 << 10


@dataclass(frozen=True)
class Parts:
    """Result directories of the stages before."""

    tree: Path
    system: Path
    layer: Path
    initrd: Path
    bootloader: Path


def volume_id(build_id: str) -> str:
    """Volume id of an image: product, format and build, so that a stick of an older build is not taken for this one."""
    return f"COLDMIG_{FORMAT}_{build_id[:16].upper()}"


def kernel_arguments(volume: str) -> str:
    """What every boot of the image has on its kernel command line."""
    return " ".join([f"coldmig.volume={volume}", *read_list("fence/kernel-args.txt"), "quiet", "loglevel=3"])


def grub_config(volume: str) -> str:
    """The menu, filled in."""
    text = (SOURCES / "boot/grub.cfg").read_text(encoding="utf-8")
    values = {"VERSION": VERSION, "VOLUME": volume, "BUILD": volume.rsplit("_", 1)[1]}
    for name, value in {**values, "ARGUMENTS": kernel_arguments(volume)}.items():
        text = text.replace(f"@{name}@", value)
    return text


def populate(root: Path, parts: Parts, volume: str) -> None:
    """Lay out the image's directory tree."""
    for directory in (".disk", "boot/grub", "live"):
        (root / directory).mkdir(parents=True)
    (root / ".disk/info").write_text(f"cda.coldmig {volume}\n", encoding="utf-8")
    (root / "boot/grub/grub.cfg").write_text(grub_config(volume), encoding="utf-8")
    # For what boots the same files from the network (module_utils/_iso_netboot.py).
    (root / "live" / ARGUMENTS).write_text(kernel_arguments(volume) + "\n", encoding="utf-8")
    # The two slots that a template's settings are patched into.
    (root / "boot/grub/custom.cfg").write_bytes(b"\n" * ARGS_SLOT_BYTES)
    (root / "live/config.img").write_bytes(bytes(CONFIG_SLOT_BYTES))
    for name in (BIOS_CORE, EFI_IMAGE):
        shutil.copy(parts.bootloader / name, root / "boot/grub" / name)
    # Also as plain files, for tools that copy the image's files onto a FAT stick.
    shutil.copytree(parts.bootloader / "EFI", root / "EFI")
    for source in (
        parts.system / KERNEL,
        parts.system / SYSTEM,
        parts.layer / LAYER,
        parts.initrd / INITRD,
        parts.tree / MANIFEST,
    ):
        os.link(source, root / "live" / source.name)


def build_image(parts: Parts, build_id: str, scratch: Path, result: Path) -> None:
    """Fill ``result`` with the finished image."""
    root = scratch / "iso"
    root.mkdir()
    volume = volume_id(build_id)
    populate(root, parts, volume)
    run(
        [
            *("xorriso", "-as", "mkisofs", "-quiet", "-rational-rock", "-V", volume, "-o", result / ISO),
            *("-b", f"boot/grub/{BIOS_CORE}", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"),
            *("--grub2-boot-info", "--grub2-mbr", BIOS_MBR, "--protective-msdos-label"),
            *("-eltorito-alt-boot", "-e", f"boot/grub/{EFI_IMAGE}", "-no-emul-boot"),
            *("-efi-boot-part", "--efi-boot-image"),
            *("--set_all_file_dates", f"={SOURCE_DATE_EPOCH}"),
            root,
        ],
        env={"SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH},
    )
