# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a Linux system can boot: verdicts and evidence for each of VMware's devices."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
from agent_lab import write_tree
from guest_lab import (
    EVERY,
    GRUB_HEAD,
    VIRTIO,
    K,
    Lab,
    bzimage,
    codes,
    debian_boot,
    debian_root,
    evidence,
    grub_entry,
    initramfs,
    modules,
    newc,
    verdicts,
)

from coldmig_agent.guest import image
from coldmig_agent.guest.devices import DEVICES, drivers_by_alias, parse_modinfo
from coldmig_agent.guest.facts import DeviceDrivers, ImageFacts, KernelFacts, Needs
from coldmig_agent.guest.image import blacklisted
from coldmig_agent.guest.modules import module_name, read_kernel, read_kernels
from coldmig_agent.guest.readiness import Start, judge
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.machine import Guest, Readiness

STORAGE = [device.name for device in DEVICES if device.kind == "storage"]
KERNEL = KernelFacts(
    version=K,
    path=f"/lib/modules/{K}",
    modules=(
        "ahci",
        "mptbase",
        "mptsas",
        "mptscsih",
        "nvme",
        "nvme_core",
        "scsi_transport_sas",
        "sd_mod",
        "vmw_pvscsi",
    ),
    drivers=(
        DeviceDrivers("pvscsi", ("vmw_pvscsi",)),
        DeviceDrivers("lsilogic-sas", ("mptsas",)),
        DeviceDrivers("ahci", ("ahci",)),
        DeviceDrivers("nvme", ("nvme",)),
    ),
    needs=(Needs("mptsas", ("mptscsih", "mptbase", "scsi_transport_sas")), Needs("nvme", ("nvme_core",))),
    alias_source=f"/lib/modules/{K}/modules.alias",
)
IMAGE = ImageFacts(f"/boot/initrd.img-{K}", True, entries=100, modules=("sd_mod", "vmw_pvscsi"), versions=(K,))
START = Start(K, "root=UUID=1 ro", True, ("/boot/initrd.img",), IMAGE, KERNEL)


def verdict(start: Start, device: str = "pvscsi") -> Readiness:
    return next(item for item in judge(start)[0] if item.device == device)


def test_a_driver_in_the_initramfs_of_the_entry_that_boots_is_ready() -> None:
    found = verdict(START)
    assert found.verdict == "ready"
    assert found.evidence == (f"vmw_pvscsi in /boot/initrd.img-{K}",)
    assert judge(START)[1] == ("vmw_pvscsi",)


def test_a_driver_that_the_kernel_has_and_its_initramfs_has_not_does_not_count() -> None:
    found = verdict(START, "ahci")
    assert found.verdict == "no"
    assert found.evidence == (f"kernel {K} has ahci, but /boot/initrd.img-{K} does not",)


def test_a_kernel_that_was_built_without_the_driver_says_so() -> None:
    found = verdict(START, "lsilogic")
    assert found.verdict == "no"
    assert "has no mptspi" in found.evidence[0]


def test_a_built_in_driver_needs_no_initramfs() -> None:
    start = replace(START, image=None, initrds=(), kernel=replace(KERNEL, builtin=("ata_piix", "sd_mod")))
    assert verdict(start, "ide").verdict == "ready"
    assert verdict(start, "ide").evidence == ("ata_piix is built in",)
    assert verdict(start).verdict == "no"


def test_a_driver_without_what_it_needs_cannot_be_loaded() -> None:
    start = replace(START, image=replace(IMAGE, modules=("mptsas", "mptscsih", "sd_mod", "mptbase")))
    found = verdict(start, "lsilogic-sas")
    assert found.verdict == "no"
    assert "scsi_transport_sas" in found.evidence[1]
    whole = replace(START, image=replace(IMAGE, modules=(*start.image.modules, "scsi_transport_sas")))  # type: ignore[union-attr]
    assert verdict(whole, "lsilogic-sas").verdict == "ready"


def test_a_controller_without_the_driver_for_disks_is_not_enough() -> None:
    start = replace(START, image=replace(IMAGE, modules=("vmw_pvscsi", "nvme", "nvme_core")))
    assert verdict(start).verdict == "no"
    assert "sd_mod" in verdict(start).evidence[1]
    assert verdict(start, "nvme").verdict == "ready"
    assert verdict(replace(start, kernel=replace(KERNEL, builtin=("sd_mod",)))).verdict == "ready"


def test_what_the_driver_for_disks_needs_counts_too() -> None:
    kernel = replace(KERNEL, needs=(*KERNEL.needs, Needs("sd_mod", ("crc_t10dif",))))
    assert verdict(replace(START, kernel=kernel)).verdict == "no"
    image_with = replace(IMAGE, modules=("crc_t10dif", "sd_mod", "vmw_pvscsi"))
    assert verdict(replace(START, kernel=kernel, image=image_with)).verdict == "ready"


def test_a_missing_helper_is_a_doubt_where_the_built_in_ones_are_not_known() -> None:
    start = replace(START, kernel=None, image=replace(IMAGE, modules=("vmw_pvscsi",)))
    assert verdict(start).verdict == "likely"


def test_an_image_that_was_not_read_to_its_end_proves_nothing_missing() -> None:
    start = replace(START, image=replace(IMAGE, complete=False, problem="an archive ends in the middle"))
    assert verdict(start).verdict == "likely"
    assert verdict(start, "ahci").verdict == "unknown"
    assert "ends in the middle" in verdict(start, "ahci").evidence[0]


def test_an_image_that_was_not_found_proves_nothing() -> None:
    start = replace(START, image=None, initrds=("/boot/initrd.img",))
    assert verdict(start).verdict == "unknown"
    assert verdict(start).evidence == ("/boot/initrd.img was not found",)


def test_an_image_for_another_kernel_does_not_help() -> None:
    start = replace(START, image=replace(IMAGE, versions=("5.10.0-1-amd64",)))
    assert verdict(start).verdict == "unknown"
    assert "is for kernel 5.10.0-1-amd64" in verdict(start).evidence[0]


def test_without_a_menu_nothing_is_more_than_likely() -> None:
    assert verdict(replace(START, certain=False)).verdict == "likely"


@pytest.mark.parametrize("options", ["modprobe.blacklist=vmw_pvscsi", "rd.driver.blacklist=a,vmw-pvscsi quiet"])
def test_a_driver_that_the_boot_arguments_forbid_does_not_count(options: str) -> None:
    assert verdict(replace(START, options=options)).verdict == "no"
    assert "boot arguments" in verdict(replace(START, options=options)).evidence[0]


def test_a_driver_that_modprobe_forbids_inside_the_image_does_not_count() -> None:
    assert verdict(replace(START, image=replace(IMAGE, blacklist=("vmw_pvscsi",)))).verdict == "no"
    text = "# blacklist a\nblacklist vmw-pvscsi\ninstall mptsas /bin/false\ninstall nvme /sbin/modprobe -i nvme\n"
    assert blacklisted(text) == {"vmw_pvscsi", "mptsas"}


def test_drivers_are_told_by_their_aliases_whatever_they_are_called() -> None:
    kernel = replace(KERNEL, modules=("my_pvscsi", "sd_mod"), drivers=(DeviceDrivers("pvscsi", ("my_pvscsi",)),))
    start = replace(START, kernel=kernel, image=replace(IMAGE, modules=("my_pvscsi", "sd_mod")))
    assert verdict(start).verdict == "ready"
    assert judge(start)[1] == ("my_pvscsi",)


def test_without_aliases_the_usual_names_stand_in() -> None:
    start = replace(START, kernel=replace(KERNEL, drivers=(), alias_source=""))
    assert verdict(start).verdict == "ready"


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("/dev/vda1", {"pvscsi": "no", "nvme": "no"}),
        ("/dev/xvda1", {"pvscsi": "no", "nvme": "no"}),
        ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part1", {"pvscsi": "no", "nvme": "no"}),
        ("/dev/sda2", {"pvscsi": "likely", "nvme": "no"}),
        ("/dev/nvme0n1p2", {"pvscsi": "no", "nvme": "likely"}),
        ("/dev/hda1", {"pvscsi": "no", "nvme": "no"}),
        ("/dev/mapper/vg-root", {"pvscsi": "ready", "nvme": "ready"}),
        ("/dev/disk/by-uuid/1", {"pvscsi": "ready", "nvme": "ready"}),
        ("/dev/disk/by-id/dm-uuid-LVM-x", {"pvscsi": "ready", "nvme": "ready"}),
        ("UUID=1", {"pvscsi": "ready", "nvme": "ready"}),
    ],
)
def test_a_root_named_by_its_disk_is_found_only_where_it_is_called_so_again(
    root: str, expected: dict[str, str]
) -> None:
    start = replace(
        START,
        options=f"ro root={root} quiet",
        image=replace(IMAGE, modules=("vmw_pvscsi", "sd_mod", "nvme", "nvme_core")),
    )
    assert {device: verdict(start, device).verdict for device in expected} == expected


def test_network_drivers_may_come_from_the_root_file_system() -> None:
    kernel = replace(KERNEL, modules=("e1000e",), drivers=(DeviceDrivers("e1000e", ("e1000e",)),))
    start = replace(START, kernel=kernel)
    assert verdict(start, "e1000e").verdict == "ready"
    assert verdict(start, "vmxnet3").verdict == "no"
    assert verdict(replace(start, kernel=None), "vmxnet3").verdict == "unknown"
    assert verdict(replace(start, blacklist=("e1000e",)), "e1000e").verdict == "no"


def test_aliases_are_compared_field_by_field() -> None:
    pairs = [
        ("pci:v000015ADd000007C0sv*sd*bc*sc*i*", "vmw-pvscsi"),
        ("pci:v*d*sv*sd*bc01sc06i01*", "ahci"),
        ("pci:v*d*sv*sd*bc01sc01i*", "ata_generic"),
        ("pci:v00001000d00000054sv000015ADsd*bc*sc*i*", "mptsas"),
        ("pci:v00001000d00000054sv00001028sd*bc*sc*i*", "dellsas"),
        ("pci:v000015ADd*sv*sd*bc*sc*i*", "../../evil"),
        ("pci:v" + "*" * 5000, "slow"),
        ("usb:v*p*", "usb"),
    ]
    assert drivers_by_alias(pairs) == (
        DeviceDrivers("pvscsi", ("vmw_pvscsi",)),
        DeviceDrivers("lsilogic-sas", ("mptsas",)),
        DeviceDrivers("ahci", ("ahci",)),
    )


def test_built_in_drivers_tell_their_aliases_in_modinfo() -> None:
    data = b"ahci.license=GPL\0ahci.alias=pci:v*d*sv*sd*bc01sc06i01*\0nvme.alias=pci:v*d*sv*sd*bc01sc08i02*\0"
    assert drivers_by_alias(parse_modinfo(data)) == (DeviceDrivers("ahci", ("ahci",)), DeviceDrivers("nvme", ("nvme",)))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/drivers/scsi/vmw_pvscsi.ko", "vmw_pvscsi"),
        ("a/ata-piix.ko.xz", "ata_piix"),
        ("nvme.ko.zst", "nvme"),
        ("lib/mptsas.o", "mptsas"),
        ("e1000.ko.sig", None),
        ("ko", None),
        ("x" * 100 + ".ko", None),
    ],
)
def test_a_module_is_called_by_its_file(path: str, name: str | None) -> None:
    assert module_name(path) == name


def test_kernels_without_lists_are_left_out_and_the_newest_comes_first(tmp_path: Path) -> None:
    files = {**modules("6.1"), **modules("6.10"), "/usr/lib/modules/6.2/vmlinuz": b"", "/lib": "->usr/lib"}
    root = GuestRoot.at(write_tree(tmp_path, files))
    assert [item.version for item in read_kernels(root, "/lib/modules")] == ["6.10", "6.1"]
    assert read_kernel(root, "/lib/modules/6.2", "6.2") is None


def virtio_only(lab: Lab, *, config: bool) -> Guest:
    """A system whose /lib/modules knows no list of built-in drivers, as before kernel 2.6.33."""
    root = debian_root()
    del root[f"/usr/lib/modules/{K}/modules.builtin"]
    boot = debian_boot(names=VIRTIO)
    if config:
        boot[f"/boot/config-{K}"] = "CONFIG_ATA_PIIX=y\nCONFIG_BLK_DEV_SD=y\n"
    lab.add("disk0/1", {**root, **boot}, uuid="r00t")
    return lab.look().guests[0]


def test_what_is_built_in_can_come_from_the_settings_of_the_kernel(tmp_path: Path) -> None:
    without = virtio_only(Lab(tmp_path / "a"), config=False)
    assert verdicts(without)["pvscsi"] == "unknown"
    guest = virtio_only(Lab(tmp_path / "b"), config=True)
    assert (verdicts(guest)["pvscsi"], verdicts(guest)["ide"]) == ("no", "ready")


def test_a_truncated_image_is_told_and_makes_no_verdict_firm(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    packed = gzip.compress(initramfs())
    boot = debian_boot()
    boot[f"/boot/initrd.img-{K}"] = packed[: len(packed) // 2]
    lab.add("disk0/1", {**debian_root(), **boot}, uuid="r00t")
    found = lab.look()
    assert {verdicts(found.guests[0])[name] for name in STORAGE} <= {"likely", "unknown"}
    assert "initramfs-incomplete" in codes(found)


def test_a_root_under_a_name_that_goes_is_told_as_such(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    entry = grub_entry("Debian", f"/boot/vmlinuz-{K}", f"/boot/initrd.img-{K}", "root=/dev/vda1 ro")
    lab.add("disk0/1", {**debian_root(), **debian_boot(), "/boot/grub/grub.cfg": GRUB_HEAD % "0" + entry}, uuid="r00t")
    found = lab.look()
    assert {verdicts(found.guests[0])[name] for name in STORAGE} == {"no"}
    assert codes(found) == ["root-device-name", "old-device-names"]


def test_an_image_that_is_not_there_is_told(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    boot = debian_boot()
    del boot[f"/boot/initrd.img-{K}"]
    lab.add("disk0/1", {**debian_root(), **boot}, uuid="r00t")
    found = lab.look()
    assert {verdicts(found.guests[0])[name] for name in STORAGE} == {"unknown"}
    assert codes(found) == ["boot-files-not-found"]


def test_a_cloud_kernel_without_vmware_drivers_is_told(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    cloud = "6.1.0-20-cloud-amd64"
    entry = grub_entry("Debian", f"/boot/vmlinuz-{cloud}", f"/boot/initrd.img-{cloud}", "root=UUID=r00t ro")
    files = {name: text for name, text in debian_root().items() if "/modules/" not in name}
    files |= modules(cloud, loadable=(*VIRTIO, "e1000e"))
    files |= {
        "/boot/grub/grub.cfg": GRUB_HEAD % "0" + entry,
        f"/boot/vmlinuz-{cloud}": bzimage(cloud),
        f"/boot/initrd.img-{cloud}": initramfs(VIRTIO, cloud),
    }
    lab.add("disk0/1", files, uuid="r00t")
    found = lab.look()
    guest = found.guests[0]
    assert {verdicts(guest)[name] for name in STORAGE} == {"no"}
    assert "has no vmw_pvscsi" in evidence(guest, "pvscsi")
    assert (verdicts(guest)["vmxnet3"], verdicts(guest)["e1000e"]) == ("no", "ready")
    assert codes(found) == ["no-storage-driver"]


def test_lists_inside_an_image_stand_in_for_a_root_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(initramfs(EVERY, lists=True))
    with path.open("rb") as file:
        found = image.read_part(file, "/initrd", float("inf"))
    assert found.builtin_known
    start = Start(K, "", True, ("/initrd",), found, None)
    assert {verdict(start, name).verdict for name in STORAGE} == {"ready"}


def test_an_image_tells_who_made_it_and_for_whom(tmp_path: Path) -> None:
    extra = {
        "usr/lib/dracut/build-parameter.txt": b"dracut arguments: -f '--hostonly' '--no-hostonly-cmdline'\n",
        "etc/initrd-release": b'ID="rocky"\nVERSION_ID="9.3"\nPRETTY_NAME="Rocky Linux 9.3 dracut-057"\n',
        "etc/modprobe.d/block.conf": b"blacklist nvme\n",
        "etc/crypttab": b"luks-1 UUID=1ceb none\n# x\n",
        "etc/hostname": b"rocky9\n",
    }
    (tmp_path / "image").write_bytes(newc({"kernel/x86/microcode/GenuineIntel.bin": b"x"}) + initramfs(extra=extra))
    with (tmp_path / "image").open("rb") as file:
        found = image.read_part(file, "/initrd", float("inf"))
    assert (found.complete, found.maker, found.hostonly, found.hostname) == (True, "dracut", True, "rocky9")
    assert (found.blacklist, found.crypt, found.versions) == (("nvme",), ("UUID=1ceb",), (K,))
    assert found.release is not None
    assert (found.release.id, found.release.version) == ("rocky", "9.3")


def test_no_time_left_is_said(tmp_path: Path) -> None:
    root = GuestRoot.at(write_tree(tmp_path, {"/initrd": initramfs()}))
    assert "no time left" in image.read_file(root, "/initrd", 0.0).problem
    (tmp_path / "long").write_bytes(newc({f"f{n}": b"" for n in range(600)}))
    with (tmp_path / "long").open("rb") as file:
        found = image.read_part(file, "/long", 0.0)
    assert (found.complete, found.problem) == (False, "reading it took too long")
