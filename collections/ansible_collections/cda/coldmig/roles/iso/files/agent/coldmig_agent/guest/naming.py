# SPDX-License-Identifier: GPL-3.0-or-later
"""What a system is called whose root cannot be read: by its boot entry, its kernel and its initramfs."""

from __future__ import annotations

import re
from dataclasses import replace

from coldmig_agent.guest.facts import BootEntry, ImageFacts, Release

#: What titles of boot entries begin with, and the ID.
_TITLES = (
    ("debian", "debian"),
    ("ubuntu", "ubuntu"),
    ("red hat enterprise linux", "rhel"),
    ("centos", "centos"),
    ("rocky linux", "rocky"),
    ("almalinux", "almalinux"),
    ("oracle linux", "ol"),
    ("scientific linux", "scientific"),
    ("fedora", "fedora"),
    ("opensuse tumbleweed", "opensuse-tumbleweed"),
    ("opensuse", "opensuse-leap"),
    ("sles", "sles"),
    ("suse linux enterprise", "sles"),
    ("linux mint", "linuxmint"),
    ("kali", "kali"),
    ("amazon linux", "amzn"),
    ("arch linux", "arch"),
    ("alpine", "alpine"),
    ("nixos", "nixos"),
    ("gentoo", "gentoo"),
    ("proxmox", "debian"),
)
#: Kernels that Debian's releases came with; a backported one says so in its name.
_DEBIAN_KERNELS = {"3.16": "8", "4.9": "9", "4.19": "10", "5.10": "11", "6.1": "12", "6.12": "13"}
_LIKE_RHEL = frozenset({"centos", "rocky", "almalinux", "ol", "scientific"})
_PLATFORM = re.compile(r"\.(el\d{1,2})(?:[._]|$)")
_TITLE_VERSION = re.compile(r"\)\s+(\d+(?:\.\d+)*)\s|\s(\d+(?:[.-]SP)?\d*(?:\.\d+)*)\s*(?:\(|$)")


def by_boot(entry: BootEntry, image: ImageFacts | None) -> Release:
    """The release as far as the boot files show it."""
    kernel = entry.version or ""
    platform = _PLATFORM.search(kernel)
    if image is not None and image.release is not None and image.release.id not in {"", "linux"}:
        return image.release
    title = entry.title.strip()
    identity = next((found for start, found in _TITLES if title.lower().startswith(start)), "linux")
    version = ""
    if identity == "debian" and "bpo" not in kernel:
        version = _DEBIAN_KERNELS.get(".".join(kernel.split(".")[:2]), "")
    elif found := _TITLE_VERSION.search(title):
        version = found[1] or found[2] or ""
    release = Release(identity, version, title or "Linux", version)
    if platform:
        like = ("rhel", "fedora") if identity in _LIKE_RHEL | {"linux"} else ()
        number = platform[1].removeprefix("el")
        release = replace(release, platform_id=f"platform:{platform[1]}", id_like=like, version=version or number)
    return release
