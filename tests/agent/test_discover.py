# SPDX-License-Identifier: GPL-3.0-or-later
"""How everything that was found becomes one description, and what is said where something is missing."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, need, run, write_tree

from coldmig_agent import discover
from coldmig_agent.discover import Roots
from coldmig_agent.discovery.disks import Source, read_image_files
from coldmig_agent.encryption.luks import Luks
from coldmig_agent.guest.assemble import Assembly
from coldmig_agent.guest.facts import EspFacts, InspectedFacts, VolumeFacts
from coldmig_agent.inspection.look import Encrypted, Look
from coldmig_agent.machine import Guest, Inspection, Notice
from coldmig_agent.warnings import notice
from coldmig_gateway.api.schemas.machine import Machine as Schema

sys.path.insert(0, str(Path(__file__).parent / "encryption"))
from bitlocker_lab import RECOVERY, TPM, volume

WINDOWS_RESERVED = "e3c9e316-0b5c-4db8-817d-f92df00215ae"


def gpt(path: Path, *parts: str) -> Source:
    need("sgdisk")
    run("sgdisk", *parts, empty_image(path, 64 * MIB))
    (source,) = read_image_files([path])
    return source


def blank(path: Path) -> Source:
    (source,) = read_image_files([empty_image(path, MIB)])
    return source


def esp(loaders: Sequence[str] | None) -> InspectedFacts:
    facts = VolumeFacts(esp=EspFacts(tuple(loaders)) if loaders is not None else None)
    return InspectedFacts("disk 0, partition 2", "disk0/2", 0, "vfat", facts=facts)


def codes(notices: Sequence[Notice]) -> list[str]:
    return [item.code for item in notices]


class Assembling:
    """In place of the real assembly: remembers for which firmware it was asked."""

    def __init__(self, guest: Guest | None) -> None:
        self.guest = guest
        self.asked: list[str] = []

    def __call__(self, volumes: Sequence[InspectedFacts], firmware: str) -> Assembly:
        self.asked.append(firmware)
        told = notice("guest-not-inspected", system=firmware)
        return Assembly((self.guest,) if self.guest else (), (told,), {volume.key: "ESP" for volume in volumes})


@pytest.fixture
def hybrid(tmp_path: Path) -> Source:
    return gpt(tmp_path / "disk.img", "-n1:2048:+1M", "-t1:ef02", "-n2:0:+16M", "-t2:ef00")


def test_the_assembly_is_asked_again_when_the_system_boots_otherwise(
    hybrid: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    assembling = Assembling(Guest("linux", firmware="efi"))
    monkeypatch.setattr(discover, "assemble", assembling)
    found = discover.find_systems([hybrid], Look((esp(["/efi/boot/bootx64.efi"]),)), "bios", None)
    assert found.firmware == "efi"
    assert assembling.asked == ["bios", "efi"]
    assert codes(found.notices) == ["firmware-mismatch", "guest-not-inspected"]
    assert "look like efi" in found.notices[1].message


def test_the_assembly_is_asked_once_when_the_disks_were_right(hybrid: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    assembling = Assembling(Guest("linux", firmware="bios"))
    monkeypatch.setattr(discover, "assemble", assembling)
    assert discover.find_systems([hybrid], Look(), "bios", None).firmware == "bios"
    assert assembling.asked == ["bios"]


@pytest.mark.parametrize(("loaders", "firmware"), [(["/efi/boot/bootx64.efi"], "efi"), ([], "bios"), (None, "bios")])
def test_a_system_partition_that_was_looked_into_counts_by_its_loaders(
    hybrid: Source, monkeypatch: pytest.MonkeyPatch, loaders: list[str] | None, firmware: str
) -> None:
    monkeypatch.setattr(discover, "assemble", Assembling(None))
    assert discover.find_systems([hybrid], Look((esp(loaders),)), "efi", None).firmware == firmware


def test_a_windows_that_cannot_be_read_is_still_called_windows(tmp_path: Path) -> None:
    reserved = gpt(tmp_path / "msr.img", "-n1:2048:+16M", f"-t1:{WINDOWS_RESERVED}")
    guest, told = discover.without_system([reserved], Look())
    assert (guest.os_type, told.code) == ("windows", "guest-not-inspected")
    closed = InspectedFacts("disk 0", "disk0", 0, "ntfs", problem="damaged")
    assert discover.without_system([blank(tmp_path / "a.img")], Look((closed,)))[0].os_type == "windows"
    data = replace(closed, problem="", facts=VolumeFacts())
    assert discover.without_system([blank(tmp_path / "a.img")], Look((data,)))[0].os_type == "unknown"


def test_a_machine_without_a_system_tells_what_its_disks_hold(tmp_path: Path) -> None:
    source = gpt(tmp_path / "disk.img", "-n1:2048:+1M", "-t1:8301", "-n2:0:+1M", "-t2:8301", "-n3:0:+1M")
    guest, told = discover.without_system([source, blank(tmp_path / "blank.img")], Look())
    assert guest == Guest()
    assert told.code == "guest-not-found"
    assert "2 of type 8da63339-0007-60c0-c436-083ac8230908, 1 of type 0fc63daf" in told.message
    assert told.message.endswith("1 unknown")


def test_a_system_that_is_only_known_by_its_partitions_is_named(tmp_path: Path) -> None:
    source = gpt(tmp_path / "disk.img", "-n1:2048:+1M", "-t1:a502", "-n2:0:+1M", "-t2:a503")
    guest, told = discover.without_system([source], Look())
    assert (guest.os_type, guest.id, guest.key) == ("freebsd", "freebsd", "disk0/2")
    assert told.code == "guest-not-inspected"
    assert "FreeBSD (version not seen" in told.message


def test_what_could_not_be_looked_into_is_told(tmp_path: Path) -> None:
    path = empty_image(tmp_path / "pv.img", MIB)
    with path.open("r+b") as file:
        file.write(bytes(512) + b"LABELONE" + bytes(16) + b"LVM2 001")
    (member,) = read_image_files([path])
    closed = InspectedFacts("disk 0, partition 1", "disk0/1", 0, "xfs", problem="mounting xfs: bad superblock")
    report = Inspection(problems=("the time of 60 s is over", "two", "three", "four"))
    look = Look((closed,), report, (Encrypted("LVM volume vg/root", "lvm/vg/root", Luks(2, slots=frozenset({0}))),))
    found = discover.look_notices([member], look)
    assert codes(found) == ["volume-not-readable", "encrypted-luks", "inspection-failed", "volume-not-inspected"]
    assert "bad superblock" in found[0].message
    assert found[1].message.startswith("LVM volume vg/root")
    assert "over; two; three;" in found[2].message
    assert "belongs to LVM" in found[3].message
    seen = InspectedFacts("LVM volume vg/root", "lvm/vg/root", None, "ext4", facts=VolumeFacts())
    assert discover.look_notices([member], Look((seen,))) == []


def test_the_gravest_come_first_each_once_and_not_more_than_the_site_takes() -> None:
    info = notice("nic-management", name="usb0", driver="cdc_ether")
    block = notice("tpm-sealed", place="x", how="y")
    warnings = [notice("storage-spaces", place=f"disk {number}") for number in range(150)]
    found = discover.ordered([info, *warnings, info, block])
    assert len(found) == discover.MAX_NOTICES
    assert found[0] == block
    assert found[1:] == tuple(warnings[:99])
    assert discover.ordered([info, block, info]) == (block, info)


def test_what_several_see_of_one_volume_is_said_once_in_the_words_of_the_first() -> None:
    told = [
        notice("hibernated", place="disk 0, partition 2", system="Windows 10 Pro"),
        notice("hibernated", place="disk 0 (/dev/sda), partition 2", system="Windows"),
        notice("hibernated", place="disk 0, partition 20", system="Windows"),
        notice("unclean-filesystem", place="disk 0, partition 2", fstype="ntfs", reason="x"),
        notice("unclean-filesystem", place="disk 1, partition 1, volume vg/root", fstype="ext4", reason="x"),
        notice("unclean-filesystem", place="disk 1, partition 1, volume vg/var", fstype="ext4", reason="x"),
    ]
    assert discover.ordered(told) == (told[0], *told[2:])


def kernel(root: Path) -> Roots:
    """A small machine with a TPM, a card and no inspection."""
    for number in range(4):
        base = f"sys/devices/system/cpu/cpu{number}/topology"
        files = {"physical_package_id": number // 2, "die_id": 0, "core_id": number % 2}
        write_tree(root, {f"{base}/{name}": f"{value}\n" for name, value in files.items()})
    write_tree(
        root,
        {
            "proc/cmdline": "quiet coldmig.inspect=no\n",
            "proc/meminfo": "MemTotal:        4000000 kB\nMemAvailable:    4000000 kB\n",
            "proc/cpuinfo": "model name\t: Xeon\n",
            "sys/class/tpm/tpm0/tpm_version_major": "2\n",
            "sys/class/net/": "",
            "sys/block/": "",
            "run/": "",
            "dev/": "",
        },
    )
    return Roots(*(root / name for name in ("sys", "proc", "dev", "run")))


def test_a_whole_machine_is_described_so_that_the_site_takes_it(tmp_path: Path) -> None:
    need("sgdisk")
    disk = empty_image(tmp_path / "disk.img", 64 * MIB)
    run("sgdisk", "-n1:2048:+32M", "-t1:ef00", "-n2:0:+16M", f"-t2:{WINDOWS_RESERVED}", "-n3:0:0", "-t3:0700", disk)
    (source,) = read_image_files([disk])
    with disk.open("r+b") as file:
        file.seek(source.volumes[2].start_bytes)
        file.write(volume([TPM, RECOVERY], "WIN-SRV1 C: 1/1/2026"))
    said: list[str] = []
    found = discover.discover(kernel(tmp_path), [disk], said.append)
    machine = found.machine
    assert (machine.name, machine.guest.os_type, machine.firmware) == ("WIN-SRV1", "windows", "efi")
    assert (machine.guest.hostname, machine.guest.key) == ("WIN-SRV1", "disk0/3")
    assert (machine.cpu.sockets, machine.cpu.cores_per_socket, machine.memory_bytes) == (2, 2, 3968 * MIB)
    assert machine.tpm is not None
    assert machine.tpm.version == "2.0"
    assert {"bitlocker-recovery-key", "guest-not-inspected", "firmware-mismatch", "tpm-present"} <= set(
        codes(machine.warnings)
    )
    severities = [item.severity for item in machine.warnings]
    assert severities == sorted(severities, key=["block", "warning", "info"].index)
    assert said[0] == "reading the partition tables"
    assert said[-1] == f"finding out what is free on disk 0 ({disk})"
    view = Schema.model_validate_json(json.dumps(machine.to_json()))
    assert view.name == "WIN-SRV1"


def test_disks_full_of_noise_are_described_all_the_same(tmp_path: Path) -> None:
    chance = random.Random(4)
    images = []
    for number in range(3):
        image = tmp_path / f"noise{number}.img"
        image.write_bytes(chance.randbytes(2 * MIB))
        images.append(image)
    machine = discover.discover(kernel(tmp_path), images).machine
    Schema.model_validate_json(json.dumps(machine.to_json()))
    assert "guest-not-found" in codes(machine.warnings)
