# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's own files: release, name, boot entries, drivers; and what a hostile guest may try."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from agent_lab import write_tree

from coldmig_agent import records
from coldmig_agent.guest import system
from coldmig_agent.guest.facts import VolumeFacts
from coldmig_agent.guest.hostname import read_hostname, usable
from coldmig_agent.guest.release import read_release
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.guest.volume import read_volume

DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n'


def guest(root: Path, files: dict[str, str | bytes]) -> GuestRoot:
    return GuestRoot.at(write_tree(root, files))


def test_os_release_is_read_through_an_absolute_link_inside_the_guest(tmp_path: Path) -> None:
    root = guest(
        tmp_path,
        {"/etc/os-release": "->/usr/lib/os-release", "/usr/lib/os-release": DEBIAN, "/etc/debian_version": "12.7\n"},
    )
    release = read_release(root)
    assert release is not None
    assert (release.id, release.version, release.release) == ("debian", "12", "12.7")
    assert release.pretty_name == "Debian GNU/Linux 12 (bookworm)"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/etc/os-release": DEBIAN, "/etc/debian_version": "trixie/sid\n"}, "12"),
        ({"/etc/os-release": DEBIAN, "/etc/debian_version": "13.1\n"}, "12"),
        ({"/etc/os-release": 'ID=debian\nPRETTY_NAME="Debian GNU/Linux trixie/sid"\n'}, ""),
        ({"/etc/os-release": "ID=kali\nID_LIKE=debian\nVERSION_ID=2025.4\n", "/etc/debian_version": "13.0\n"}, "13.0"),
        (
            {
                "/etc/os-release": 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="22.04"\nVERSION="22.04.4 LTS (Jammy)"\n',
                "/etc/debian_version": "bookworm/sid\n",
            },
            "22.04.4",
        ),
        (
            {
                "/etc/os-release": "ID=linuxmint\nID_LIKE='ubuntu debian'\nVERSION_ID=21.3\n",
                "/etc/debian_version": "12.0\n",
            },
            "21.3",
        ),
        (
            {
                "/etc/os-release": 'ID="centos"\nVERSION_ID="7"\n',
                "/etc/centos-release": "CentOS Linux release 7.9.2009 (Core)\n",
            },
            "7.9.2009",
        ),
        (
            {"/etc/os-release": "ID=rhel\nVERSION_ID=9.4\n", "/etc/redhat-release": "Red Hat release 9.4 (Plow)\n"},
            "9.4",
        ),
    ],
)
def test_the_full_release_is_told_where_it_does_not_contradict(
    tmp_path: Path, files: dict[str, str | bytes], expected: str
) -> None:
    release = read_release(guest(tmp_path, files))
    assert release is not None
    assert release.release == expected


def test_what_a_distribution_says_about_itself_is_kept(tmp_path: Path) -> None:
    text = 'ID="Rocky"\nID_LIKE="rhel centos fedora"\nPLATFORM_ID="platform:el9"\nVARIANT_ID=server\nVERSION_ID=9.3\n'
    release = read_release(guest(tmp_path, {"/usr/lib/os-release": text}))
    assert release is not None
    assert (release.id, release.id_like) == ("rocky", ("rhel", "centos", "fedora"))
    assert (release.platform_id, release.variant) == ("platform:el9", "server")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/etc/os-release": 'ID="openEuler"\nVERSION_ID="22.03"\n'}, ("openeuler", "22.03")),
        ({"/usr/lib/os-release": "ID=fedora\nVERSION_ID=40\n"}, ("fedora", "40")),
        ({"/etc/os-release": "ID='Weird Name!'\n"}, ("weirdname", "")),
        (
            {"/etc/os-release": "", "/etc/lsb-release": "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=12.04\n"},
            ("ubuntu", "12.04"),
        ),
        ({"/etc/redhat-release": "Red Hat Enterprise Linux Server release 6.10 (Santiago)\n"}, ("rhel", "6.10")),
        ({"/etc/redhat-release": "Scientific Linux release 6.10 (Carbon)\n"}, ("scientific", "6.10")),
        ({"/etc/redhat-release": "Fedora release 20 (Heisenbug)\n"}, ("fedora", "20")),
        (
            {"/etc/redhat-release": "CentOS release 6.9\n", "/etc/centos-release": "CentOS release 6.9\n"},
            ("centos", "6.9"),
        ),
        (
            {"/etc/oracle-release": "Oracle Linux Server release 6.8\n", "/etc/redhat-release": "Red Hat Enterprise"},
            ("ol", "6.8"),
        ),
        ({"/etc/system-release": "Amazon Linux AMI release 2018.03\n"}, ("amzn", "2018.03")),
        ({"/etc/redhat-release": "Some Rebuild release 7.1\n"}, ("linux", "7.1")),
        (
            {"/etc/SuSE-release": "SUSE Linux Enterprise Server 11 (x86_64)\nVERSION = 11\nPATCHLEVEL = 4\n"},
            ("sles", "11.4"),
        ),
        ({"/etc/SuSE-release": "openSUSE 12.1 (x86_64)\nVERSION = 12.1\n"}, ("opensuse", "12.1")),
        ({"/etc/debian_version": "6.0.10\n"}, ("debian", "6.0.10")),
        ({"/etc/alpine-release": "3.4.6\n"}, ("alpine", "3.4.6")),
        ({"/etc/arch-release": ""}, ("arch", "")),
    ],
)
def test_older_release_files_are_understood(
    tmp_path: Path, files: dict[str, str | bytes], expected: tuple[str, str]
) -> None:
    release = read_release(guest(tmp_path, files))
    assert release is not None
    assert (release.id, release.version) == expected


def test_no_release_file_is_no_release(tmp_path: Path) -> None:
    assert read_release(guest(tmp_path, {"/etc/": ""})) is None


def test_the_release_files_of_real_distributions_are_read(guest_data: Path, tmp_path: Path) -> None:
    with (guest_data / "os-release/index.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(rows) > 50
    for number, row in enumerate(rows):
        path = guest_data / "os-release" / row["path"]
        with guest(
            tmp_path / str(number), {"/etc/os-release": path.read_bytes(), "/etc/hosts": "", "/bin/": ""}
        ) as root:
            release = read_release(root)
            assert release is not None, row["path"]
            assert release.id == row["ID"].lower(), row["path"]
            assert release.version == row["VERSION_ID"], row["path"]
            assert list(release.id_like) == row["ID_LIKE"].lower().split(), row["path"]
            assert release.variant == row["VARIANT_ID"], row["path"]
            facts = read_volume(root, "ext4")
        assert records.from_json(VolumeFacts, records.to_json(facts)) == facts
        assert facts.systems[0].release == release


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/etc/hostname": "# comment\n\nerp-db-01\n"}, "erp-db-01"),
        (
            {"/etc/hostname": "localhost\n", "/etc/sysconfig/network": "NETWORKING=yes\nHOSTNAME=old.example.com\n"},
            "old.example.com",
        ),
        ({"/etc/HOSTNAME": "suse01.example.com\n"}, "suse01.example.com"),
        ({"/etc/conf.d/hostname": 'hostname="gentoo1"\n'}, "gentoo1"),
        ({"/etc/hostname": "(none)\n"}, None),
        ({"/etc/hostname": "localhost.localdomain\n"}, None),
        ({"/etc/hostname": "a b\x1b[31m\n"}, None),
        ({"/etc/hostname": "x" * 300}, None),
        ({"/etc/hostname": b"\xff\xfe\x00"}, None),
        ({"/etc/": ""}, None),
    ],
)
def test_the_name_comes_from_the_first_file_that_has_one(
    tmp_path: Path, files: dict[str, str | bytes], expected: str | None
) -> None:
    assert read_hostname(guest(tmp_path, dict(files))) == expected


def test_a_trailing_dot_does_not_belong_to_a_name() -> None:
    assert usable("host.example.com.") == "host.example.com"


def test_links_cannot_lead_out_of_the_guest(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("outside")
    root = guest(
        tmp_path / "guest",
        {
            "/etc/absolute": f"->{secret}",
            "/etc/upwards": "->../../../../../../secret",
            "/etc/loop": "->loop",
            "/etc/dir": f"->{tmp_path}",
        },
    )
    assert root.read("/etc/absolute") is None
    assert root.read("/etc/upwards") is None
    assert root.read("/etc/loop") is None
    assert root.names("/etc/dir") == []
    assert root.read("/../secret") is None


def test_a_fifo_or_device_in_the_place_of_a_file_is_not_read(tmp_path: Path) -> None:
    root = guest(tmp_path, {"/etc/": ""})
    os.mkfifo(tmp_path / "etc/hostname")
    assert root.read("/etc/hostname") is None
    assert read_hostname(root) is None


def test_no_more_of_a_file_is_read_than_asked_for(tmp_path: Path) -> None:
    root = guest(tmp_path, {"/big": b"x" * 100_000})
    assert len(root.read("/big", 1000) or b"") == 1000


def test_a_link_is_told_as_it_is_written_and_names_are_found_in_any_case(tmp_path: Path) -> None:
    root = guest(tmp_path, {"/a": "->/nowhere/../x", "/EFI/Boot/BootX64.efi": b"MZ"})
    assert root.link("/a") == "/nowhere/../x"
    assert root.link("/EFI") is None
    assert root.link("/absent") is None
    assert root.nocase("/efi/BOOT/bootx64.EFI") == "/EFI/Boot/BootX64.efi"
    assert root.nocase("/efi/none") is None
    assert root.inode("/EFI") == (tmp_path / "EFI").stat().st_ino


@pytest.mark.parametrize("fstype", ["ext4", "btrfs", "vfat", "ntfs", "ufs", "iso9660"])
def test_an_empty_volume_has_no_facts(tmp_path: Path, fstype: str) -> None:
    with guest(tmp_path, {"/lost+found/": ""}) as root:
        assert read_volume(root, fstype) == VolumeFacts()


def test_the_fallback_loader_is_found_in_any_case(tmp_path: Path) -> None:
    with guest(tmp_path / "a", {"/EFI/Boot/BootX64.efi": b"MZ"}) as root:
        esp = read_volume(root, "vfat").esp
    assert esp is not None
    assert (esp.fallback, esp.loaders) == ("other", ("/efi/boot/bootx64.efi",))
    with guest(tmp_path / "b", {"/EFI/debian/grubx64.efi": b"MZ"}) as root:
        esp = read_volume(root, "vfat").esp
    assert esp is not None
    assert esp.fallback == ""
    with guest(tmp_path / "c", {"/DCIM/1.JPG": b""}) as root:
        assert read_volume(root, "vfat") == VolumeFacts()


def test_what_a_hostile_tree_puts_in_the_place_of_files_does_no_harm(tmp_path: Path) -> None:
    places = [
        "etc/os-release", "etc/hostname", "etc/fstab", "boot/grub/grub.cfg", "boot/grub/grubenv", "boot/vmlinuz-1",
        "boot/initrd.img-1", "boot/loader/entries/a.conf", "lib/modules/1/modules.dep", "etc/lvm/lvm.conf",
        "etc/netplan/1.yaml", "etc/modprobe.d/a.conf", "sbin/init", "etc/libvirt/qemu/a.xml",
    ]  # fmt: skip
    for kind in ("directory", "fifo", "loop", "outside", "zero", "sparse"):
        top = tmp_path / kind
        (top / "bin").mkdir(parents=True)
        for place in places:
            path = top / place
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "directory":
                path.mkdir()
            elif kind == "fifo":
                os.mkfifo(path)
            elif kind == "loop":
                path.symlink_to(path.name)
            elif kind == "outside":
                path.symlink_to("/etc/passwd")
            elif kind == "zero":
                path.write_bytes(bytes(5000))
            else:
                path.touch()
                os.truncate(path, 1 << 40)
        with GuestRoot.at(top) as root:
            facts = read_volume(root, "btrfs")
        text = records.to_json(facts)
        assert "root:x:" not in text
        assert len(text) < 1 << 16


def test_texts_made_to_keep_a_reader_busy_do_not(tmp_path: Path) -> None:
    """Each of these would take minutes where a pattern goes over the same characters again and again."""
    spaces = " " * 8000
    files: dict[str, str | bytes] = {
        "/etc/passwd": "",
        "/bin/": "",
        "/boot/grub/grub.cfg": f"search{spaces}x\nset default={spaces}'{spaces}x\nmenuentry 'x' --id{spaces}{{\n" * 80,
        "/etc/modprobe.d/a.conf": "\n" * 65_000,
        "/etc/modprobe.d/b.conf": "install a " + "/" * 65_000,
        "/etc/udev/rules.d/70-net.rules": 'NAME="' * 10_000,
        "/etc/lvm/lvm.conf": "filter = [" * 20_000,
        "/etc/multipath.conf": "find_multipaths" + " " * 60_000,
        "/etc/os-release": "'" * 16_000 + "\n" * 1000,
        "/etc/fstab": "\\0" * 30_000,
        "/lib/modules/1/modules.dep": "\n" * (1 << 20),
        "/lib/modules/1/modules.alias": "alias pci:v" + "*" * (1 << 20),
        "/lib/modules/1/modules.builtin.modinfo": b"\0" * (1 << 20),
    }
    with guest(tmp_path, files) as root:
        assert read_volume(root, "ext4").roles[:1] == ("root",)


def test_a_tree_that_makes_a_reader_fail_is_a_problem_and_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(system, "read_release", fail)
    with guest(tmp_path, {"/etc/passwd": "", "/bin/": ""}) as root:
        assert read_volume(root, "ext4").problems == ("/: MemoryError:",)
