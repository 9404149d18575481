# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot loaders: Debian's signed shim and GRUB for UEFI (Secure Boot works), our own GRUB core for BIOS."""

from __future__ import annotations

import shutil
from pathlib import Path

from coldmig_iso.run import SOURCE_DATE_EPOCH, BuildError, run

SIGNED = {
    # name on the ESP: (file on this machine, Debian package)
    "BOOTX64.EFI": (Path("/usr/lib/shim/shimx64.efi.signed"), "shim-signed"),
    "mmx64.efi": (Path("/usr/lib/shim/mmx64.efi"), "shim-signed"),
    # The variant for CDs: everything built in, and it finds its medium by /.disk/info.
    "grubx64.efi": (Path("/usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed"), "grub-efi-amd64-signed"),
}
_BIOS = Path("/usr/lib/grub/i386-pc")
BIOS_MBR = _BIOS / "boot_hybrid.img"
BIOS_CORE = "eltorito.img"
EFI_IMAGE = "efi.img"
_BIOS_MODULES = (
    "biosdisk iso9660 part_gpt part_msdos fat normal linux echo test search search_fs_file configfile serial terminal"
    " minicmd ls cat sleep reboot halt true all_video"
)
_EFI_IMAGE_KIB = 8192


def check_packages() -> None:
    """:raises BuildError: with the packages to install when a boot loader file is missing."""
    wanted = {package for path, package in SIGNED.values() if not path.is_file()}
    if not BIOS_MBR.is_file():
        wanted.add("grub-pc-bin")
    if wanted:
        raise BuildError(f"boot loader files are missing on this machine: apt install {' '.join(sorted(wanted))}")


def build_bootloader(result: Path) -> None:
    """Fill ``result`` with ``eltorito.img``, ``efi.img`` and ``EFI/BOOT/``."""
    core: list[str | Path] = [
        "grub-mkimage",
        "-O",
        "i386-pc-eltorito",
        "-d",
        _BIOS,
        "-p",
        "/boot/grub",
        "-o",
        result / BIOS_CORE,
    ]
    run([*core, *_BIOS_MODULES.split()])
    tree = result / "EFI/BOOT"
    tree.mkdir(parents=True)
    for name, (source, _package) in SIGNED.items():
        shutil.copy(source, tree / name)
    image = result / EFI_IMAGE
    with image.open("wb") as handle:
        handle.truncate(_EFI_IMAGE_KIB * 1024)
    # A fixed serial number, and SOURCE_DATE_EPOCH for the times, make the image reproducible.
    run(["mformat", "-i", image, "-v", "COLDMIG", "-N", "434d4947", "::"])
    run(["mmd", "-i", image, "::/EFI", "::/EFI/BOOT"])
    run(
        ["mcopy", "-i", image, *(tree / name for name in SIGNED), "::/EFI/BOOT/"],
        env={"SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH},
    )


def loader_files() -> list[Path]:
    """The files of this machine that go into the image (for the cache key)."""
    return [*(path for path, _package in SIGNED.values()), BIOS_MBR, _BIOS / "kernel.img"]
