# SPDX-License-Identifier: GPL-3.0-or-later
"""What the menus of all boot loaders have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence

from coldmig_agent.guest.facts import BootEntry
from coldmig_agent.text import clean

MAX_CONFIG = 2 << 20
#: Entries that are looked at before the ones that matter are chosen.
MAX_PARSED = 512
MAX_OPTIONS = 2048
_VERSION = re.compile(r"^(?:vmlinuz|vmlinux|bzImage|kernel|linux|initrd\.img|initramfs|initrd)-(.+?)(?:\.img|\.efi)?$")
#: In the names of kernels and images that are kept for other hardware.
_SPARE = ("rescue", "fallback")
_DRIVE = re.compile(r"^\([^)]*\)")


def kernel_version(path: str) -> str | None:
    """Kernel release from a file's name: ``/boot/vmlinuz-6.1.0-13-amd64`` → ``6.1.0-13-amd64``."""
    found = _VERSION.match(path.rpartition("/")[2])
    return clean(found[1], 128) if found and found[1][0].isdigit() else None


def loader_path(word: str) -> str:
    """A path as a boot loader writes it, without the drive before it: ``($root)/vmlinuz`` → ``/vmlinuz``."""
    path = _DRIVE.sub("", word.strip("\"'"))
    return clean(re.sub(r"/{2,}", "/", path), 512)


def entry(
    title: str,
    identity: str,
    kernel: str,
    initrds: Sequence[str],
    options: str,
    *,
    version: str = "",
    volume: str = "",
    chain: str = "",
) -> BootEntry:
    """An entry with everything cleaned and bounded."""
    kernel = loader_path(kernel)
    return BootEntry(
        title=clean(title, 160),
        identity=clean(identity, 160),
        kernel=kernel,
        initrds=tuple(loader_path(word) for word in initrds[:8] if "$" not in _DRIVE.sub("", word)),
        options=clean(options, MAX_OPTIONS),
        version=kernel_version(kernel) or clean(version, 128) or None,
        volume=clean(volume, 64),
        rescue=any(word in text.lower() for text in (kernel, identity, *initrds[:1]) for word in _SPARE),
        chain=clean(chain, 128),
    )
