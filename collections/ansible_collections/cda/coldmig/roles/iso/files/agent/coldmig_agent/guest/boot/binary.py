# SPDX-License-Identifier: GPL-3.0-or-later
"""Headers of the files that a machine starts: Linux kernels, PE images (UKIs, boot loaders), ELF programs.

Every offset and count in them is the guest's: it is checked against the file before anything is read there.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.text import clean

_MAX_SECTIONS = 64
_KERNEL_HEAD = 0x8400
#: PE and ELF numbers of the machines that a vSphere guest may have been.
_PE = {0x8664: "x86_64", 0x14C: "i386", 0xAA64: "aarch64"}
_ELF = {62: "x86_64", 3: "i386", 183: "aarch64", 6: "i386"}
MAX_LOADER = 16 << 20


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a PE file: where its content lies in the file."""

    name: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Kernel:
    """``version`` and ``arch`` where the header says so."""

    version: str | None
    arch: str | None


def kernel_header(head: bytes) -> Kernel | None:
    """Of an x86 bzImage (Documentation/arch/x86/boot.rst), from its first 33 KiB; None for anything else."""
    if len(head) < 0x240 or head[0x202:0x206] != b"HdrS":
        return None
    (protocol,) = struct.unpack_from("<H", head, 0x206)
    (at,) = struct.unpack_from("<H", head, 0x20E)
    version = ""
    if at and 0x200 + at < len(head):
        # "6.1.0-20-amd64 (builder@host) #1 SMP …"
        words = head[0x200 + at : 0x200 + at + 256].split(b"\0", 1)[0].decode("utf-8", "replace").split()
        version = clean(words[0], 128) if words else ""
    arch = None
    if protocol >= 0x20C:
        (flags,) = struct.unpack_from("<H", head, 0x236)
        arch = "x86_64" if flags & 1 else "i386"
    return Kernel(version or None, arch)


def read_kernel(root: GuestRoot, path: str) -> Kernel | None:
    """Header of a kernel's file; None where it is not there. Empty where the format is another one."""
    head = root.read(path, _KERNEL_HEAD)
    if head is None:
        return None
    found = kernel_header(head)
    if found is None and head[:2] == b"MZ" and len(head) > 0x40 and head[0x38:0x3C] == b"ARM\x64":
        return Kernel(None, "aarch64")
    return found or Kernel(None, None)


def elf_arch(root: GuestRoot, path: str) -> str | None:
    """What an ELF program is made for."""
    head = root.read(path, 20)
    if head is None or len(head) < 20 or head[:4] != b"\x7fELF":
        return None
    if head[5] not in {1, 2}:
        return None
    (machine,) = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)
    return _ELF.get(machine)


def pe_sections(fd: int) -> tuple[Section, ...]:
    """Sections of a PE file, those that lie within it; empty for anything else."""
    size = os.fstat(fd).st_size
    head = os.pread(fd, 64, 0)
    if len(head) < 64 or head[:2] != b"MZ":
        return ()
    (at,) = struct.unpack_from("<I", head, 0x3C)
    coff = os.pread(fd, 24, at) if at < size else b""
    if len(coff) < 24 or coff[:4] != b"PE\0\0":
        return ()
    (count,) = struct.unpack_from("<H", coff, 6)
    (optional,) = struct.unpack_from("<H", coff, 20)
    found = []
    for number in range(min(count, _MAX_SECTIONS)):
        row = os.pread(fd, 40, at + 24 + optional + 40 * number)
        if len(row) < 40:
            break
        virtual, _unused, raw, start = struct.unpack_from("<4I", row, 8)
        length = min(virtual or raw, raw)
        if start + length <= size:
            found.append(Section(clean(row[:8].rstrip(b"\0").decode("ascii", "replace"), 8), start, length))
    return tuple(found)


def pe_machine(head: bytes) -> str | None:
    """What a PE file is made for, from its first bytes."""
    if len(head) < 64 or head[:2] != b"MZ":
        return None
    (at,) = struct.unpack_from("<I", head, 0x3C)
    if at + 6 > len(head) or head[at : at + 4] != b"PE\0\0":
        return None
    return _PE.get(struct.unpack_from("<H", head, at + 4)[0])


#: Words in a boot loader's file that tell which one it is; the first that is found counts.
_LOADERS = (
    (b"#### LoaderInfo: systemd-boot", "systemd-boot"),
    ("rEFInd".encode("utf-16-le"), "refind"),
    (b"Limine", "limine"),
    (b"UEFI SHIM", "shim"),
    (b"bootmgfw.pdb", "windows"),
    (b"shim_lock", "grub"),
    (b"GRUB ", "grub"),
    ("grubx64.efi".encode("utf-16-le"), "shim"),
    ("bootmgfw".encode("utf-16-le"), "windows"),
)


def loader_kind(root: GuestRoot, path: str) -> str:
    """Which boot loader a PE file is: ``grub``, ``shim``, ``systemd-boot``, ``refind``, ``windows``, ``uki``, …"""
    try:
        with root.open(path) as fd:
            if {".linux", ".initrd"} <= {section.name for section in pe_sections(fd)}:
                return "uki"
    except (OSError, ValueError):
        return ""
    data = root.read(path, MAX_LOADER) or b""
    return next((kind for word, kind in _LOADERS if word in data), "other")
