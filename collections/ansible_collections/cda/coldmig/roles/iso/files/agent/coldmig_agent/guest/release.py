# SPDX-License-Identifier: GPL-3.0-or-later
"""Distribution and version of a Linux guest (os-release(5), and the older release files where it is missing)."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.text import clean

#: Release files of distributions that were made before os-release: path and ID. The most specific ones come first.
_VENDOR_FILES = (
    ("/etc/oracle-release", "ol"),
    ("/etc/centos-release", "centos"),
    ("/etc/rocky-release", "rocky"),
    ("/etc/almalinux-release", "almalinux"),
    ("/etc/fedora-release", "fedora"),
    ("/etc/redhat-release", "rhel"),
    ("/etc/SuSE-release", "sles"),
    ("/etc/alpine-release", "alpine"),
    ("/etc/slackware-version", "slackware"),
    ("/etc/gentoo-release", "gentoo"),
    ("/etc/arch-release", "arch"),
)
#: Full point releases, where os-release only has the major version.
_POINT_FILES = {"debian": "/etc/debian_version", "centos": "/etc/centos-release"}


@dataclass(frozen=True, slots=True)
class Release:
    """``id`` in lower case; ``version`` as exact as it is known (``12.7`` rather than ``12``)."""

    id: str
    version: str
    pretty_name: str


def parse_assignments(text: str) -> dict[str, str]:
    """``KEY=value`` lines with shell quoting; lines that are neither are left out, the last assignment wins."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        stripped = line.strip()
        key, equals, raw = stripped.partition("=")
        if not equals or stripped.startswith("#") or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            continue
        try:
            words = shlex.split(raw, comments=False, posix=True)
        except ValueError:
            words = [raw.strip("\"'")]
        values[key] = " ".join(words)
    return values


def _from_os_release(text: str) -> Release | None:
    values = parse_assignments(text)
    identity = clean(values.get("ID", ""), 64).lower()
    name = clean(values.get("PRETTY_NAME") or values.get("NAME", ""))
    if not identity and not name:
        return None
    version = clean(values.get("VERSION_ID", ""), 64)
    return Release(identity or "linux", version, name or identity)


def _from_lsb(text: str) -> Release | None:
    values = parse_assignments(text)
    identity = clean(values.get("DISTRIB_ID", ""), 64).lower()
    if not identity:
        return None
    version = clean(values.get("DISTRIB_RELEASE", ""), 64)
    return Release(identity, version, clean(values.get("DISTRIB_DESCRIPTION", "")) or identity)


def _point_version(root: GuestRoot, release: Release) -> str:
    path = _POINT_FILES.get(release.id)
    found = re.search(r"\d+(?:\.\d+)+", root.text(path, 256) or "") if path else None
    exact = found[0] if found else ""
    return exact if exact.split(".")[0] == release.version.split(".")[0] else release.version


def read_release(root: GuestRoot) -> Release | None:
    """The guest's release; None where no release file is found."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        release = _from_os_release(root.text(path) or "")
        if release is not None:
            return Release(release.id, _point_version(root, release), release.pretty_name)
    release = _from_lsb(root.text("/etc/lsb-release") or "")
    if release is not None:
        return release
    for path, identity in _VENDOR_FILES:
        text = root.text(path, 1024)
        if text is not None:
            first = clean(text.splitlines()[0] if text.strip() else "")
            version = re.search(r"\d+(?:\.\d+)*", text)
            other = identity == "rhel" and "red hat" not in first.lower()
            return Release("linux" if other else identity, version[0] if version else "", first or identity)
    debian = root.text("/etc/debian_version", 256)
    if debian is not None:
        version_text = clean(debian, 64)
        return Release("debian", version_text, f"Debian {version_text}".strip())
    return None
