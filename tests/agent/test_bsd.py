# SPDX-License-Identifier: GPL-3.0-or-later
"""The BSDs by their files, and systems that are only known by the types of their partitions."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from agent_lab import write_tree

from coldmig_agent import records
from coldmig_agent.guest.bsd import BsdFacts, read_bsd, to_guest
from coldmig_agent.guest.others import Part, other_systems
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.guest.volume import read_volume

ELF64 = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 62) + bytes(44)
ELF32 = b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HH", 2, 3) + bytes(32)
VERSION = "#!/bin/sh\nset -e\nUSERLAND_VERSION={}\n: ${{ROOT:=}}\n"
FREEBSD: dict[str, str | bytes] = {
    "/bin/freebsd-version": VERSION.format('"13.2-RELEASE-p4"'),
    "/bin/sh": ELF64,
    "/boot/kernel/kernel": ELF64,
    "/etc/rc.conf": 'hostname="fw1.example.org"\nifconfig_vtnet0="DHCP"\n',
    "/etc/passwd": "root:*:0:0::/root:/bin/csh\n",
    "/etc/motd": "FreeBSD 12.0-RELEASE (GENERIC)\n",
    "/rescue/sh": ELF64,
}
NETBSD: dict[str, str | bytes] = {
    "/netbsd": ELF64,
    "/etc/release": "NetBSD 9.3/amd64\nBuild settings:\n",
    "/etc/rc.conf": "hostname=net1\nrc_configured=YES\n",
}
OPENBSD: dict[str, str | bytes] = {
    "/bsd": ELF64 + bytes(5000) + b"OpenBSD 7.4 (GENERIC.MP) #1397: Tue Oct 10\n",
    "/bin/sh": ELF32,
    "/etc/myname": "open1.example.org\n",
}


def facts(root: Path, files: dict[str, str | bytes]) -> BsdFacts | None:
    with GuestRoot.at(write_tree(root, files)) as tree:
        found = read_bsd(tree)
    assert found is None or records.from_json(BsdFacts, records.to_json(found)) == found
    return found


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (FREEBSD, BsdFacts("freebsd", "13.2", "13.2-RELEASE-p4", "fw1.example.org", "x86_64")),
        (NETBSD, BsdFacts("netbsd", "9.3", "9.3", "net1", "x86_64")),
        (OPENBSD, BsdFacts("openbsd", "7.4", "7.4", "open1.example.org", "i386")),
        (
            {**OPENBSD, "/etc/motd": "OpenBSD 7.3 (GENERIC) #1: x\n"},
            BsdFacts("openbsd", "7.3", "7.3", "open1.example.org", "i386"),
        ),
    ],
    ids=["FreeBSD", "NetBSD", "OpenBSD", "OpenBSD by its banner"],
)
def test_the_bsds_are_known_by_their_files(tmp_path: Path, files: dict[str, str | bytes], expected: BsdFacts) -> None:
    assert facts(tmp_path, files) == expected


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"/etc/platform": "pfSense\n", "/etc/version": "2.7.0-RELEASE\n"}, "pfSense 2.7.0-RELEASE (FreeBSD 14.0)"),
        ({"/usr/local/opnsense/version/core": "23.7.12\n"}, "OPNsense 23.7.12 (FreeBSD 14.0)"),
        ({"/etc/version": "TrueNAS-13.0-U6.1 (82b0d1e)\n"}, "TrueNAS-13.0-U6.1 (82b0d1e) (FreeBSD 14.0)"),
        ({}, "FreeBSD 14.0"),
    ],
)
def test_products_made_of_freebsd_are_named(tmp_path: Path, more: dict[str, str | bytes], expected: str) -> None:
    found = facts(tmp_path, {**FREEBSD, "/bin/freebsd-version": VERSION.format("14.0"), **more})
    assert found is not None
    guest = to_guest(found, place="disk 0, partition 3", key="disk0/3")
    assert (guest.pretty_name, guest.os_type, guest.version, guest.key) == (expected, "freebsd", "14.0", "disk0/3")


def test_a_version_that_is_not_there_is_not_made_up(tmp_path: Path) -> None:
    found = facts(tmp_path, {"/boot/kernel/kernel": ELF64, "/rescue/": "", "/etc/motd": "FreeBSD 9.9\n"})
    assert found == BsdFacts("freebsd")
    assert to_guest(found, place="p", key="k").pretty_name == "FreeBSD (version not seen)"


def test_a_linux_is_none_of_them_and_a_freebsd_no_linux(tmp_path: Path) -> None:
    linux: dict[str, str | bytes] = {"/etc/os-release": "ID=debian\n", "/etc/passwd": "x\n", "/bin/sh": ELF64}
    assert facts(tmp_path / "linux", linux) is None
    with GuestRoot.at(write_tree(tmp_path / "bsd", FREEBSD)) as root:
        volume = read_volume(root, "ufs")
    assert (volume.roles, volume.systems) == (("bsd",), ())
    assert volume.bsd is not None
    assert volume.bsd.version == "13.2"


# --- what cannot be mounted

FREEBSD_UFS = "516e7cb6-6ecf-11d6-8ff8-00022d09712b"
FREEBSD_SWAP = "516e7cb5-6ecf-11d6-8ff8-00022d09712b"
FREEBSD_ZFS = "516e7cba-6ecf-11d6-8ff8-00022d09712b"


def part(number: int, kind: str, fstype: str = "", label: str = "") -> Part:
    return Part(f"disk 0, partition {number}", f"disk0/{number}", kind, fstype, label)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([part(1, "0xa5")], [("freebsd", "disk0/1", "FreeBSD (version not seen; partition type 0xa5)")]),
        (
            [part(1, FREEBSD_SWAP), part(2, FREEBSD_ZFS.upper(), "zfs_member", "zroot")],
            [
                (
                    "freebsd",
                    "disk0/2",
                    f'FreeBSD (version not seen; partition type {FREEBSD_SWAP}; zfs_member "zroot")',
                )
            ],
        ),
        (
            [part(1, FREEBSD_SWAP), part(2, FREEBSD_UFS), part(3, FREEBSD_UFS)],
            [
                (
                    "freebsd",
                    "disk0/2",
                    f"FreeBSD (version not seen; partition type {FREEBSD_SWAP}; partition type {FREEBSD_UFS})",
                )
            ],
        ),
        ([part(1, "0xa9", "ufs")], [("netbsd", "disk0/1", "NetBSD (version not seen; ufs)")]),
        ([part(4, "0xa6")], [("openbsd", "disk0/4", "OpenBSD (version not seen; partition type 0xa6)")]),
        (
            [part(1, "0x83", "zfs_member", "tank")],
            [("unknown", "disk0/1", 'unknown, looks like ZFS (zfs_member "tank")')],
        ),
        ([part(1, "0xbf")], [("unknown", "disk0/1", "unknown, looks like Solaris (partition type 0xbf)")]),
        ([part(1, "0xfb")], [("unknown", "disk0/1", "unknown, looks like VMware ESXi (partition type 0xfb)")]),
        (
            [part(2, "7c3457ef-0000-11aa-aa11-00306543ecac", "apfs")],
            [("unknown", "disk0/2", "unknown, looks like macOS (apfs)")],
        ),
        ([part(1, "0x83", "ext4"), part(2, "0x82", "swap"), part(3, "0x7", "ntfs")], []),
        (
            [part(1, "0xfb"), part(2, FREEBSD_UFS, "ufs")],
            [
                ("freebsd", "disk0/2", "FreeBSD (version not seen; ufs)"),
                ("unknown", "disk0/1", "unknown, looks like VMware ESXi (partition type 0xfb)"),
            ],
        ),
    ],
)
def test_what_cannot_be_looked_into_is_named_by_what_was_seen(
    parts: list[Part], expected: list[tuple[str, str, str]]
) -> None:
    assert [(guest.os_type, guest.key, guest.pretty_name) for guest in other_systems(parts)] == expected
