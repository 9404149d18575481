# SPDX-License-Identifier: GPL-3.0-or-later
"""Unified kernel images: kernel, initramfs, options and release in the sections of one PE file."""

from __future__ import annotations

import os
from dataclasses import dataclass

from coldmig_agent.guest import image
from coldmig_agent.guest.boot.binary import Kernel, Section, kernel_header, pe_sections
from coldmig_agent.guest.boot.menu import entry
from coldmig_agent.guest.facts import BootEntry, ImageFacts
from coldmig_agent.guest.release import parse_os_release
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.text import clean

_MAX_TEXT = 1 << 14
_KERNEL_HEAD = 0x8400


@dataclass(frozen=True, slots=True)
class Uki:
    """A unified kernel image: what it says, and where its initramfs lies in the file (None where it has none)."""

    entry: BootEntry
    kernel: Kernel
    initrd: Section | None


def initrd_path(path: str) -> str:
    """Name of the initramfs inside, for evidence and to find it again."""
    return f"{path}#.initrd"


def read_uki(root: GuestRoot, path: str) -> Uki | None:
    """None where the file is no unified kernel image."""
    try:
        with root.open(path) as fd:
            sections: dict[str, Section] = {}
            for section in pe_sections(fd):
                sections.setdefault(section.name, section)
            if ".linux" not in sections:
                return None

            def text(name: str) -> str:
                found = sections.get(name)
                return "" if found is None else os.pread(fd, min(found.size, _MAX_TEXT), found.start).decode(
                    "utf-8", "replace"
                ).strip("\0\n ")  # fmt: skip

            linux = sections[".linux"]
            kernel = kernel_header(os.pread(fd, min(linux.size, _KERNEL_HEAD), linux.start)) or Kernel(None, None)
            release = parse_os_release(text(".osrel"))
            version = clean(text(".uname"), 128) or kernel.version or ""
            name = path.rpartition("/")[2]
            initrd = sections.get(".initrd")
            made = entry(
                release.pretty_name if release else name,
                name,
                path,
                [initrd_path(path)] if initrd else [],
                text(".cmdline"),
                version=version,
            )
    except (OSError, ValueError):
        return None
    return Uki(made, Kernel(version or None, kernel.arch), initrd)


def read_initrd(root: GuestRoot, path: str, deadline: float) -> ImageFacts:
    """Facts of the initramfs inside a unified kernel image; ``path`` as :func:`initrd_path` made it."""
    file = path.removesuffix("#.initrd")
    found = read_uki(root, file)
    if found is None or found.initrd is None:
        return ImageFacts(clean(path, 255), False, "there is no initramfs in it")
    try:
        with root.open(file) as fd:
            return image.read_part(image.Part(fd, found.initrd.start, found.initrd.size), path, deadline)
    except (OSError, ValueError) as error:
        return ImageFacts(clean(path, 255), False, clean(str(error), 160))
