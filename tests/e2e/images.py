# SPDX-License-Identifier: GPL-3.0-or-later
"""Disk images of guests, made without mounting anything: GPT, ext4 from a directory, GRUB for BIOS and UEFI.

Every disk that boots begins alike: a BIOS boot partition, an ESP, and then what is the guest's own.
"""

from __future__ import annotations

import os
import struct
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
SECTOR = 512

BIOS_BOOT_START, BIOS_BOOT_BYTES = 1 * MIB, 1 * MIB
ESP_START, ESP_BYTES = 2 * MIB, 40 * MIB
#: Where the first partition of the guest's own begins.
FIRST_START = ESP_START + ESP_BYTES
#: The last MiB holds the backup GPT.
TABLE_BYTES = 1 * MIB

TYPE_BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
TYPE_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
TYPE_LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
TYPE_RAID = "A19D880F-05FC-4D3B-A006-743F0F84911E"


class ImageError(RuntimeError):
    """An image could not be made; the message says which tool failed and shows its words."""


def run(*argv: str, stdin: str | None = None) -> str:
    """Runs a tool and returns its output. Raises ImageError."""
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError as missing:
        raise ImageError(f"{argv[0]} is not installed") from missing
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise ImageError(f"{argv[0]} ended with status {done.returncode}:\n{tail}")
    return done.stdout


def sparse(image: Path, size: int) -> None:
    """Makes an image of `size` bytes that holds nothing."""
    with image.open("wb") as file:
        file.truncate(size)


def copy(source: Path, dest: Path) -> None:
    """Copies an image or a directory, with its holes and owners."""
    run("cp", "-a", "--sparse=always", "--reflink=auto", str(source), str(dest))


@dataclass(frozen=True, slots=True)
class Names:
    """Fixed UUIDs of one disk's or guest's parts, so that the same inputs give the same images."""

    namespace: uuid.UUID
    prefix: str = ""

    def uuid(self, name: str) -> str:
        return str(uuid.uuid5(self.namespace, self.prefix + name))

    def hex(self, name: str) -> str:
        return uuid.uuid5(self.namespace, self.prefix + name).hex

    @property
    def esp_serial(self) -> str:
        """The FAT volume's serial number, eight hex digits."""
        return self.hex("esp")[:8].upper()

    @property
    def esp_id(self) -> str:
        """The same as fstab writes it."""
        return f"{self.esp_serial[:4]}-{self.esp_serial[4:]}"


def make_disk(image: Path, size: int, names: Names, partitions: Sequence[tuple[str, int, str]]) -> list[int]:
    """A GPT disk that begins with a BIOS boot partition and an ESP; `partitions` follow: (name, bytes or 0, GPT type).

    0 bytes: all that is left. Returns where each of `partitions` begins, in bytes.
    """
    sparse(image, size)
    rows = [
        ("bios", BIOS_BOOT_START, BIOS_BOOT_BYTES, TYPE_BIOS_BOOT),
        ("esp", ESP_START, ESP_BYTES, TYPE_ESP),
    ]
    start = FIRST_START
    starts: list[int] = []
    for name, length, kind in partitions:
        rows.append((name, start, length or size - start - TABLE_BYTES, kind))
        starts.append(start)
        start += rows[-1][2]
    table = f"label: gpt\nlabel-id: {names.uuid('gpt')}\nfirst-lba: 34\n" + "".join(
        f"start={first // SECTOR}, size={length // SECTOR}, type={kind}, uuid={names.uuid(f'part-{name}')}, "
        f"name={name}\n"
        for name, first, length, kind in rows
    )
    run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(image), stdin=table)
    return starts


def make_ext4(image: Path, tree: Path, *, uuid: str, label: str, offset: int = 0, size: int) -> None:
    """Writes ext4 with the content of a directory into the image, `size` bytes from `offset` on."""
    run("mke2fs", "-q", "-F", "-t", "ext4", "-U", uuid, "-L", label, "-E", f"offset={offset},root_owner=0:0",
        "-d", str(tree), str(image), f"{size // 1024}k")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Grub:
    """What GRUB's core image must know to find its configuration."""

    #: UUID of the file system with GRUB's directory, and the directory's path there.
    fs_uuid: str
    directory: str = "/boot/grub"
    #: Modules for reaching that file system.
    modules: tuple[str, ...] = ("ext2",)

    _COMMON = (
        "part_gpt", "fat", "search", "search_fs_uuid", "normal", "configfile", "linux", "serial", "terminal",
        "echo", "test", "minicmd", "ls", "cat", "boot", "halt", "reboot", "all_video",
    )  # fmt: skip

    def image(self, work: Path, target: str, modules: Sequence[str]) -> bytes:
        early = work / "early.cfg"
        early.write_text(f"search.fs_uuid {self.fs_uuid} root\nset prefix=($root){self.directory}\n")
        out = work / f"grub-{target}"
        run("grub-mkimage", "-O", target, "-o", str(out), "-p", self.directory, "-c", str(early),
            *self._COMMON, *self.modules, *modules)  # fmt: skip
        return out.read_bytes()


def install_grub(image: Path, work: Path, grub: Grub, names: Names) -> None:
    """Makes the disk bootable by BIOS and by UEFI."""
    _install_bios(image, work, grub)
    _install_efi(image, work, grub, names)


def _install_bios(image: Path, work: Path, grub: Grub) -> None:
    """What grub-bios-setup does on a GPT disk: boot.img into the MBR, core.img into the BIOS boot partition.

    Offsets are from GRUB's grub-core/boot/i386/pc/{boot,diskboot}.S and include/grub/i386/pc/boot.h: 0x5c holds the
    LBA of core.img (u64), 0x66 a jump that is replaced by two NOPs for hard disks; the last 12 bytes of core.img's
    first sector say where the rest of it lies (LBA u64, sectors u16, load segment u16).
    """
    core = bytearray(grub.image(work, "i386-pc", ["biosdisk", "vga"]))
    if len(core) > BIOS_BOOT_BYTES:
        raise ImageError(f"GRUB's core image has {len(core)} bytes, the partition holds {BIOS_BOOT_BYTES}")
    boot = bytearray(Path("/usr/lib/grub/i386-pc/boot.img").read_bytes())
    first = BIOS_BOOT_START // SECTOR
    struct.pack_into("<Q", boot, 0x5C, first)
    boot[0x66:0x68] = b"\x90\x90"
    rest_sectors = -(-(len(core) - SECTOR) // SECTOR)
    struct.pack_into("<QHH", core, SECTOR - 12, first + 1, rest_sectors, 0x820)
    with image.open("r+b") as disk:
        mbr = disk.read(SECTOR)
        # The BIOS parameter block area and the partition table stay as the partitioner wrote them.
        disk.seek(0)
        disk.write(bytes(boot[:0x1B8]) + mbr[0x1B8:])
        disk.seek(BIOS_BOOT_START)
        disk.write(core)


def _install_efi(image: Path, work: Path, grub: Grub, names: Names) -> None:
    """An ESP with GRUB at the removable-media path, which firmware finds without any boot variable."""
    loader = work / "BOOTX64.EFI"
    loader.write_bytes(grub.image(work, "x86_64-efi", ["efi_gop", "efi_uga"]))
    esp = work / "esp.img"
    sparse(esp, ESP_BYTES)
    run("mformat", "-i", str(esp), "-F", "-c", "1", "-N", names.esp_serial, "-v", "ESP", "::")
    run("mmd", "-i", str(esp), "::/EFI", "::/EFI/BOOT")
    run("mcopy", "-i", str(esp), str(loader), "::/EFI/BOOT/BOOTX64.EFI")
    with esp.open("rb") as source, image.open("r+b") as disk:
        for offset in range(0, ESP_BYTES, MIB):
            block = source.read(MIB)
            if block.count(0) != len(block):
                disk.seek(ESP_START + offset)
                disk.write(block)
