# SPDX-License-Identifier: GPL-3.0-or-later
"""FreeBSD, NetBSD and OpenBSD in a file system that could be mounted (Linux reads their UFS, read-only)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from coldmig_agent.guest.assignments import parse_assignments
from coldmig_agent.guest.boot.binary import elf_arch
from coldmig_agent.guest.hostname import usable
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.machine import Guest
from coldmig_agent.text import clean

_NAMES = {"freebsd": "FreeBSD", "netbsd": "NetBSD", "openbsd": "OpenBSD"}
_FREEBSD_VERSION = re.compile(r"^USERLAND_VERSION=[\"']?([0-9][\w.-]*)", re.MULTILINE)
_NETBSD_RELEASE = re.compile(r"^NetBSD ([0-9][\w.]*)(?:/(\w+))?")
_OPENBSD_BANNER = re.compile(r"OpenBSD ([0-9]+\.[0-9]+)(?:-\w+)? \(")
_OPENBSD_KERNEL = re.compile(rb"OpenBSD ([0-9]+\.[0-9]+)(?:-\w+)? \(")
_KERNEL_BYTES = 32 << 20
_NETBSD_MACHINES = {"amd64": "x86_64", "i386": "i386", "evbarm64": "aarch64"}
#: Products made of FreeBSD: the file that names their version, and their name where it does not stand in it.
_PRODUCTS = (
    ("/etc/platform", "/etc/version"),  # pfSense
    ("", "/usr/local/opnsense/version/core"),
    ("", "/etc/version"),  # FreeNAS, TrueNAS CORE: "TrueNAS-13.0-U6.1 (…)"
)


@dataclass(frozen=True, slots=True)
class BsdFacts:
    """``os_type``: ``freebsd``, ``netbsd`` or ``openbsd``. ``version`` as ``13.2``, ``release`` as ``13.2-RELEASE-p4``.

    ``product``: what is made of it, empty for the system itself: ``pfSense 2.7.0-RELEASE``.
    """

    os_type: str
    version: str = ""
    release: str = ""
    hostname: str | None = None
    arch: str | None = None
    product: str = ""


def read_bsd(root: GuestRoot) -> BsdFacts | None:
    """Facts of a mounted root; None where it is none of these systems."""
    if root.is_file("/bin/freebsd-version") or (root.is_file("/boot/kernel/kernel") and root.is_dir("/rescue")):
        return _freebsd(root)
    if root.is_file("/netbsd") or _NETBSD_RELEASE.match(root.text("/etc/release", 256) or ""):
        return _netbsd(root)
    return _openbsd(root) if root.is_file("/bsd") else None


def _freebsd(root: GuestRoot) -> BsdFacts:
    # Not the message of the day: it names the kernel of the last start.
    found = _FREEBSD_VERSION.search(root.text("/bin/freebsd-version") or "")
    release = clean(found.group(1), 64) if found else ""
    values = parse_assignments((root.text("/etc/rc.conf") or "") + "\n" + (root.text("/etc/rc.conf.local") or ""))
    return BsdFacts(
        "freebsd",
        version=release.split("-", 1)[0],
        release=release,
        hostname=usable(values.get("hostname", "")),
        arch=elf_arch(root, "/bin/sh"),
        product=_product(root),
    )


def _product(root: GuestRoot) -> str:
    for name_file, version_file in _PRODUCTS:
        name = clean((root.text(name_file, 128) or "").split("\n", 1)[0], 32) if name_file else ""
        version = clean((root.text(version_file, 256) or "").split("\n", 1)[0], 64)
        if name_file and not name:
            continue
        if version:
            name = name or ("OPNsense" if "opnsense" in version_file else "")
            return f"{name} {version}".strip()
    return ""


def _netbsd(root: GuestRoot) -> BsdFacts:
    found = _NETBSD_RELEASE.match(root.text("/etc/release", 256) or "")
    version, machine = (clean(found.group(1), 64), found.group(2)) if found else ("", None)
    values = parse_assignments(root.text("/etc/rc.conf") or "")
    name = usable(values.get("hostname", "")) or _own_name(root)
    arch = _NETBSD_MACHINES.get(machine or "") or elf_arch(root, "/bin/sh")
    return BsdFacts("netbsd", version, version, name, arch)


def _openbsd(root: GuestRoot) -> BsdFacts:
    found = _OPENBSD_BANNER.search(root.text("/etc/motd", 4096) or "")
    version = found.group(1) if found else ""
    if not version:
        inside = _OPENBSD_KERNEL.search(root.read("/bsd", _KERNEL_BYTES) or b"")
        version = inside.group(1).decode() if inside else ""
    return BsdFacts("openbsd", version, version, _own_name(root), elf_arch(root, "/bin/sh"))


def _own_name(root: GuestRoot) -> str | None:
    return usable((root.text("/etc/myname", 512) or "").split("\n", 1)[0])


def to_guest(facts: BsdFacts, *, place: str, key: str) -> Guest:
    """The guest at ``place``. Which of VMware's devices it has drivers for is not known: no verdicts."""
    name = f"{_NAMES[facts.os_type]} {facts.release or '(version not seen)'}"
    return Guest(
        os_type=facts.os_type,
        id=facts.os_type,
        version=facts.version,
        pretty_name=f"{facts.product} ({name})" if facts.product else name,
        hostname=facts.hostname,
        key=key,
        place=place,
        arch=facts.arch,
        release=facts.release,
    )
