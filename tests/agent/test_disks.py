# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks count as sources, on a hand-made sysfs with image files in the place of devices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, need, run, write_tree

from coldmig_agent.discovery import disks, firmware, tpm
from coldmig_agent.discovery.disks import Source


class Machine:
    """A sysfs, a /dev and a /run below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.opened: list[Path] = []
        for name in ("sys/block", "sys/class/block", "dev", "run"):
            (root / name).mkdir(parents=True)

    def add(self, name: str, place: str, size: int = 8 * MIB, content: bytes = b"", **files: str) -> Path:
        path = empty_image(self.root / "dev" / name, size)
        with path.open("r+b") as file:
            file.write(content)
        base = f"sys/devices/{place}/block/{name}"
        defaults = {"size": f"{size // 512}\n", "dev": "8:0\n", "queue/logical_block_size": "512\n"}
        write_tree(self.root, {f"{base}/{key}": value for key, value in {**defaults, **files}.items()})
        (self.root / "sys/block" / name).symlink_to(self.root / base)
        (self.root / "sys/class/block" / name).symlink_to(self.root / base)
        return path

    def read(self) -> list[Source]:
        self.opened.clear()
        return disks.read_machine_disks(self.root / "sys", self.root / "dev", self.root / "run", self.opened.append)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_disk_is_described_with_what_the_kernel_knows(machine: Machine) -> None:
    machine.add(
        "sda",
        "pci0/host0/target0:0:0/0:0:0:0",
        **{
            "device/vendor": "DELL    \n",
            "device/model": "PERC H710P\n",
            "device/wwid": "t10.ATA     QEMU   1\n",
            "queue/rotational": "1\n",
        },
    )
    vpd = machine.root / "sys/devices/pci0/host0/target0:0:0/0:0:0:0/block/sda/device/vpd_pg80"
    vpd.write_bytes(b"\x00\x80\x00\x08SER 1234")
    (source,) = machine.read()
    disk = source.disk
    assert (disk.index, disk.size_bytes, disk.logical_sector) == (0, 8 * MIB, 512)
    assert (disk.model, disk.serial, disk.wwn, disk.rotational) == (
        "DELL PERC H710P",
        "SER 1234",
        "t10.ATA QEMU 1",
        True,
    )
    assert (disk.table, disk.partitions) == (None, ())


def test_the_serial_number_may_come_from_udev(machine: Machine) -> None:
    machine.add("sda", "pci0/host0", dev="8:16\n")
    write_tree(machine.root, {"run/udev/data/b8:16": "S:disk/by-id/x\nE:ID_SERIAL_SHORT=QM00001\nE:ID_MODEL=QEMU\n"})
    (source,) = machine.read()
    assert (source.disk.serial, source.disk.model) == ("QM00001", "QEMU")


@pytest.mark.parametrize("name", ["loop0", "ram0", "zram0", "sr0", "fd0", "dm-0", "nbd0", "md127", "mtdblock0"])
def test_what_is_no_disk_is_never_opened(machine: Machine, name: str) -> None:
    machine.add(name, "virtual")
    assert machine.read() == []
    assert machine.opened == []


def test_an_empty_card_reader_is_left_out(machine: Machine) -> None:
    machine.add("sdb", "pci0/host1", size=0)
    assert machine.read() == []


def test_every_disk_passes_the_fence_before_it_is_read(machine: Machine) -> None:
    path = machine.add("sda", "pci0/host0")

    def refuse(found: Path) -> None:
        raise RuntimeError(str(found))

    with pytest.raises(RuntimeError, match=str(path)):
        disks.read_machine_disks(machine.root / "sys", machine.root / "dev", machine.root / "run", refuse)


def test_the_live_medium_is_left_out_by_its_device(machine: Machine) -> None:
    machine.add("sda", "pci0/host0")
    machine.add("sdb", "pci0/usb1")
    write_tree(machine.root, {"run/coldmig/medium.json": json.dumps({"device": "/dev/sdb", "in_ram": True})})
    assert [Path(source.disk.path).name for source in machine.read()] == ["sda"]


def test_the_live_medium_is_left_out_also_when_a_partition_of_it_was_used(machine: Machine) -> None:
    machine.add("sdb", "pci0/usb1")
    part = machine.root / "sys/devices/pci0/usb1/block/sdb/sdb1"
    write_tree(part, {"partition": "1\n"})
    (machine.root / "sys/class/block/sdb1").symlink_to(part)
    write_tree(machine.root, {"run/coldmig/medium.json": json.dumps({"device": "/dev/sdb1"})})
    assert machine.read() == []


def test_any_stick_with_one_of_our_isos_is_left_out(machine: Machine) -> None:
    descriptor = bytearray(17 * 2048)
    descriptor[32768 : 32768 + 6] = b"\x01CD001"
    descriptor[32808:32840] = b"COLDMIG_1_0123456789abcdef".ljust(32)
    machine.add("sdb", "pci0/usb1", content=bytes(descriptor))
    assert machine.read() == []


def test_damaged_words_about_the_medium_do_no_harm(machine: Machine) -> None:
    machine.add("sda", "pci0/host0")
    for text in ("", "{", "[]", '{"device": 5}', '{"device": null}'):
        write_tree(machine.root, {"run/coldmig/medium.json": text})
        assert len(machine.read()) == 1


def test_disks_that_can_boot_come_first_and_the_rest_in_bus_order(machine: Machine) -> None:
    need("sgdisk")
    machine.add("sda", "pci0/host10")
    machine.add("sdb", "pci0/host2")
    boot = machine.add("sdc", "pci1/host3", size=64 * MIB)
    run("sgdisk", "-n1:2048:+1M", "-t1:ef02", boot)
    names = [(source.disk.index, Path(source.disk.path).name) for source in machine.read()]
    assert names == [(0, "sdc"), (1, "sdb"), (2, "sda")]


def test_4k_sectors_and_two_paths_to_one_disk_are_noticed(machine: Machine) -> None:
    machine.add("sda", "pci0/host0", wwid="naa.1\n", **{"queue/logical_block_size": "4096\n"})
    machine.add("sdb", "pci0/host1", wwid="naa.1\n")
    codes = {notice.code for notice in disks.notices(machine.read())}
    assert codes == {"disk-4k-sectors", "disk-multipath"}


def test_encrypted_and_lvm_volumes_are_noticed(machine: Machine) -> None:
    machine.add("sda", "pci0/host0", content=b"LUKS\xba\xbe\x00\x01" + bytes(5000))
    machine.add("sdb", "pci0/host1", content=bytes(512) + b"LABELONE" + bytes(16) + b"LVM2 001" + bytes(5000))
    found = machine.read()
    assert {notice.code for notice in disks.notices(found)} == {"encrypted-luks", "volume-not-inspected"}
    write_tree(machine.root, {"sys/class/tpm/tpm0/tpm_version_major": "2\n"})
    (notice,) = tpm.notices(machine.root / "sys", found)
    assert notice.code == "tpm-encrypted"
    assert "recovery key" in notice.message


def test_a_tpm_alone_is_mentioned_and_none_is_not(machine: Machine) -> None:
    assert tpm.notices(machine.root / "sys", []) == []
    write_tree(machine.root, {"sys/class/tpm/tpm0/tpm_version_major": "2\n"})
    assert [notice.code for notice in tpm.notices(machine.root / "sys", [])] == ["tpm-present"]


def table_source(tmp_path: Path, *parts: str, boot_code: bool = False) -> Source:
    need("sgdisk")
    path = empty_image(tmp_path / "disk.img", 64 * MIB)
    run("sgdisk", *parts, path)
    if boot_code:
        with path.open("r+b") as file:
            file.write(b"\xeb\x63\x90")
    (source,) = disks.read_image_files([path])
    return source


BIOS_BOOT, ESP = ("-n1:2048:+1M", "-t1:ef02"), ("-n2:0:+16M", "-t2:ef00")


@pytest.mark.parametrize(
    ("parts", "live", "expected"),
    [
        (ESP, "bios", "efi"),
        (BIOS_BOOT, "efi", "bios"),
        ((*BIOS_BOOT, *ESP), "efi", "efi"),
        ((*BIOS_BOOT, *ESP), "bios", "bios"),
        (("-n1:0:0",), "bios", "bios"),
    ],
    ids=["only ESP", "only BIOS-boot", "both, live EFI", "both, live BIOS", "neither"],
)
def test_the_disks_decide_the_firmware(tmp_path: Path, parts: tuple[str, ...], live: str, expected: str) -> None:
    decided, notices = firmware.decide([table_source(tmp_path, *parts)], live)
    assert decided == expected
    assert [notice.code for notice in notices] == (["firmware-mismatch"] if decided != live else [])


def test_an_mbr_disk_with_a_boot_loader_is_bios(tmp_path: Path) -> None:
    need("sfdisk")
    path = empty_image(tmp_path / "disk.img", 64 * MIB)
    run("sfdisk", "-q", path, stdin=b"label: dos\nstart=2048, type=83, bootable\n")
    with path.open("r+b") as file:
        file.write(b"\xeb\x63\x90")
    assert firmware.decide(disks.read_image_files([path]), "efi")[0] == "bios"


def test_secure_boot_is_read_after_the_attributes(tmp_path: Path) -> None:
    assert firmware.secure_boot(tmp_path) is None
    name = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    write_tree(tmp_path, {name: b"\x06\0\0\0\x01"})
    assert firmware.secure_boot(tmp_path) is True
    assert firmware.live_firmware(tmp_path) == "efi"


def test_an_image_file_stands_for_a_disk(tmp_path: Path) -> None:
    path = empty_image(tmp_path / "disk.img", 8 * MIB)
    (source,) = disks.read_image_files([path])
    assert (source.disk.path, source.disk.size_bytes) == (str(path), 8 * MIB)
    for size in (0, 1000):
        with pytest.raises(ValueError, match="512-byte sectors"):
            disks.read_image_files([empty_image(path, size)])
