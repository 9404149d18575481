# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole machines as distributions lay them out: which system is found, what starts it, and from what it can boot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from guest_lab import (
    DEBIAN,
    EVERY,
    GRUB_HEAD,
    VIRTIO,
    K,
    Lab,
    bzimage,
    codes,
    debian_boot,
    debian_root,
    elf,
    evidence,
    grub_entry,
    initramfs,
    modules,
    os_release,
    pe,
    verdicts,
)

from coldmig_agent.guest import assemble as assembling
from coldmig_agent.guest.assemble import assemble
from coldmig_agent.guest.facts import InspectedFacts, VolumeFacts
from coldmig_agent.guest.windows.model import VersionFacts, WindowsFacts, WindowsSystem
from coldmig_agent.machine import Guest

ALL_STORAGE = {"pvscsi", "lsilogic-sas", "ahci", "nvme", "lsilogic", "ide"}
ESP_GRUB = b"MZ" + bytes(100) + b"GRUB \0" + bytes(100)
ESP_SHIM = b"MZ" + bytes(100) + b"UEFI SHIM\n" + bytes(100)
ESP_SYSTEMD = b"MZ" + bytes(100) + b"#### LoaderInfo: systemd-boot 252 ####"
ESP_WINDOWS = b"MZ" + bytes(100) + b"bootmgfw.pdb"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def ready(guest: Guest) -> set[str]:
    return {device for device, verdict in verdicts(guest).items() if verdict == "ready"}


def test_nothing_is_nothing() -> None:
    found = assemble([], "bios")
    assert (found.guests, found.notices, found.roles) == ((), (), {})


def test_debian_on_one_partition(lab: Lab) -> None:
    lab.add("disk0/1", {**debian_root(), **debian_boot()}, uuid="r00t")
    found = lab.look()
    (guest,) = found.guests
    assert (guest.os_type, guest.id, guest.version, guest.release) == ("linux", "debian", "12", "12.7")
    assert (guest.hostname, guest.kernel, guest.arch) == ("erp-db-01", K, "x86_64")
    assert (guest.key, guest.place, guest.bootable) == ("disk0/1", "volume disk0/1", True)
    assert (guest.boot_entry, guest.firmware) == ("Debian GNU/Linux", "bios")
    assert ready(guest) == {*ALL_STORAGE, "vmxnet3", "e1000e", "e1000"}
    assert codes(found) == []
    assert found.roles == {"disk0/1": "root of Debian GNU/Linux 12 (bookworm)"}


def test_ubuntu_with_a_separate_boot_and_root_on_lvm(lab: Lab) -> None:
    entry = grub_entry(
        "Ubuntu", f"/vmlinuz-{K}", f"/initrd.img-{K}", "root=/dev/mapper/ubuntu--vg-root ro", search="b00t"
    )
    boot = {
        "/grub/grub.cfg": GRUB_HEAD % "0" + entry,
        "/grub/x86_64-efi/normal.mod": b"",
        f"/vmlinuz-{K}": bzimage(K),
        f"/initrd.img-{K}": initramfs(),
    }
    stub = "search.fs_uuid b00t root\nset prefix=($root)'/grub'\nconfigfile $prefix/grub.cfg\n"
    lab.add(
        "disk0/1",
        {
            "/EFI/ubuntu/grub.cfg": stub,
            "/EFI/ubuntu/grubx64.efi": ESP_GRUB,
            "/EFI/BOOT/BOOTX64.EFI": ESP_SHIM,
            "/EFI/BOOT/fbx64.efi": b"MZ",
        },
        fstype="vfat",
        uuid="AA-BB",
    )
    lab.add("disk0/2", boot, uuid="b00t")
    root = debian_root("x")
    root["/usr/lib/os-release"] = os_release(
        "ubuntu", "22.04", "Ubuntu 22.04.4 LTS", 'ID_LIKE=debian\nVERSION="22.04.4 LTS"\n'
    )
    root["/etc/fstab"] = (
        "/dev/disk/by-id/dm-uuid-LVM-abc / ext4 defaults 0 1\n/dev/disk/by-uuid/b00t /boot ext4 defaults 0 1\n"
        "UUID=AA-BB /boot/efi vfat umask=0077 0 1\n"
    )
    lab.add("lvm/ubuntu-vg/root", root)
    found = lab.look("efi")
    (guest,) = found.guests
    assert (guest.id, guest.version, guest.release, guest.id_like) == ("ubuntu", "22.04", "22.04.4", ("debian",))
    assert (guest.key, guest.firmware, guest.bootable) == ("lvm/ubuntu-vg/root", "efi", True)
    assert "pvscsi" in ready(guest)
    assert codes(found) == []
    assert found.roles == {
        "disk0/1": "EFI system partition",
        "disk0/2": "/boot",
        "lvm/ubuntu-vg/root": "root of Ubuntu 22.04.4 LTS",
    }


RHEL_K = "5.14.0-362.el9.x86_64"
RESCUE = "0-rescue-0123456789abcdef"


def bls(version: str, title: str, options: str, *, kernel: str = "") -> str:
    return (
        f"title {title}\nversion {version}\nlinux {kernel or f'/vmlinuz-{version}'}\n"
        f"initrd /initramfs-{version}.img $tuned_initrd\noptions {options} $tuned_params\ngrub_users $grub_users\n"
    )


OLD_K = "5.14.0-70.el9.x86_64"


def rocky(lab: Lab, *, options: str, grubenv: str | None) -> None:
    """A /boot with two kernels and a rescue image; the default one is host-only, made on a virtio machine.

    ``grubenv`` None: GRUB is configured on the ESP.
    """
    old = OLD_K
    boot: dict[str, str | bytes] = {
        f"/loader/entries/abc-{RHEL_K}.conf": bls(RHEL_K, f"Rocky Linux ({RHEL_K}) 9.3 (Blue Onyx)", options),
        f"/loader/entries/abc-{old}.conf": bls(old, f"Rocky Linux ({old}) 9.0 (Blue Onyx)", options),
        f"/loader/entries/abc-{RESCUE}.conf": bls(RESCUE, f"Rocky Linux ({RESCUE}) 9.3 (Blue Onyx)", options),
        f"/vmlinuz-{RHEL_K}": bzimage(RHEL_K),
        f"/vmlinuz-{old}": bzimage(old),
        f"/vmlinuz-{RESCUE}": bzimage(OLD_K),
        f"/initramfs-{RHEL_K}.img": initramfs(
            VIRTIO, RHEL_K, extra={"usr/lib/dracut/build-parameter.txt": b"dracut arguments: -f '--hostonly'\n"}
        ),
        f"/initramfs-{old}.img": initramfs(EVERY, old),
        f"/initramfs-{RESCUE}.img": initramfs(EVERY, OLD_K),
    }
    if grubenv is not None:
        boot["/grub2/grub.cfg"] = GRUB_HEAD % "${saved_entry}" + "blscfg\n"
        boot["/grub2/grubenv"] = grubenv.ljust(1024, "#")
        boot["/grub2/i386-pc/normal.mod"] = b""
    lab.add("disk0/1", boot, fstype="xfs", uuid="b00t")
    root = {
        "/etc/os-release": os_release(
            "rocky", "9.3", "Rocky Linux 9.3 (Blue Onyx)", 'ID_LIKE="rhel centos fedora"\nPLATFORM_ID="platform:el9"\n'
        ),
        "/etc/redhat-release": "Rocky Linux release 9.3 (Blue Onyx)\n",
        "/etc/hostname": "rocky9\n",
        "/etc/fstab": "/dev/mapper/rl-root / xfs defaults 0 0\nUUID=b00t /boot xfs defaults 0 0\n",
        "/usr/bin/": "",
        "/bin": "->usr/bin",
        "/lib": "->usr/lib",
        **modules(RHEL_K),
        **modules(old),
    }
    lab.add("lvm/rl/root", root, fstype="xfs")


def test_rocky_with_a_host_only_initramfs_names_its_rescue_entry(lab: Lab) -> None:
    rocky(lab, options="root=/dev/mapper/rl-root ro crashkernel=1G", grubenv=f"saved_entry=abc-{RHEL_K}\n")
    found = lab.look()
    (guest,) = found.guests
    assert (guest.id, guest.platform_id, guest.kernel) == ("rocky", "platform:el9", RHEL_K)
    assert verdicts(guest)["pvscsi"] == "no"
    assert ready(guest) == {"vmxnet3", "e1000e", "e1000"}
    assert "362.el9.x86_64.img does not, which was made for this machine only" in evidence(guest, "pvscsi")
    (told,) = [notice for notice in found.notices if notice.code == "no-storage-driver"]
    assert RESCUE in told.message


def test_the_saved_entry_decides_between_kernels(lab: Lab) -> None:
    rocky(lab, options="root=/dev/mapper/rl-root ro", grubenv="saved_entry=abc-5.14.0-70.el9.x86_64\n")
    (guest,) = lab.look().guests
    assert guest.kernel == "5.14.0-70.el9.x86_64"
    assert ready(guest) >= ALL_STORAGE


def test_the_entry_for_the_next_boot_wins_over_the_saved_one(lab: Lab) -> None:
    env = f"saved_entry=abc-{RHEL_K}\nnext_entry=abc-5.14.0-70.el9.x86_64\n"
    rocky(lab, options="root=/dev/mapper/rl-root ro", grubenv=env)
    assert lab.look().guests[0].kernel == "5.14.0-70.el9.x86_64"


def test_rhel_8_takes_its_options_from_grubenv(lab: Lab) -> None:
    env = f"saved_entry=abc-{RHEL_K}\nkernelopts=root=/dev/mapper/rl-root ro modprobe.blacklist=nothing\n"
    rocky(lab, options="$kernelopts", grubenv=env)
    (guest,) = lab.look().guests
    assert guest.bootable
    assert guest.boot_entry.startswith("Rocky Linux (5.14.0-362")


def test_a_grubenv_on_the_esp_decides_for_entries_on_boot(lab: Lab) -> None:
    env = f"saved_entry=abc-{OLD_K}\nkernelopts=root=/dev/mapper/rl-root ro\n".ljust(1024, "#")
    esp = {
        "/EFI/rocky/grub.cfg": GRUB_HEAD % "${saved_entry}" + "blscfg\n",
        "/EFI/rocky/grubenv": env,
        "/EFI/BOOT/BOOTX64.EFI": ESP_SHIM,
        "/EFI/BOOT/fbx64.efi": b"MZ",
    }
    lab.add("disk0/9", esp, fstype="vfat", uuid="AA")
    rocky(lab, options="$kernelopts", grubenv=None)
    found = lab.look("efi")
    (guest,) = found.guests
    assert (guest.kernel, guest.bootable) == (OLD_K, True)
    assert ready(guest) >= ALL_STORAGE


def test_centos_7_with_its_menu_on_the_esp_and_its_kernels_on_boot(lab: Lab) -> None:
    k7 = "3.10.0-1160.el7.x86_64"
    entry = (
        f"menuentry 'CentOS Linux ({k7}) 7 (Core)' --class centos $menuentry_id_option 'gnulinux-{k7}-advanced-1' {{\n"
        f"\tsearch --no-floppy --fs-uuid --set=root b00t\n\tlinuxefi /vmlinuz-{k7} root=/dev/mapper/centos-root ro\n"
        f"\tinitrdefi /initramfs-{k7}.img\n}}\n"
    )
    lab.add(
        "disk0/1",
        {
            "/EFI/centos/grub.cfg": GRUB_HEAD % "${saved_entry}" + entry,
            "/EFI/centos/grubenv": "saved_entry=0\n",
            "/EFI/BOOT/BOOTX64.EFI": ESP_SHIM,
            "/EFI/BOOT/fbx64.efi": b"MZ",
        },
        fstype="vfat",
    )
    lab.add(
        "disk0/2",
        {
            f"/vmlinuz-{k7}": bzimage(k7),
            f"/initramfs-{k7}.img": initramfs(EVERY, k7),
            "/grub2/grubenv": "->../efi/EFI/centos/grubenv",
        },
        fstype="xfs",
        uuid="b00t",
    )
    lab.add(
        "lvm/centos/root",
        {
            "/etc/os-release": os_release("centos", "7", "CentOS Linux 7 (Core)"),
            "/etc/fstab": "/dev/mapper/centos-root / xfs defaults 0 0\n",
            "/etc/centos-release": "CentOS Linux release 7.9.2009 (Core)\n",
            "/bin/": "",
            **modules(k7, base="/lib/modules"),
        },
        fstype="xfs",
    )
    (guest,) = lab.look("efi").guests
    assert (guest.id, guest.version, guest.release) == ("centos", "7", "7.9.2009")
    assert (guest.kernel, guest.firmware, guest.bootable) == (k7, "efi", True)
    assert ready(guest) >= ALL_STORAGE


def test_opensuse_boots_its_default_snapshot_and_older_ones_are_left_out(lab: Lab) -> None:
    def tree(place: str, **more: str | bytes) -> dict[str, str | bytes]:
        files: dict[str, str | bytes] = {
            "/usr/lib/os-release": os_release(
                "opensuse-leap", "15.5", "openSUSE Leap 15.5", 'ID_LIKE="suse opensuse"\n'
            ),
            "/etc/os-release": "->../usr/lib/os-release",
            "/etc/hostname": "leap\n",
            "/etc/fstab": "UUID=r00t / btrfs defaults 0 0\nUUID=r00t /var btrfs subvol=/@/var 0 0\n",
            "/usr/bin/": "",
            "/bin": "->usr/bin",
            "/lib": "->usr/lib",
            **modules(),
            **more,
        }
        return {f"{place}{name}": content for name, content in files.items()}

    current, earlier = "@/.snapshots/3/snapshot", "@/.snapshots/2/snapshot"
    entry = grub_entry(
        "openSUSE Leap 15.5", f"/boot/vmlinuz-{K}", f"/boot/initrd-{K}", "root=UUID=r00t ${extra_cmdline} quiet"
    )
    boot = {
        "/boot/grub2/grub.cfg": GRUB_HEAD % "${saved_entry}" + entry,
        "/boot/grub2/grubenv": "saved_entry=openSUSE Leap 15.5\n".ljust(1024, "#"),
        f"/boot/vmlinuz-{K}": bzimage(K),
        f"/boot/initrd-{K}": initramfs(),
    }
    files = {**tree(current, **boot), **tree(earlier), "@/var/": ""}
    lab.add("disk0/2", files, fstype="btrfs", uuid="r00t", default_subvolume=current)
    found = lab.look()
    (guest,) = found.guests
    assert (guest.id, guest.version) == ("opensuse-leap", "15.5")
    assert guest.key == f"disk0/2/{current}"
    assert guest.place == f"volume disk0/2, subvolume {current}"
    assert ready(guest) >= ALL_STORAGE
    assert codes(found) == []


def test_a_snapshot_of_another_release_is_told_and_comes_last(lab: Lab) -> None:
    files = {f"@{name}": content for name, content in {**debian_root(), **debian_boot("/boot")}.items()}
    old = {**debian_root(), "/usr/lib/os-release": os_release("debian", "11", "Debian GNU/Linux 11 (bullseye)")}
    files |= {f"@/.snapshots/1/snapshot{name}": content for name, content in old.items()}
    files["@/boot/grub/grub.cfg"] = GRUB_HEAD % "0" + grub_entry(
        "Debian GNU/Linux", f"/@/boot/vmlinuz-{K}", f"/@/boot/initrd.img-{K}", "root=UUID=r00t ro rootflags=subvol=@"
    )
    lab.add("disk0/1", files, fstype="btrfs", uuid="r00t")
    found = lab.look()
    assert [guest.version for guest in found.guests] == ["12", "11"]
    assert [guest.bootable for guest in found.guests] == [True, False]
    assert found.guests[0].key == "disk0/1/@"
    assert "pvscsi" in ready(found.guests[0])
    assert codes(found) == ["several-systems"]


def test_a_file_system_on_several_disks_is_one_system(lab: Lab) -> None:
    files = {f"@{name}": content for name, content in {**debian_root(), **debian_boot()}.items()}
    lab.add("disk0/1", files, fstype="btrfs", uuid="r00t")
    lab.add("disk1", files, fstype="btrfs", uuid="r00t")
    found = lab.look()
    assert [guest.key for guest in found.guests] == ["disk0/1/@"]
    assert codes(found) == []


def test_a_snapshot_of_an_lvm_volume_comes_after_its_origin(lab: Lab) -> None:
    lab.add("lvm/vg/root", {**debian_root(), **debian_boot()}, uuid="r00t")
    lab.add("lvm/vg/before", {**debian_root(), **debian_boot()}, uuid="r00t")
    lab.volumes[1] = replace(lab.volumes[1], snapshot=True)
    for volumes in (lab.volumes, lab.volumes[::-1]):
        found = assemble(volumes, "bios")
        assert [(guest.key, guest.bootable) for guest in found.guests] == [
            ("lvm/vg/root", True),
            ("lvm/vg/before", False),
        ]


def test_a_copy_of_a_subvolume_is_reported_but_makes_no_second_system(lab: Lab) -> None:
    files = {f"@{name}": content for name, content in {**debian_root(), **debian_boot()}.items()}
    files["@/boot/grub/grub.cfg"] = GRUB_HEAD % "0" + grub_entry(
        "Debian GNU/Linux", f"/@/boot/vmlinuz-{K}", f"/@/boot/initrd.img-{K}", "root=UUID=r00t ro rootflags=subvol=@"
    )
    before = {f"root/{name}": content for name, content in debian_root().items()}
    lab.add("disk0/1", {**files, **before}, fstype="btrfs", uuid="r00t")
    found = lab.look()
    assert [guest.key for guest in found.guests] == ["disk0/1/@", "disk0/1/root"]
    assert codes(found) == []
    (lab.path / "disk0_1/root/etc/hostname").write_text("another\n")
    lab.volumes.clear()
    lab.add("disk0/1", {}, fstype="btrfs", uuid="r00t")
    assert codes(lab.look()) == ["several-systems"]


@pytest.mark.parametrize("subvolume", ["@rootfs", "root"])
def test_a_root_in_a_subvolume_is_found_by_rootflags(lab: Lab, subvolume: str) -> None:
    files = {f"{subvolume}{name}": content for name, content in {**debian_root(), **debian_boot()}.items()}
    files[f"{subvolume}/boot/grub/grub.cfg"] = GRUB_HEAD % "0" + grub_entry(
        "Debian GNU/Linux",
        f"/{subvolume}/boot/vmlinuz-{K}",
        f"/{subvolume}/boot/initrd.img-{K}",
        f"root=UUID=r00t ro rootflags=subvol={subvolume}",
    )
    lab.add("disk0/1", {**files, "home/user/": ""}, fstype="btrfs", uuid="r00t")
    (guest,) = lab.look().guests
    assert guest.key == f"disk0/1/{subvolume}"
    assert (guest.bootable, guest.kernel) == (True, K)
    assert ready(guest) >= ALL_STORAGE


def test_silverblue_boots_the_deployment_that_its_entry_names(lab: Lab) -> None:
    version = "6.8.5-301.fc40.x86_64"
    deploy = "root/ostree/deploy/fedora/deploy"

    def deployment(checksum: str, number: str) -> dict[str, str | bytes]:
        base = f"{deploy}/{checksum}.0"
        return {
            f"{base}/usr/lib/os-release": os_release(
                "fedora", number, f"Fedora Linux {number} (Silverblue)", "VARIANT_ID=silverblue\n"
            ),
            f"{base}/etc/os-release": "->../usr/lib/os-release",
            f"{base}/etc/hostname": f"silver{number}\n",
            f"{base}/etc/fstab": "UUID=r00t / btrfs subvol=root 0 0\nUUID=b00t /boot ext4 defaults 0 0\n",
            f"{base}/usr/bin/": "",
            f"{base}/bin": "->usr/bin",
            f"{base}/lib": "->usr/lib",
            **{f"{base}{name}": content for name, content in modules(version).items()},
        }

    files = {**deployment("aaaa", "39"), **deployment("bbbb", "40"), "root/boot/": "", "home/": ""}
    files["root/ostree/boot.1"] = "->boot.1.1"
    files["root/ostree/boot.1.1/fedora/c0ffee/0"] = "->../../../deploy/fedora/deploy/bbbb.0"
    files["root/ostree/boot.1.1/fedora/decaf/0"] = "->../../../deploy/fedora/deploy/aaaa.0"

    def boot_entry(number: int, checksum: str) -> str:
        return (
            f"title Fedora Linux {38 + number} (Silverblue) (ostree:{2 - number})\nversion {number}\n"
            f"options root=UUID=r00t rootflags=subvol=root rw ostree=/ostree/boot.1/fedora/{checksum}/0\n"
            f"linux /ostree/fedora-{checksum}/vmlinuz-{version}\n"
            f"initrd /ostree/fedora-{checksum}/initramfs-{version}.img\n"
        )

    boot: dict[str, str | bytes] = {
        "/grub2/grub.cfg": GRUB_HEAD % "${saved_entry}" + "blscfg\n",
        "/grub2/grubenv": "boot_success=1\n".ljust(1024, "#"),
        "/loader": "->loader.1",
        "/loader.1/entries/ostree-1-fedora.conf": boot_entry(1, "decaf"),
        "/loader.1/entries/ostree-2-fedora.conf": boot_entry(2, "c0ffee"),
    }
    for checksum in ("c0ffee", "decaf"):
        boot[f"/ostree/fedora-{checksum}/vmlinuz-{version}"] = bzimage(version)
        boot[f"/ostree/fedora-{checksum}/initramfs-{version}.img"] = initramfs(EVERY, version)
    lab.add("disk0/2", boot, uuid="b00t")
    lab.add("disk0/3", files, fstype="btrfs", uuid="r00t")
    found = lab.look()
    assert [guest.hostname for guest in found.guests] == ["silver40", "silver39"]
    first = found.guests[0]
    assert (first.id, first.version, first.edition) == ("fedora", "40", "silverblue")
    assert first.key == "disk0/3/root/ostree/deploy/fedora/deploy/bbbb.0"
    assert ready(first) >= ALL_STORAGE


def test_nixos_is_read_through_its_store(lab: Lab) -> None:
    store = "/nix/store"
    files: dict[str, str | bytes] = {
        "/etc/static": f"->{store}/eee-etc/etc",
        "/etc/os-release": "->/etc/static/os-release",
        "/etc/hostname": "->/etc/static/hostname",
        "/etc/fstab": "->/etc/static/fstab",
        f"{store}/eee-etc/etc/os-release": os_release("nixos", "24.05", "NixOS 24.05 (Uakari)"),
        f"{store}/eee-etc/etc/hostname": "nix01\n",
        f"{store}/eee-etc/etc/fstab": "/dev/disk/by-uuid/r00t / ext4 x-initrd.mount 0 1\n",
        f"{store}/sys-nixos/kernel-modules": f"->{store}/kkk-modules",
        f"{store}/sys-nixos/init": "#!/bin/sh",
        "/nix/var/nix/profiles/system-7-link": f"->{store}/sys-nixos",
        "/nix/var/nix/profiles/system": "->system-7-link",
        **modules("6.6.30", base=f"{store}/kkk-modules/lib/modules"),
        f"{store}/lll-linux-6.6.30/bzImage": bzimage("6.6.30"),
        f"{store}/iii-initrd/initrd": initramfs(EVERY, "6.6.30"),
        "/bin/sh": "->/nix/store/zzz/bin/sh",
        "/boot/grub/grub.cfg": (
            'set default="0"\nmenuentry "NixOS - Default" --class nixos --unrestricted {\n'
            "search --set=drive1 --fs-uuid r00t\n"
            f"  linux ($drive1){store}/lll-linux-6.6.30/bzImage init={store}/sys-nixos/init loglevel=4\n"
            f"  initrd ($drive1){store}/iii-initrd/initrd\n}}\n"
        ),
    }
    lab.add("disk0/1", files, uuid="r00t")
    (guest,) = lab.look().guests
    assert (guest.id, guest.version, guest.hostname, guest.kernel) == ("nixos", "24.05", "nix01", "6.6.30")
    assert guest.boot_entry == "NixOS - Default"
    assert ready(guest) == {*ALL_STORAGE, "vmxnet3", "e1000e", "e1000"}


def arch_esp(**more: str | bytes) -> dict[str, str | bytes]:
    return {
        "/EFI/systemd/systemd-bootx64.efi": ESP_SYSTEMD,
        "/EFI/BOOT/BOOTX64.EFI": ESP_SYSTEMD,
        "/loader/loader.conf": "timeout 3\ndefault arch.conf\n",
        "/loader/entries/arch.conf": (
            "title Arch Linux\nlinux /vmlinuz-linux\ninitrd /intel-ucode.img\ninitrd /initramfs-linux.img\n"
            "options root=PARTUUID=1234 rw\n"
        ),
        "/loader/entries/arch-fallback.conf": (
            "title Arch Linux (fallback)\nlinux /vmlinuz-linux\ninitrd /initramfs-linux-fallback.img\n"
            "options root=PARTUUID=1234 rw\n"
        ),
        "/vmlinuz-linux": bzimage("6.9.1-arch1-1"),
        "/intel-ucode.img": initramfs(()),
        "/initramfs-linux.img": initramfs(VIRTIO, "6.9.1-arch1-1"),
        "/initramfs-linux-fallback.img": initramfs(EVERY, "6.9.1-arch1-1"),
        **more,
    }


def arch_root() -> dict[str, str | bytes]:
    return {
        "/usr/lib/os-release": 'NAME="Arch Linux"\nPRETTY_NAME="Arch Linux"\nID=arch\nBUILD_ID=rolling\n',
        "/etc/os-release": "->../usr/lib/os-release",
        "/etc/hostname": "archbox\n",
        "/etc/fstab": "UUID=AA /boot vfat rw 0 2\nPARTUUID=1234 / ext4 rw 0 1\n",
        "/usr/bin/": "",
        "/bin": "->usr/bin",
        "/lib": "->usr/lib",
        **modules("6.9.1-arch1-1"),
    }


def test_arch_with_systemd_boot_reads_the_version_from_the_kernel(lab: Lab) -> None:
    lab.add("disk0/1", arch_esp(), fstype="vfat", uuid="AA")
    lab.add("disk0/2", arch_root(), uuid="r00t", names=("PARTUUID=1234",))
    found = lab.look("efi")
    (guest,) = found.guests
    assert (guest.id, guest.version, guest.kernel) == ("arch", "", "6.9.1-arch1-1")
    assert (guest.boot_entry, guest.firmware, guest.bootable) == ("Arch Linux", "efi", True)
    assert verdicts(guest)["pvscsi"] == "no"
    assert "/initramfs-linux.img" in evidence(guest, "pvscsi")
    assert verdicts(guest)["vmxnet3"] == "ready"
    (told,) = found.notices
    assert told.code == "no-storage-driver"
    assert "'Arch Linux (fallback)' would" in told.message


def test_a_unified_kernel_image_is_read_from_its_sections(lab: Lab) -> None:
    image = pe(
        {
            ".osrel": b'ID=arch\nPRETTY_NAME="Arch Linux"\n',
            ".cmdline": b"root=PARTUUID=1234 rw\0",
            ".uname": b"6.9.1-arch1-1",
            ".initrd": initramfs(("vmw_pvscsi", "sd_mod", "crc_t10dif"), "6.9.1-arch1-1"),
            ".linux": bzimage("6.9.1-arch1-1"),
        }
    )
    lab.add("disk0/1", {"/EFI/Linux/arch-linux.efi": image, "/EFI/BOOT/BOOTX64.EFI": ESP_SYSTEMD}, fstype="vfat")
    lab.add("disk0/2", arch_root(), uuid="r00t", names=("PARTUUID=1234",))
    (guest,) = lab.look("efi").guests
    assert (guest.kernel, guest.boot_entry, guest.firmware) == ("6.9.1-arch1-1", "Arch Linux", "efi")
    assert verdicts(guest)["pvscsi"] == "ready"
    assert "/EFI/Linux/arch-linux.efi#.initrd" in evidence(guest, "pvscsi")
    assert verdicts(guest)["ahci"] == "no"


def test_a_separate_usr_gives_release_and_modules(lab: Lab) -> None:
    root = {
        "/etc/fstab": "UUID=r00t / ext4 defaults 0 1\nUUID=u5r /usr ext4 defaults 0 1\n",
        "/etc/hostname": "old01\n",
        "/etc/os-release": "->../usr/lib/os-release",
        "/usr/": "",
        "/bin": "->usr/bin",
        "/lib": "->usr/lib",
        **debian_boot(),
    }
    lab.add("disk0/1", root, uuid="r00t")
    usr = {"/bin/sh": elf(), "/share/": "", "/lib/os-release": DEBIAN, **modules(base="/lib/modules")}
    lab.add("disk0/2", usr, uuid="u5r")
    found = lab.look()
    (guest,) = found.guests
    assert (guest.id, guest.version, guest.hostname) == ("debian", "12", "old01")
    assert ready(guest) == {*ALL_STORAGE, "vmxnet3", "e1000e", "e1000"}
    assert found.roles["disk0/2"] == "/usr"


def test_an_image_based_system_is_known_by_its_usr(lab: Lab) -> None:
    release = os_release("flatcar", "3815.2.0", "Flatcar Container Linux by Kinvolk 3815.2.0", "ID_LIKE=coreos\n")
    usr = {"/bin/sh": elf(), "/share/": "", "/lib/os-release": release, **modules(base="/lib/modules")}
    lab.add("disk0/3", usr, label="USR-A", names=("PARTLABEL=USR-A",))
    lab.add("disk0/9", {"/lost+found/": "", "/var/lib/": ""}, label="ROOT")
    (guest,) = lab.look("efi").guests
    assert (guest.id, guest.version, guest.arch) == ("flatcar", "3815.2.0", "x86_64")
    assert (guest.key, guest.bootable) == ("disk0/3", False)


def test_the_host_of_virtual_machines_comes_before_its_guests(lab: Lab) -> None:
    guest_files = {**debian_root("guest"), **debian_boot("/boot", "guest"), "/etc/hostname": "vm07\n"}
    lab.add("lvm/a/vm07", guest_files, uuid="guest")
    host = {**debian_root("host"), "/etc/hostname": "kvmhost\n"}
    host["/etc/libvirt/qemu/vm07.xml"] = "<disk type='block'><source dev='/dev/a/vm07'/></disk>"
    lab.add("lvm/z/root", host, uuid="host")
    lab.add("disk0/1", debian_boot("", "host"), uuid="b00t")
    found = lab.look()
    assert [guest.hostname for guest in found.guests] == ["kvmhost", "vm07"]
    assert [guest.bootable for guest in found.guests] == [True, False]


def test_a_root_that_no_menu_names_comes_after_one_that_is_named(lab: Lab) -> None:
    lab.add("disk0/1", {**debian_root("old"), "/etc/hostname": "restored\n"}, uuid="old")
    lab.add("disk0/2", {**debian_root("live"), "/etc/hostname": "live\n"}, uuid="live")
    lab.add("disk0/3", debian_boot("", "live"), uuid="b00t")
    found = lab.look()
    assert [(guest.hostname, guest.bootable) for guest in found.guests] == [("live", True), ("restored", False)]
    assert verdicts(found.guests[1])["pvscsi"] == "unknown"


def test_an_encrypted_root_is_described_by_its_boot_files(lab: Lab) -> None:
    entry = grub_entry(
        "Debian GNU/Linux", f"/vmlinuz-{K}", f"/initrd.img-{K}", "root=/dev/mapper/debian--vg-root ro", search="b00t"
    )
    image = initramfs(lists=True, extra={"cryptroot/crypttab": b"sda5_crypt UUID=1ceb none luks\n"})
    boot = {
        "/grub/grub.cfg": GRUB_HEAD % "0" + entry,
        "/grub/i386-pc/normal.mod": b"",
        f"/vmlinuz-{K}": bzimage(K),
        f"/initrd.img-{K}": image,
    }
    lab.add("disk0/1", boot, uuid="b00t")
    lab.add("disk0/5", None, fstype="crypto_LUKS", uuid="1ceb")
    found = lab.look()
    (guest,) = found.guests
    assert (guest.os_type, guest.id, guest.version, guest.pretty_name) == ("linux", "debian", "12", "Debian GNU/Linux")
    assert (guest.key, guest.place, guest.kernel, guest.arch) == ("disk0/5", "volume disk0/5", K, "x86_64")
    assert ready(guest) >= ALL_STORAGE
    assert "no-storage-driver" not in codes(found)


def test_an_encrypted_rhel_is_named_by_its_initramfs(lab: Lab) -> None:
    options = "root=/dev/mapper/rl-root ro rd.luks.uuid=luks-1ceb rd.lvm.lv=rl/root"
    image = initramfs(
        VIRTIO,
        RHEL_K,
        lists=True,
        extra={
            "usr/lib/initrd-release": os_release("rocky", "9.3", "Rocky Linux 9.3 (Blue Onyx) dracut-057").encode(),
            "etc/hostname": b"rocky9\n",
        },
    )
    lab.add(
        "disk0/1",
        {
            "/grub2/grub.cfg": GRUB_HEAD % "${saved_entry}" + "blscfg\n",
            "/grub2/grubenv": "saved_entry=0\n",
            f"/loader/entries/abc-{RHEL_K}.conf": bls(RHEL_K, "Rocky Linux", options),
            f"/vmlinuz-{RHEL_K}": bzimage(RHEL_K),
            f"/initramfs-{RHEL_K}.img": image,
        },
        uuid="b00t",
    )
    lab.add("disk0/2", None, fstype="crypto_LUKS", uuid="1ceb")
    (guest,) = lab.look().guests
    assert (guest.id, guest.version, guest.hostname) == ("rocky", "9.3", "rocky9")
    assert verdicts(guest)["pvscsi"] != "ready"


WINDOWS = WindowsSystem(root="/Windows", machine="x86_64", version=VersionFacts(major=10, minor=0, build=20348))


def with_windows(lab: Lab) -> None:
    facts = VolumeFacts(roles=("windows",), windows=WindowsFacts(system=WINDOWS))
    lab.volumes.append(InspectedFacts("volume disk0/3", "disk0/3", 0, "ntfs", facts=facts))


@pytest.mark.parametrize(
    ("options", "crypttab"),
    [
        ("cryptdevice=UUID=beef:root", b""),
        ("cryptdevice=/dev/disk/by-uuid/beef:root", b""),
        ("rd.luks.uuid=luks-beef", b""),
        ("rd.luks.uuid=beef", b""),
        ("rd.luks.name=beef=root", b""),
        ("quiet", b"root UUID=beef none luks\n"),
    ],
)
def test_of_several_encrypted_volumes_the_one_that_is_opened_at_boot_counts(
    lab: Lab, options: str, crypttab: bytes
) -> None:
    entry = grub_entry("Ubuntu", f"/vmlinuz-{K}", f"/initrd.img-{K}", f"root=/dev/mapper/root ro {options}")
    image = initramfs(extra={"cryptroot/crypttab": crypttab})
    boot = {"/grub/grub.cfg": GRUB_HEAD % "0" + entry, f"/vmlinuz-{K}": bzimage(K), f"/initrd.img-{K}": image}
    lab.add("disk0/1", boot)
    lab.add("disk0/2", None, fstype="crypto_LUKS", uuid="dead")
    lab.add("disk0/3", None, fstype="crypto_LUKS", uuid="beef")
    (guest,) = lab.look().guests
    assert (guest.key, guest.id) == ("disk0/3", "ubuntu")


@pytest.mark.parametrize(("fallback", "title"), [(ESP_SYSTEMD, "Arch Linux"), (ESP_GRUB, "Arch by GRUB")])
def test_of_two_menus_on_an_esp_the_fallback_loader_reads_one(lab: Lab, fallback: bytes, title: str) -> None:
    menu = grub_entry("Arch by GRUB", "/vmlinuz-linux", "/initramfs-linux.img", "root=PARTUUID=1234")
    lab.add("disk0/1", arch_esp(**{"/EFI/BOOT/BOOTX64.EFI": fallback, "/EFI/arch/grub.cfg": menu}), fstype="vfat")
    lab.add("disk0/2", arch_root(), uuid="r00t", names=("PARTUUID=1234",))
    assert lab.look("efi").guests[0].boot_entry == title


def test_a_root_on_zfs_is_described_by_its_boot_files(lab: Lab) -> None:
    version = "6.8.12-1-pve"
    esp = {
        "/EFI/BOOT/BOOTX64.EFI": ESP_SYSTEMD,
        "/loader/loader.conf": "default proxmox-*\n",
        f"/loader/entries/proxmox-{version}.conf": (
            f"title Proxmox Virtual Environment\nversion {version}\nlinux /EFI/proxmox/{version}/vmlinuz-{version}\n"
            f"initrd /EFI/proxmox/{version}/initrd.img-{version}\noptions root=ZFS=rpool/ROOT/pve-1 boot=zfs\n"
        ),
        f"/EFI/proxmox/{version}/vmlinuz-{version}": bzimage(version),
        f"/EFI/proxmox/{version}/initrd.img-{version}": initramfs(EVERY, version, lists=True),
    }
    lab.add("disk0/2", esp, fstype="vfat")
    lab.add("disk0/3", None, fstype="zfs_member", label="rpool")
    (guest,) = lab.look("efi").guests
    assert (guest.id, guest.pretty_name, guest.kernel) == ("debian", "Proxmox Virtual Environment", version)
    assert (guest.key, guest.bootable, guest.firmware) == ("disk0/3", True, "efi")
    assert ready(guest) >= ALL_STORAGE


@pytest.mark.parametrize(
    ("modules_of_grub", "mountpoint", "machine", "firmware"),
    [
        (("i386-pc",), "/boot/efi", "efi", "bios"),
        (("x86_64-efi",), "/srv", "bios", "efi"),
        (("i386-pc", "x86_64-efi"), "/srv", "bios", "bios"),
        (("i386-pc", "x86_64-efi"), "/srv", "efi", "efi"),
        ((), "/boot/efi", "efi", "efi"),
        ((), "/boot/efi", "bios", None),  # its disks decide, which may have a BIOS loader beside the ESP
        ((), "/srv", "efi", None),
    ],
)
def test_the_firmware_of_a_system_is_what_its_boot_loader_is_for(
    lab: Lab, modules_of_grub: tuple[str, ...], mountpoint: str, machine: str, firmware: str | None
) -> None:
    files = {**debian_root(), **debian_boot()}
    del files["/boot/grub/i386-pc/normal.mod"]
    files |= {f"/boot/grub/{name}/normal.mod": b"" for name in modules_of_grub}
    files["/etc/fstab"] = f"UUID=r00t / ext4 defaults 0 1\nUUID=AA {mountpoint} vfat defaults 0 1\n"
    lab.add("disk0/1", {"/EFI/BOOT/BOOTX64.EFI": ESP_GRUB}, fstype="vfat", uuid="AA")
    lab.add("disk0/2", files, uuid="r00t")
    assert lab.look(machine).guests[0].firmware == firmware


def test_an_old_menu_under_the_mount_of_boot_does_not_count(lab: Lab) -> None:
    old = grub_entry("Forgotten", f"/boot/vmlinuz-{K}", f"/boot/initrd.img-{K}", "root=UUID=r00t ro")
    files = {**debian_root(), **debian_boot(), "/boot/grub/grub.cfg": GRUB_HEAD % "0" + old}
    files["/etc/fstab"] = "UUID=r00t / ext4 defaults 0 1\nUUID=b00t /boot ext4 defaults 0 1\n"
    lab.add("disk0/1", files, uuid="r00t")
    lab.add("disk0/2", debian_boot(""), uuid="b00t")
    assert lab.look().guests[0].boot_entry == "Debian GNU/Linux"


@pytest.mark.parametrize(("machine", "title"), [("efi", "by UEFI"), ("bios", "by BIOS")])
def test_of_two_menus_the_one_for_the_machines_firmware_counts(lab: Lab, machine: str, title: str) -> None:
    for key, name, directory in (("disk0/1", "by BIOS", "i386-pc"), ("disk0/2", "by UEFI", "x86_64-efi")):
        menu = grub_entry(name, f"/vmlinuz-{K}", f"/initrd.img-{K}", "root=UUID=r00t ro")
        files = {**debian_boot(""), "/grub/grub.cfg": GRUB_HEAD % "0" + menu}
        del files["/grub/i386-pc/normal.mod"]
        lab.add(key, {**files, f"/grub/{directory}/normal.mod": b""})
    lab.add("disk0/3", debian_root(), uuid="r00t")
    guest = lab.look(machine).guests[0]
    assert (guest.boot_entry, guest.firmware) == (title, machine)


@pytest.mark.parametrize(
    ("in_image", "kernels", "version"), [(K, (), K), (K, ("5.10",), K), (None, (K,), K), (None, (K, "5.10"), None)]
)
def test_a_kernel_without_a_version_gets_that_of_its_modules(
    lab: Lab, in_image: str | None, kernels: tuple[str, ...], version: str | None
) -> None:
    root = {name: text for name, text in debian_root().items() if "/modules/" not in name}
    for name in kernels:
        root |= modules(name)
    boot = {
        "/boot/grub/grub.cfg": GRUB_HEAD % "0"
        + grub_entry("D", "/boot/vmlinuz", "/boot/initrd.img", "root=UUID=r00t ro"),
        "/boot/vmlinuz": b"no header",
        "/boot/initrd.img": initramfs(EVERY, in_image) if in_image else initramfs(()),
    }
    lab.add("disk0/1", {**root, **boot}, uuid="r00t")
    assert lab.look().guests[0].kernel == version


def test_a_fstab_that_mounts_an_esp_means_nothing_without_one(lab: Lab) -> None:
    files = {**debian_root(), **debian_boot(), "/etc/fstab": "UUID=AA /boot/efi vfat defaults 0 1\n"}
    del files["/boot/grub/i386-pc/normal.mod"]
    lab.add("disk0/2", files, uuid="r00t")
    assert lab.look("bios").guests[0].firmware is None


def test_beside_windows_the_menu_that_starts_first_decides(lab: Lab) -> None:
    lab.add("disk0/1", {"/EFI/BOOT/BOOTX64.EFI": ESP_GRUB, "/EFI/debian/grubx64.efi": ESP_GRUB}, fstype="vfat")
    lab.add("disk0/2", {**debian_root(), **debian_boot()}, uuid="r00t")
    with_windows(lab)
    found = lab.look("efi")
    assert [guest.os_type for guest in found.guests] == ["linux", "windows"]
    assert "several-systems" in codes(found)


def test_a_menu_whose_default_hands_over_to_windows_makes_windows_the_first(lab: Lab) -> None:
    chain = (
        "menuentry 'Windows Boot Manager (on /dev/sda1)' --class windows {\n"
        "\tchainloader /EFI/Microsoft/Boot/bootmgfw.efi\n}\n"
    )
    files = {**debian_root(), **debian_boot()}
    files["/boot/grub/grub.cfg"] = (
        str(files["/boot/grub/grub.cfg"]).replace('set default="0"', 'set default="1"') + chain
    )
    lab.add("disk0/2", files, uuid="r00t")
    with_windows(lab)
    assert [guest.os_type for guest in lab.look("bios").guests] == ["windows", "linux"]


def test_an_esp_without_the_loader_that_new_machines_look_for_is_told(lab: Lab) -> None:
    esp = {"/EFI/debian/grubx64.efi": ESP_GRUB, "/EFI/debian/shimx64.efi": ESP_SHIM}
    lab.add("disk0/1", esp, fstype="vfat")
    lab.add("disk0/2", {**debian_root(), **debian_boot()}, uuid="r00t")
    assert "efi-fallback-missing" in codes(lab.look("efi"))
    assert "efi-fallback-missing" not in codes(lab.look("bios"))
    (told,) = [notice for notice in lab.look("efi").notices if notice.code == "efi-fallback-missing"]
    assert "debian/grubx64.efi" in told.message


def test_a_shim_that_has_nothing_to_start_is_no_loader(lab: Lab) -> None:
    lab.add("disk0/1", {"/EFI/BOOT/BOOTX64.EFI": ESP_SHIM, "/EFI/debian/grubx64.efi": ESP_GRUB}, fstype="vfat")
    lab.add("disk0/2", {**debian_root(), **debian_boot()}, uuid="r00t")
    (told,) = lab.look("efi").notices
    assert told.code == "efi-fallback-missing"
    assert r"\EFI\BOOT\GRUBX64.EFI" in told.message


def test_a_data_volume_is_no_system(lab: Lab) -> None:
    facts = lab.add("disk0/1", {"/srv/kernel-notes.txt": "x", "/linux-6.1/README": "x", "/kernel-plan": "x"})
    assert facts is not None
    assert (facts.systems, facts.boots, facts.kernels) == ((), (), ())
    assert lab.look().guests == ()


def test_a_mistake_in_putting_together_is_told_and_costs_nothing_else(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lab.add("disk0/1", debian_root(), uuid="r00t")
    monkeypatch.setattr(assembling, "Boots", None)
    found = lab.look()
    assert (found.guests, codes(found)) == ((), ["inspection-failed"])
    assert "putting together" in caplog.text


def test_a_system_without_boot_files_says_so(lab: Lab) -> None:
    lab.add("disk0/1", debian_root(), uuid="r00t")
    found = lab.look()
    (guest,) = found.guests
    assert codes(found) == ["boot-files-not-found"]
    assert verdicts(guest)["pvscsi"] == "unknown"
    assert verdicts(guest)["vmxnet3"] == "likely"
