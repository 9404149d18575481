# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings that hold only for the machine that a system is on today."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from agent_lab import write_tree
from guest_lab import GRUB_HEAD, K, Lab, codes, debian_boot, debian_root, grub_entry, verdicts

from coldmig_agent.guest import bindings
from coldmig_agent.guest.bindings import netplan_cards, old_names, parse_fstab, read_bound
from coldmig_agent.guest.facts import InspectedFacts
from coldmig_agent.guest.resolve import Volumes
from coldmig_agent.guest.rootfs import GuestRoot


def bound(path: Path, files: dict[str, str | bytes], kind: str) -> list[str]:
    with GuestRoot.at(write_tree(path, files)) as root:
        return [item.value for item in read_bound(root) if item.kind == kind]


def test_names_that_will_change_are_told_from_those_that_stay() -> None:
    text = (
        "# /dev/sdz1 was here\n/dev/sda2 / ext4\n/dev/vdb1 /data ext4\n/dev/nvme0n1p3 none swap\n/dev/xvda /x ext4\n"
        "/dev/disk/by-path/pci-0000:00:1f.2-ata-1 /p ext4\n/dev/disk/by-id/ata-ST1000-part1 /i ext4\n"
        "/dev/disk/by-id/dm-uuid-LVM-abc / ext4\n/dev/disk/by-id/md-uuid-1 /m ext4\n/dev/disk/by-id/lvm-pv-1 /l x\n"
        "UUID=1 /boot ext4\nLABEL=x /y ext4\n/dev/mapper/vg-root /v ext4\n/dev/sr0 /cd iso9660\n/dev/md0 /r ext4\n"
    )
    assert old_names(text) == (
        "/dev/sda2",
        "/dev/vdb1",
        "/dev/nvme0n1p3",
        "/dev/xvda",
        "/dev/disk/by-path/pci-0000:00:1f.2-ata-1",
        "/dev/disk/by-id/ata-ST1000-part1",
    )


def test_fstab_and_its_neighbours_are_looked_at_for_names_of_disks(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "/etc/fstab": "/dev/sda2 / ext4 defaults 0 1\n/dev/sdb1 /mnt/stick vfat noauto,user 0 0\n",
        "/etc/crypttab": "swap /dev/vda5 /dev/urandom swap\n",
        "/etc/initramfs-tools/conf.d/resume": "RESUME=/dev/sda5\n",
        "/etc/lvm/lvm.conf": 'devices {\n # filter = [ "a|/dev/sdx|" ]\n filter = [ "a|^/dev/sda2$|", "r|.*|" ]\n}\n',
    }
    assert bound(tmp_path, files, "device") == ["/dev/sda2", "/dev/vda5", "/dev/sda5", "/dev/sda2"]


def test_lvm_finds_some_disks_again_and_others_not(tmp_path: Path) -> None:
    text = (
        "# LVM uses devices listed in this file.\nVERSION=1.1.5\n"
        "IDTYPE=sys_wwid IDNAME=naa.5000 DEVNAME=/dev/sda2 PVID=x PART=2\n"
        "IDTYPE=devname IDNAME=/dev/vda2 DEVNAME=/dev/vda2 PVID=y\nIDTYPE=md_uuid IDNAME=1 DEVNAME=/dev/md0 PVID=z\n"
    )
    files: dict[str, str | bytes] = {"/etc/lvm/devices/system.devices": text}
    assert bound(tmp_path, files, "lvm-devices") == ["sys_wwid naa.5000", "devname /dev/vda2"]


@pytest.mark.parametrize(
    ("line", "found"),
    [("find_multipaths no", 1), ('find_multipaths "off"', 1), ("find_multipaths yes", 0), ("# find_multipaths no", 0)],
)
def test_multipath_that_takes_every_disk_is_told(tmp_path: Path, line: str, found: int) -> None:
    text = f"defaults {{\n  user_friendly_names yes\n  {line}\n}}\n"
    assert len(bound(tmp_path, {"/etc/multipath.conf": text}, "multipath")) == found


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ({"/etc/network/interfaces": "auto lo ens3\niface lo inet loopback\niface ens3 inet dhcp\n"}, ["ens3"]),
        ({"/etc/network/interfaces": "iface eth0 inet dhcp\n"}, []),
        ({"/etc/network/interfaces": "iface eth0 inet dhcp\niface eth1 inet dhcp\n"}, ["eth0", "eth1"]),
        ({"/etc/network/interfaces.d/bond": "iface bond0 inet dhcp\niface ens3.12 inet dhcp\n"}, []),
        ({"/etc/sysconfig/network-scripts/ifcfg-eno1": "TYPE=Ethernet\nDEVICE=eno1\nBOOTPROTO=dhcp\n"}, ["eno1"]),
        ({"/etc/sysconfig/network-scripts/ifcfg-eno1": 'DEVICE="eno1"\nHWADDR=52:54:00:00:00:01\n'}, []),
        ({"/etc/sysconfig/network-scripts/ifcfg-bond0": "TYPE=Bond\nDEVICE=bond0\nBONDING_MASTER=yes\n"}, []),
        ({"/etc/sysconfig/network/ifcfg-em1": "BOOTPROTO='static'\n"}, ["em1"]),
        (
            {
                "/etc/sysconfig/network/ifcfg-eth0": "",
                "/etc/sysconfig/network/ifcfg-eth1": "",
                "/etc/udev/rules.d/70-persistent-net.rules": (
                    'SUBSYSTEM=="net", ATTR{address}=="52:54:00:00:00:01", NAME="eth0"\n'
                    'SUBSYSTEM=="net", ATTR{address}=="52:54:00:00:00:02", NAME="eth1"\n'
                ),
            },
            [],
        ),
        (
            {"/etc/udev/rules.d/70-persistent-net.rules": 'SUBSYSTEM=="net", KERNELS=="0000:03:00.0", NAME="lan0"\n'},
            ["lan0 (0000:03:00.0)"],
        ),
        (
            {
                "/etc/NetworkManager/system-connections/a.nmconnection": (
                    "[connection]\nid=a\ntype=ethernet\ninterface-name=enp1s0\n"
                )
            },
            ["enp1s0"],
        ),
        (
            {
                "/etc/NetworkManager/system-connections/a": (
                    "[connection]\nid=a\ntype=ethernet\n[ethernet]\nmac-address=52:54:00:00:00:01\n"
                )
            },
            [],
        ),
        (
            {"/etc/NetworkManager/system-connections/w": "[connection]\nid=w\ntype=wifi\ninterface-name=wlan0\n"},
            [],
        ),
        ({"/etc/systemd/network/10.network": "[Match]\nName=ens3\n[Network]\nDHCP=yes\n"}, ["ens3"]),
        ({"/etc/systemd/network/10.network": "[Match]\nName=en*\n[Network]\nDHCP=yes\n"}, []),
        ({"/etc/systemd/network/10.network": "[Match]\nMACAddress=52:54:00:00:00:01\n"}, []),
        (
            {"/etc/systemd/network/10.link": "[Match]\nPath=pci-0000:03:00.0\n[Link]\nName=lan0\n"},
            ["lan0 (pci-0000:03:00.0)"],
        ),
        (
            {
                "/etc/systemd/network/10.link": "[Match]\nMACAddress=52:54:00:00:00:01\n[Link]\nName=lan0\n",
                "/etc/systemd/network/20.network": "[Match]\nName=lan0\n",
            },
            [],
        ),
    ],
)
def test_cards_bound_to_names_are_told_and_those_bound_to_addresses_are_not(
    tmp_path: Path, files: dict[str, str | bytes], names: list[str]
) -> None:
    assert bound(tmp_path, files, "nic") == names


def test_netplan_is_read_by_its_indentation() -> None:
    text = (
        "# written by the installer\nnetwork:\n  version: 2\n  ethernets:\n    ens3:\n      dhcp4: true\n"
        "    'lan':\n      match:\n        macaddress: \"52:54:00:00:00:01\"\n      set-name: lan\n"
        "    any:\n      match:\n        name: en*\n      dhcp4: true\n"
        "    short: {match: {macaddress: '52:54:00:00:00:02'}, dhcp4: true}\n"
        "  bonds:\n    bond0:\n      interfaces: [ens3]\n"
    )
    assert list(netplan_cards(text)) == [("ens3", False), ("lan", True), ("any", True), ("short", True)]


def test_fstab_lines_are_taken_apart() -> None:
    found = parse_fstab("UUID=1\t/my\\040data btrfs subvol=/@data,compress 0 0\n# x\nbroken\nLABEL=x / ext4\n")
    assert [(item.spec, item.mountpoint, item.subvolume) for item in found] == [
        ("UUID=1", "/my data", "@data"),
        ("LABEL=x", "/", ""),
    ]


def test_everything_bound_becomes_a_notice(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    entry = grub_entry("Debian", f"/boot/vmlinuz-{K}", f"/boot/initrd.img-{K}", "root=/dev/sda1 resume=/dev/sda5")
    files = {
        **debian_root(),
        **debian_boot(),
        "/boot/grub/grub.cfg": GRUB_HEAD % "0" + entry,
        "/etc/network/interfaces": "iface ens3 inet dhcp\n",
        "/etc/lvm/devices/system.devices": "IDTYPE=sys_wwid IDNAME=naa.1 PVID=x\n",
        "/etc/multipath.conf": "defaults { find_multipaths no }\n",
    }
    lab.add("disk0/1", files)
    found = lab.look()
    assert codes(found) == [
        "storage-driver-likely",
        "old-device-names",
        "lvm-devices-file",
        "nic-names-bound",
        "multipath-claims-all",
    ]
    told = {notice.code: notice.message for notice in found.notices}
    assert "/dev/sda1 (boot arguments), /dev/sda5 (boot arguments)" in told["old-device-names"]
    assert "(sys_wwid naa.1 (/etc/lvm/devices/system.devices))" in told["lvm-devices-file"]
    assert "change: ens3 (/etc/network/interfaces)" in told["nic-names-bound"]
    assert "(find_multipaths no (/etc/multipath.conf))" in told["multipath-claims-all"]
    assert verdicts(found.guests[0])["pvscsi"] == "likely"


def test_an_lvm_devices_file_puts_a_root_on_lvm_in_doubt(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    entry = grub_entry("Debian", f"/vmlinuz-{K}", f"/initrd.img-{K}", "root=/dev/mapper/vg-root")
    lab.add("disk0/1", {**debian_boot(""), "/grub/grub.cfg": GRUB_HEAD % "0" + entry})
    lab.add(
        "lvm/vg/root", {**debian_root(), "/etc/lvm/devices/system.devices": "IDTYPE=sys_wwid IDNAME=naa.1 PVID=x\n"}
    )
    assert verdicts(lab.look().guests[0])["pvscsi"] == "likely"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/dev/vda1 /boot/efi vfat umask=0077 0 1", "likely"),
        ("/dev/vda1 /boot/efi vfat umask=0077,nofail 0 1", "ready"),
        ("/dev/vda5 none swap sw 0 0", "ready"),
        ("/dev/vda1 / ext4 defaults 0 1", "ready"),
        ("/dev/sda1 /boot/efi vfat defaults 0 1", "ready"),
    ],
)
def test_a_volume_that_the_start_waits_for_in_vain_puts_it_in_doubt(tmp_path: Path, line: str, expected: str) -> None:
    lab = Lab(tmp_path)
    lab.add("disk0/1", {**debian_root(), **debian_boot(), "/etc/fstab": f"{line}\n"}, uuid="r00t")
    assert verdicts(lab.look().guests[0])["pvscsi"] == expected


def volume(key: str, **more: str | tuple[str, ...]) -> InspectedFacts:
    return InspectedFacts(key, key, 0, "ext4", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("UUID=ABCD-12", "disk0/1"),
        ("/dev/disk/by-uuid/abcd-12", "disk0/1"),
        ('UUID="abcd-12"', "disk0/1"),
        ("LABEL=root", "disk0/2"),
        ("/dev/disk/by-label/root", "disk0/2"),
        ("PARTUUID=77", "disk1/1"),
        ("/dev/my-vg/root-lv", "lvm/my-vg/root-lv"),
        ("/dev/mapper/my--vg-root--lv", "lvm/my-vg/root-lv"),
        ("/dev/mapper/luks-1ceb", "disk1/2"),
        ("/dev/md0", "md/0"),
        ("/dev/sda2", "disk0/2"),
        ("/dev/vdb1", "disk1/1"),
        ("/dev/nvme1n1p1", "disk1/1"),
        ("/dev/sdz7", None),
        ("/dev/sdc2", None),
        ("UUID=0", None),
        ("", None),
    ],
)
def test_names_of_volumes_are_resolved(name: str, key: str | None) -> None:
    known = Volumes(
        [
            volume("disk0/1", uuid="ABCD-12"),
            volume("disk0/2", label="root"),
            volume("disk1/1", names=("PARTUUID=77",)),
            volume("disk1/2", uuid="1ceb"),
            volume("lvm/my-vg/root-lv"),
            volume("md/0", names=("/dev/md0",)),
        ]
    )
    found = known.find(name)
    assert (found.key if found else None) == key


def test_no_text_makes_a_reader_of_settings_fail(tmp_path: Path) -> None:
    chance = random.Random(2)
    words = [
        "[Match]",
        "Name=",
        "iface",
        "ens3",
        "IDTYPE=a",
        "=",
        "ethernets:",
        "    x:",
        "\t",
        'NAME="a"',
        "'",
        "/dev/sda1",
        "filter = [",
        "]",
        "\\040",
        "\\777",
        "a" * 5000,
    ]
    places = [
        "/etc/fstab",
        "/etc/crypttab",
        "/etc/lvm/lvm.conf",
        "/etc/lvm/devices/system.devices",
        "/etc/multipath.conf",
        "/etc/network/interfaces",
        "/etc/netplan/1.yaml",
        "/etc/systemd/network/1.link",
        "/etc/udev/rules.d/70-net.rules",
        "/etc/NetworkManager/system-connections/a",
        "/etc/sysconfig/network-scripts/ifcfg-a",
    ]
    for number in range(30):
        files = {place: "\n".join(" ".join(chance.choices(words, k=3)) for _ in range(20)) for place in places}
        with GuestRoot.at(write_tree(tmp_path / str(number), files)) as root:
            assert len(bindings.read_bound(root)) <= 5 * bindings.MAX_NAMES
