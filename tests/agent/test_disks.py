# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks count as sources, on a hand-made sysfs with image files in the place of devices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, need, run, write_tree
from machine_lab import Machine

from coldmig_agent.discovery import blockdevices, disks, medium, tables
from coldmig_agent.discovery.blockdevices import transport_of


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


def test_a_maker_that_stands_in_the_model_already_is_not_repeated(machine: Machine) -> None:
    machine.add("sda", "pci0/host0", **{"device/vendor": "QEMU    \n", "device/model": "QEMU HARDDISK\n"})
    assert machine.read()[0].disk.model == "QEMU HARDDISK"


def test_the_serial_number_may_come_from_udev(machine: Machine) -> None:
    machine.add("sda", "pci0/host0", dev="8:16\n")
    write_tree(machine.root, {"run/udev/data/b8:16": "S:disk/by-id/x\nE:ID_SERIAL_SHORT=QM00001\nE:ID_MODEL=QEMU\n"})
    (source,) = machine.read()
    assert (source.disk.serial, source.disk.model) == ("QM00001", "QEMU")


@pytest.mark.parametrize(
    "name",
    ["loop0", "ram0", "zram0", "sr0", "fd0", "dm-0", "nbd0", "md127", "mtdblock0", "mmcblk0boot0", "mmcblk1rpmb"],
)
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


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"device": "/dev/sr0", "in_ram": False}, ["/dev/sr0"]),
        ({"device": None, "in_ram": False}, ["its drive"]),
        ({"device": "/dev/sr0", "in_ram": True}, []),
        ({"device": None, "in_ram": True}, []),
        ([], []),
    ],
    ids=str,
)
def test_a_medium_that_must_stay_is_told_before_the_copy(tmp_path: Path, said: object, told: list[str]) -> None:
    write_tree(tmp_path, {"coldmig/medium.json": json.dumps(said)})
    found = medium.notices(tmp_path)
    assert [(item.code, item.severity) for item in found] == [("runs-from-medium", "warning")] * len(told)
    assert all(words in item.message for words, item in zip(told, found, strict=True))


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


@pytest.mark.parametrize(
    ("place", "transport"),
    [
        ("pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda", "sata"),
        ("pci0000:00/0000:00:1a.0/usb1/1-1/1-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb", "usb"),
        ("pci0000:00/0000:02:00.0/host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0/block/sda", "sas"),
        ("pci0000:00/0000:03:00.0/host2/rport-2:0-1/target2:0:0/2:0:0:0/block/sdc", "fc"),
        ("platform/host5/session1/target5:0:0/5:0:0:0/block/sdd", "iscsi"),
        ("pci0000:00/0000:04:00.0/nvme/nvme0/nvme0n1", "nvme"),
        ("pci0000:00/0000:00:05.0/virtio2/block/vda", "virtio"),
        ("pci0000:00/0000:00:14.0/mmc_host/mmc0/mmc0:0001/block/mmcblk0", "mmc"),
        ("vbd-51712/block/xvda", "xen"),
        ("pci0000:00/0000:02:01.0/host0/target0:2:0/0:2:0:0/block/sda", "scsi"),
        ("LNXSYSTM:00/block/odd", ""),
    ],
)
def test_the_way_to_a_disk_is_told_by_its_place(place: str, transport: str) -> None:
    assert transport_of(f"/sys/devices/{place}") == transport


def test_an_nvme_disk_with_two_controllers_is_where_its_first_one_is(machine: Machine) -> None:
    machine.add("nvme0n1", "virtual/nvme-subsystem/nvme-subsys0")
    entry = machine.root / "sys/devices/virtual/nvme-subsystem/nvme-subsys0"
    moved = entry / "nvme0n1"
    (entry / "block/nvme0n1").rename(moved)
    for name in ("sys/block", "sys/class/block"):
        link = machine.root / name / "nvme0n1"
        link.unlink()
        link.symlink_to(moved)
    for number, slot in ((0, "09.0"), (1, "05.0")):
        controller = machine.root / f"sys/devices/pci0000:00/0000:00:{slot}/nvme/nvme{number}"
        write_tree(controller, {"transport": "pcie\n"})
        (entry / f"nvme{number}").symlink_to(controller)
    (found,) = blockdevices.block_devices(*(machine.root / name for name in ("sys", "dev", "run")))
    assert "/0000:00:05.0/nvme/nvme1/" in found.place
    assert found.transport == "nvme"


SAN = "pci0000:00/0000:00:03.0/host{0}/rport-{0}:0-1/target{0}:0:0/{0}:0:0:0"


def test_paths_to_one_disk_are_one_source(machine: Machine) -> None:
    content = b"the same bytes" * 100
    for host, name in ((1, "sdc"), (2, "sda"), (3, "sdb")):
        machine.add(name, SAN.format(host), content=content, wwid="naa.600508b4\n")
    machine.add("sdd", SAN.format(4), content=content, wwid="naa.600508b5\n")
    first, second = machine.read()
    assert Path(first.disk.path).name == "sdc"
    assert [Path(path).name for path in first.disk.paths] == ["sda", "sdb"]
    assert Path(second.disk.path).name == "sdd"
    assert (second.disk.index, second.disk.paths) == (1, ())
    assert len(machine.opened) == 4


def test_the_path_that_gives_data_is_copied(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.add("sda", SAN.format(1), content=b"data", wwid="naa.600508b4\n")
    machine.add("sdb", SAN.format(2), content=b"data", wwid="naa.600508b4\n")
    real = disks.open_reader

    def in_reserve(path: Path) -> tuple[int, tables.ReadAt]:
        fd, read = real(path)
        return (fd, lambda _offset, _length: b"") if path.name == "sda" else (fd, read)

    monkeypatch.setattr(disks, "open_reader", in_reserve)
    (source,) = machine.read()
    assert Path(source.disk.path).name == "sdb"
    assert [Path(path).name for path in source.disk.paths] == ["sda"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"wwid": "naa.1\n"}, {"wwid": "naa.2\n"}),
        ({"wwid": "naa.1\n", "serial": "A\n"}, {"wwid": "naa.1\n", "serial": "B\n"}),
        ({"wwid": "eui.0000000000000000\n"}, {"wwid": "eui.0000000000000000\n"}),
        ({}, {}),
    ],
    ids=["other names", "other serial numbers", "a name of zeros", "no names"],
)
def test_disks_that_only_resemble_each_other_stay_two(
    machine: Machine, one: dict[str, str], other: dict[str, str]
) -> None:
    machine.add("sda", SAN.format(1), **one)
    machine.add("sdb", SAN.format(2), **other)
    assert len(machine.read()) == 2


def test_a_repeated_name_with_other_contents_or_another_size_is_another_disk(machine: Machine) -> None:
    machine.add("sda", SAN.format(1), content=b"one", wwid="naa.1\n")
    machine.add("sdb", SAN.format(2), content=b"two", wwid="naa.1\n")
    machine.add("sdc", SAN.format(3), content=b"one", wwid="naa.1\n", size=16 * MIB)
    assert len(machine.read()) == 3


def test_disks_that_can_have_one_path_only_are_never_merged(machine: Machine) -> None:
    for number in (1, 2):
        machine.add(f"sd{'_ab'[number]}", f"pci0/usb1/{number}-1/host{number}/x", wwid="naa.1\n", serial="cheap\n")
    assert len(machine.read()) == 2


def test_a_san_disk_without_a_name_is_known_by_its_serial_number(machine: Machine) -> None:
    for host, name in ((1, "sda"), (2, "sdb")):
        machine.add(name, SAN.format(host), serial="SN-1\n", **{"device/model": "LUN\n"})
    (source,) = machine.read()
    assert len(source.disk.paths) == 1


def test_an_image_file_stands_for_a_disk(tmp_path: Path) -> None:
    path = empty_image(tmp_path / "disk.img", 8 * MIB)
    (source,) = disks.read_image_files([path])
    assert (source.disk.path, source.disk.size_bytes) == (str(path), 8 * MIB)
    for size in (0, 1000):
        with pytest.raises(ValueError, match="512-byte sectors"):
            disks.read_image_files([empty_image(path, size)])
