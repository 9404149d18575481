# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's own files: release, name, boot entries, drivers; and what a hostile guest may try."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from agent_lab import write_tree

from coldmig_agent.guest.hostname import read_hostname, usable
from coldmig_agent.guest.kernel import (
    BootFacts,
    ModuleFacts,
    choose_entry,
    default_entry,
    initramfs_path,
    module_names,
    parse_grub,
    read_modules,
)
from coldmig_agent.guest.linux import VolumeFacts, assemble, facts_from_json, read_volume
from coldmig_agent.guest.release import Release, read_release
from coldmig_agent.guest.rootfs import GuestRoot

DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n'


def guest(root: Path, files: dict[str, str | bytes]) -> GuestRoot:
    return GuestRoot.at(write_tree(root, files))


def test_os_release_is_read_through_an_absolute_link_inside_the_guest(tmp_path: Path) -> None:
    root = guest(
        tmp_path,
        {"/etc/os-release": "->/usr/lib/os-release", "/usr/lib/os-release": DEBIAN, "/etc/debian_version": "12.7\n"},
    )
    assert read_release(root) == Release("debian", "12.7", "Debian GNU/Linux 12 (bookworm)")


def test_a_point_release_of_another_major_version_is_not_believed(tmp_path: Path) -> None:
    root = guest(tmp_path, {"/etc/os-release": DEBIAN, "/etc/debian_version": "trixie/sid\n"})
    assert read_release(root) == Release("debian", "12", "Debian GNU/Linux 12 (bookworm)")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/etc/os-release": 'ID="openEuler"\nVERSION_ID="22.03"\n'}, ("openeuler", "22.03")),
        ({"/usr/lib/os-release": "ID=fedora\nVERSION_ID=40\n"}, ("fedora", "40")),
        (
            {"/etc/os-release": "", "/etc/lsb-release": "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=12.04\n"},
            ("ubuntu", "12.04"),
        ),
        ({"/etc/redhat-release": "Red Hat Enterprise Linux Server release 6.10 (Santiago)\n"}, ("rhel", "6.10")),
        (
            {"/etc/redhat-release": "CentOS release 6.9\n", "/etc/centos-release": "CentOS release 6.9\n"},
            ("centos", "6.9"),
        ),
        ({"/etc/redhat-release": "Some Rebuild release 7.1\n"}, ("linux", "7.1")),
        ({"/etc/SuSE-release": "SUSE Linux Enterprise Server 11 (x86_64)\nVERSION = 11\n"}, ("sles", "11")),
        ({"/etc/debian_version": "6.0.10\n"}, ("debian", "6.0.10")),
    ],
)
def test_older_release_files_are_understood(tmp_path: Path, files: dict[str, str], expected: tuple[str, str]) -> None:
    release = read_release(guest(tmp_path, dict(files)))
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
        root = guest(tmp_path / str(number), {"/etc/os-release": path.read_bytes()})
        release = read_release(root)
        assert release is not None, row["path"]
        assert release.id == row["ID"].lower(), row["path"]
        assert release.version == row["VERSION_ID"], row["path"]
        root.close()


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


GRUB = """
set default="0"
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
else
   set default="%s"
fi
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-1' {
\tlinux\t/boot/vmlinuz-6.1.0-20-amd64 root=UUID=1 ro quiet
\tinitrd\t/boot/initrd.img-6.1.0-20-amd64
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-1' {
\tmenuentry 'Debian GNU/Linux, with Linux 5.10.0-1-amd64' $menuentry_id_option 'gnulinux-5.10.0-1-amd64-advanced-1' {
\t\tlinux\t/boot/vmlinuz-5.10.0-1-amd64 root=/dev/sda1 ro
\t\tinitrd\t/boot/initrd.img-5.10.0-1-amd64
\t}
}
"""


def test_the_default_entry_of_grub_is_found() -> None:
    default, entries = parse_grub(GRUB % "0")
    assert [entry.version for entry in entries] == ["6.1.0-20-amd64", "5.10.0-1-amd64"]
    entry = choose_entry(default, "", entries)
    assert entry is not None
    assert entry.initrds == ("/boot/initrd.img-6.1.0-20-amd64",)


def test_the_saved_entry_of_grub_wins_when_grub_uses_it() -> None:
    default, entries = parse_grub(GRUB % "${saved_entry}")
    saved = "gnulinux-advanced-1>gnulinux-5.10.0-1-amd64-advanced-1"
    entry = choose_entry(default, saved, entries)
    assert entry is not None
    assert entry.version == "5.10.0-1-amd64"


def test_boot_loader_specification_entries_are_preferred(tmp_path: Path) -> None:
    entry = (
        "title Rocky Linux ({0})\nversion {0}\nlinux /vmlinuz-{0}\ninitrd /initramfs-{0}.img $tuned_initrd\n"
        "options root=/dev/mapper/rl-root ro\n"
    )
    root = guest(
        tmp_path,
        {
            "/loader/entries/abc-5.14.0-362.el9.x86_64.conf": entry.format("5.14.0-362.el9.x86_64"),
            "/loader/entries/abc-5.14.0-70.el9.x86_64.conf": entry.format("5.14.0-70.el9.x86_64"),
            "/loader/entries/abc-0-rescue.conf": entry.format("0-rescue-abc"),
            "/grub2/grubenv": "# GRUB Environment Block\nsaved_entry=abc-5.14.0-70.el9.x86_64\n####",
            "/initramfs-5.14.0-70.el9.x86_64.img": b"",
        },
    )
    found = default_entry(root, "")
    assert found is not None
    assert found.version == "5.14.0-70.el9.x86_64"
    assert initramfs_path(root, "", found) == "/initramfs-5.14.0-70.el9.x86_64.img"


def test_without_a_menu_the_newest_kernel_counts(tmp_path: Path) -> None:
    root = guest(
        tmp_path,
        {
            "/boot/vmlinuz-5.10.0-9-amd64": "",
            "/boot/vmlinuz-5.10.0-21-amd64": "",
            "/boot/initrd.img-5.10.0-21-amd64": "",
        },
    )
    found = default_entry(root, "/boot")
    assert found is not None
    assert found.version == "5.10.0-21-amd64"
    assert initramfs_path(root, "/boot", found) == "/boot/initrd.img-5.10.0-21-amd64"


def test_driver_names_are_the_same_with_hyphen_and_underscore() -> None:
    paths = [
        "usr/lib/modules/6.1/kernel/drivers/scsi/vmw_pvscsi.ko",
        "a/ata-piix.ko.xz",
        "b/nvme.ko.zst",
        "c/e1000.ko.sig",
        "d/tg3.ko",
    ]
    assert module_names(paths) == {"vmw_pvscsi", "ata_piix", "nvme"}


def test_modules_of_the_root_file_system_are_listed(tmp_path: Path) -> None:
    root = guest(
        tmp_path,
        {
            "/lib": "->usr/lib",
            "/usr/lib/modules/6.1.0-20-amd64/modules.builtin": "kernel/drivers/ata/ata_piix.ko\n",
            "/usr/lib/modules/6.1.0-20-amd64/modules.dep": "kernel/net/vmxnet3.ko: \nkernel/scsi/vmw_pvscsi.ko.xz:\n",
        },
    )
    assert read_modules(root) == [ModuleFacts("6.1.0-20-amd64", ("ata_piix",), ("vmw_pvscsi", "vmxnet3"))]


ROOT = VolumeFacts(
    is_root=True,
    release=Release("debian", "12.7", "Debian GNU/Linux 12"),
    hostname="erp-db-01",
    modules=(ModuleFacts("6.1", ("ata_piix",), ("vmw_pvscsi", "vmxnet3")),),
)
BOOT = VolumeFacts(boot=BootFacts("6.1", "ro", "/initrd.img-6.1", ("vmw_pvscsi", "ahci"), ""))


def test_facts_of_a_separate_boot_partition_join_those_of_the_root() -> None:
    found, notices = assemble([BOOT, ROOT], "bios")
    assert found is not None
    assert (found.hostname, found.kernel) == ("erp-db-01", "6.1")
    assert found.drivers == ("ahci", "ata_piix", "vmw_pvscsi", "vmxnet3")
    assert notices == []


def test_a_storage_driver_only_in_the_root_file_system_does_not_count() -> None:
    boot = VolumeFacts(boot=BootFacts("6.1", "ro", "/initrd.img-6.1", ("virtio_blk",), ""))
    root = VolumeFacts(is_root=True, modules=(ModuleFacts("6.1", (), ("vmw_pvscsi", "vmxnet3")),))
    found, notices = assemble([boot, root], "bios")
    assert found is not None
    assert found.drivers == ("virtio_blk", "vmxnet3")
    assert [notice.code for notice in notices] == ["no-storage-driver"]


def test_an_initramfs_that_cannot_be_read_is_said_instead_of_missing_drivers() -> None:
    boot = VolumeFacts(boot=BootFacts("6.1", "ro", "/initrd.img-6.1", (), "compressed data ends in the middle"))
    _, notices = assemble([boot, ROOT], "bios")
    assert [notice.code for notice in notices] == ["initramfs-incomplete"]


def test_an_efi_guest_without_the_fallback_loader_is_noticed() -> None:
    esp = VolumeFacts(is_esp=True)
    assert "efi-fallback-missing" in [n.code for n in assemble([esp, BOOT, ROOT], "efi")[1]]
    assert assemble([esp, BOOT, ROOT], "bios")[1] == []
    good = VolumeFacts(is_esp=True, has_fallback_loader=True)
    assert assemble([good, BOOT, ROOT], "efi")[1] == []


def test_the_first_system_with_a_kernel_counts_and_the_others_are_named() -> None:
    other = VolumeFacts(is_root=True, release=Release("fedora", "40", "Fedora 40"))
    found, notices = assemble([other, BOOT, ROOT], "bios")
    assert found is not None
    assert found.id == "debian"
    assert "Fedora 40" in notices[0].message


def test_a_volume_with_a_root_says_what_it_needs_to_change(tmp_path: Path) -> None:
    root = guest(
        tmp_path,
        {
            "/etc/os-release": DEBIAN,
            "/etc/hostname": "erp-db-01\n",
            "/etc/fstab": "# /dev/sdz1 was here\n/dev/sda2 / ext4 defaults 0 1\nUUID=1 /boot ext4 defaults 0 2\n",
            "/usr/bin/": "",
            "/bin": "->usr/bin",
            "/boot/grub/grub.cfg": GRUB % "0",
        },
    )
    facts = read_volume(root, "ext4")
    assert facts.is_root
    assert facts.hostname == "erp-db-01"
    assert facts.old_device_names == ("/dev/sda2",)
    assert facts.boot is not None
    assert facts.boot.kernel == "6.1.0-20-amd64"


def test_the_fallback_loader_is_found_in_any_case(tmp_path: Path) -> None:
    assert read_volume(guest(tmp_path / "a", {"/EFI/Boot/BootX64.efi": b"MZ"}), "vfat").has_fallback_loader
    facts = read_volume(guest(tmp_path / "b", {"/EFI/debian/grubx64.efi": b"MZ"}), "vfat")
    assert (facts.is_esp, facts.has_fallback_loader) == (True, False)
    assert not read_volume(guest(tmp_path / "c", {"/DCIM/1.JPG": b""}), "vfat").is_esp


def test_a_data_volume_has_no_facts(tmp_path: Path) -> None:
    assert read_volume(guest(tmp_path, {"/srv/data": "x"}), "ext4") == VolumeFacts()


def test_facts_pass_the_pipe_unchanged() -> None:
    import json

    for facts in (ROOT, BOOT, VolumeFacts()):
        assert facts_from_json(json.loads(json.dumps(facts.to_json()))) == facts


@pytest.mark.parametrize("document", [None, [], {}, {"is_root": True}, {**ROOT.to_json(), "release": {"x": 1}}])
def test_anything_else_from_the_pipe_is_refused(document: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        facts_from_json(document)
