# SPDX-License-Identifier: GPL-3.0-or-later
"""Distribution and version of a Linux guest (os-release(5), and the older release files where it is missing)."""

from __future__ import annotations

import re
from dataclasses import replace

from coldmig_agent.guest.assignments import parse_assignments
from coldmig_agent.guest.facts import Release
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.text import clean

__all__ = ["Release", "parse_assignments", "parse_os_release", "read_release"]

#: Release files of distributions that were made before os-release (or without it): path and ID. The most specific ones
#: come first, because a rebuild keeps the file of what it is made from.
_VENDOR_FILES = (
    ("/etc/openmandriva-release", "openmandriva"),
    ("/etc/mandriva-release", "mandriva"),
    ("/etc/mageia-release", "mageia"),
    ("/etc/opencloudos-release", "opencloudos"),
    ("/etc/tencentos-release", "tencentos"),
    ("/etc/oracle-release", "ol"),
    ("/etc/enterprise-release", "ol"),
    ("/etc/centos-release", "centos"),
    ("/etc/circle-release", "circle"),
    ("/etc/rocky-release", "rocky"),
    ("/etc/almalinux-release", "almalinux"),
    ("/etc/altlinux-release", "altlinux"),
    ("/etc/asianux-release", "asianux"),
    ("/etc/photon-release", "photon"),
    ("/etc/system-release", ""),
    ("/etc/fedora-release", "fedora"),
    ("/etc/redhat-release", ""),
    ("/etc/SuSE-release", ""),
    ("/etc/novell-release", "sles"),
    ("/etc/cirros/version", "cirros"),
    ("/etc/alpine-release", "alpine"),
    ("/etc/slackware-version", "slackware"),
    ("/etc/gentoo-release", "gentoo"),
    ("/etc/pardus-release", "pardus"),
    ("/etc/frugalware-release", "frugalware"),
    ("/etc/pld-release", "pld"),
    ("/etc/arch-release", "arch"),
)
#: What the first line of a shared file (redhat-release, SuSE-release, system-release) begins with, and the ID.
_FIRST_LINES = (
    ("red hat enterprise linux", "rhel"),
    ("red hat linux", "redhat"),
    ("fedora", "fedora"),
    ("centos", "centos"),
    ("rocky linux", "rocky"),
    ("almalinux", "almalinux"),
    ("oracle linux", "ol"),
    ("enterprise linux enterprise linux", "ol"),
    ("scientific linux", "scientific"),
    ("amazon linux", "amzn"),
    ("cloudlinux", "cloudlinux"),
    ("asianux", "asianux"),
    ("miracle linux", "miraclelinux"),
    ("suse linux enterprise desktop", "sled"),
    ("suse linux enterprise", "sles"),
    ("opensuse", "opensuse"),
    ("suse linux", "suse"),
    ("novell linux desktop", "sled"),
)
#: Rebuilds of Red Hat's system: without os-release, what they are like has to be said here.
_LIKE_RHEL = frozenset(
    {"centos", "rocky", "almalinux", "ol", "scientific", "cloudlinux", "circle", "asianux", "miraclelinux"}
)
#: Where the full release stands when os-release has only its beginning.
_POINT_FILES = (
    "/etc/debian_version",
    "/etc/oracle-release",
    "/etc/centos-release",
    "/etc/rocky-release",
    "/etc/almalinux-release",
    "/etc/redhat-release",
    "/etc/system-release",
    "/etc/alpine-release",
)
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")
_MAX_RELEASE_FILE = 1 << 14


def _identity(value: str) -> str:
    # os-release(5) allows no more than these; the capitals that some have are made small.
    return re.sub(r"[^a-z0-9._-]", "", clean(value, 64).lower())


def _point_in(text: str, version: str) -> str:
    """Ubuntu's VERSION says "22.04.4 LTS" where VERSION_ID is only "22.04"."""
    found = _NUMBERS.match(text)
    return clean(found[0], 64) if found and version and found[0].startswith(f"{version}.") else version


def parse_os_release(text: str) -> Release | None:
    """os-release or initrd-release; None where it names nothing."""
    values = parse_assignments(text)
    identity = _identity(values.get("ID", ""))
    name = clean(values.get("PRETTY_NAME") or values.get("NAME", ""))
    if not identity and not name:
        return None
    version = clean(values.get("VERSION_ID", ""), 64)
    like = (_identity(word) for word in values.get("ID_LIKE", "").split()[:16])
    return Release(
        id=identity or "linux",
        version=version,
        pretty_name=name or identity,
        release=_point_in(values.get("VERSION", ""), version),
        id_like=tuple(dict.fromkeys(word for word in like if word)),
        platform_id=clean(values.get("PLATFORM_ID", ""), 64),
        variant=clean(values.get("VARIANT_ID", ""), 64),
    )


def _from_lsb(text: str) -> Release | None:
    values = parse_assignments(text)
    identity = _identity(values.get("DISTRIB_ID", ""))
    if not identity:
        return None
    version = clean(values.get("DISTRIB_RELEASE", ""), 64)
    return Release(identity, version, clean(values.get("DISTRIB_DESCRIPTION", "")) or identity, version)


def _first_line(text: str) -> str:
    return clean(next((line for line in text.splitlines() if line.strip()), ""))


def _from_vendor_file(text: str, identity: str) -> Release:
    first = _first_line(text)
    if not identity:
        lower = first.lower()
        identity = next((found for start, found in _FIRST_LINES if lower.startswith(start)), "linux")
    found = _NUMBERS.search(first) or _NUMBERS.search(text)
    version = found[0] if found else ""
    patch = re.search(r"(?m)^PATCHLEVEL\s*=\s*(\d+)", text)
    if patch and version.isdigit() and patch[1] != "0":
        version = f"{version}.{patch[1]}"
    like = ("rhel", "fedora") if identity in _LIKE_RHEL else ()
    return Release(identity, version, first or identity, version, like)


def _is_about(release: Release, path: str) -> bool:
    """Whether a file with a full release is this system's own, and not that of what it is derived from."""
    name = path.rpartition("/")[2]
    if name == "debian_version":
        return release.id == "debian" or "debian" in release.id_like
    if name == "alpine-release":
        return release.id == "alpine"
    return True


def _full_release(root: GuestRoot, release: Release, base: str) -> str:
    """``12.7`` for Debian 12, ``7.9.2009`` for CentOS 7: only what does not contradict os-release."""
    if release.id == "debian" or "debian" in release.id_like:
        # That of a derived system has another numbering, but says which Debian it is.
        found = _NUMBERS.match((root.text(f"{base}/etc/debian_version", 256) or "").strip())
        derived = release.id != "debian"
        if found and "ubuntu" not in {release.id, *release.id_like}:
            exact = found[0]
            if derived or not release.version or exact.split(".")[0] == release.version.split(".")[0]:
                return exact
        return release.release
    for path in _POINT_FILES:
        text = root.text(base + path, 1024) if _is_about(release, path) else None
        match = _NUMBERS.search(_first_line(text)) if text else None
        if match and match[0].split(".")[0] == release.version.split(".")[0] and len(match[0]) > len(release.version):
            return clean(match[0], 64)
    return release.release


def read_release(root: GuestRoot, base: str = "") -> Release | None:
    """The guest's release; None where no release file is found. ``base`` stands before every path."""
    for path in ("/etc/os-release", "/usr/lib/os-release", "/lib/os-release"):
        release = parse_os_release(root.text(base + path, _MAX_RELEASE_FILE) or "")
        if release is not None:
            return replace(release, release=_full_release(root, release, base))
    release = _from_lsb(root.text(f"{base}/etc/lsb-release", _MAX_RELEASE_FILE) or "")
    if release is not None:
        return release
    for path, identity in _VENDOR_FILES:
        text = root.text(base + path, 1024)
        if text is not None and (text.strip() or identity):
            return _from_vendor_file(text, identity)
    debian = root.text(f"{base}/etc/debian_version", 256)
    if debian is not None:
        version = clean(debian, 64)
        return Release("debian", version, f"Debian {version}".strip(), version)
    return None
