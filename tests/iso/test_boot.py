# SPDX-License-Identifier: GPL-3.0-or-later
"""Boots the image in QEMU: firmware and media, little memory, and disks that must not be written to.

A probe stands in for the agent (probe_agent.py); everything else is the real image.
"""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _iso_image
from ansible_collections.cda.coldmig.plugins.module_utils._iso_image import write_iso
from coldmig_iso import layer
from coldmig_iso.cache import Cache
from coldmig_iso.pipeline import AGENT_SOURCES, BuildOptions, Built, build
from coldmig_iso.squashfs import OFFSET

from e2e.qemu import Controller, Disk, Firmware, Machine, MediumAs, Nic, Running

from . import dirty_disks, odd_disks

pytestmark = pytest.mark.slow
PROBE = Path(__file__).with_name("probe_agent.py")
NIC = Nic("virtio-net-pci", "52:54:00:c0:1d:01")
# As lsblk names their transports.
CONTROLLERS = {
    Controller.VIRTIO_BLK: None,
    Controller.AHCI: "sata",
    Controller.VIRTIO_SCSI: None,
    Controller.NVME: "nvme",
}
BAD = ("Kernel panic", "^.*coldmig: No medium", "emergency mode")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(BuildOptions(agent=probe_program(tmp_path_factory.mktemp("probe"))), Cache(), print)


def probe_program(directory: Path) -> Path:
    """The agent with the probe for its main program: an executable archive, the same bytes from the same sources."""
    real, program = directory / "agent.pyz", directory / "probe.pyz"
    layer.make_agent(AGENT_SOURCES, real)
    with zipfile.ZipFile(real) as agent, program.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w") as archive:
            contents = {name: agent.read(name) for name in agent.namelist() if not name.startswith("__main__.")}
            contents["__main__.py"] = PROBE.read_bytes()
            for name in sorted(contents):
                archive.writestr(zipfile.ZipInfo(name), contents[name])
    program.chmod(0o755)
    return program


@pytest.fixture
def medium(built: Built, tmp_path: Path, site_config: dict[str, Any]) -> Path:
    dest = tmp_path / "template.iso"
    write_iso(built.path, dest, site_config, ["net.ifnames=0"])
    return dest


def probe(running: Running, seconds: float = 45) -> dict[str, Any]:
    """What the probe found; the machine goes on running."""
    line = running.wait_for(r"^PROBE (\{.*\})$", seconds, failure=BAD)
    result: dict[str, Any] = json.loads(line.group(1))
    return result


def check_live_system(found: Mapping[str, Any], medium: Path) -> None:
    assert found["config"] == _iso_image.read_slot(medium)
    assert found["config_mode"] == "0o600"
    assert "net.ifnames=0" in found["cmdline"]
    assert found["failed_units"] == []
    assert found["writable_disks"] == []
    assert found["libraries"] == 0
    assert found["tools"] == []
    assert "eth0" in found["addresses"]
    assert "10.0.2." in found["addresses"]
    assert not [unit for unit in found["running"] if "getty" in unit or "logind" in unit]
    for mount in found["efivars"]:
        assert " ro," in mount


def on_every_controller(directory: Path) -> list[Disk]:
    """One empty disk on each controller: a boot tests them all."""
    disks = []
    for controller in CONTROLLERS:
        path = directory / f"{controller}.raw"
        path.touch()
        os.truncate(path, 16 << 20)
        disks.append(Disk(path, f"ON-{controller}", controller=controller))
    return disks


@pytest.mark.parametrize(
    ("firmware", "medium_as", "secure_boot"),
    [
        (Firmware.BIOS, MediumAs.CD, False),
        (Firmware.BIOS, MediumAs.USB_STICK, False),
        pytest.param(Firmware.BIOS, MediumAs.USB_CD, False, marks=pytest.mark.long),
        (Firmware.UEFI, MediumAs.CD, False),
        pytest.param(Firmware.UEFI, MediumAs.USB_STICK, False, marks=pytest.mark.long),  # signed ones go this way too
        (Firmware.UEFI, MediumAs.CD, True),
        (Firmware.UEFI, MediumAs.USB_STICK, True),
    ],
    ids=lambda value: str(value).lower(),
)
def test_boots_to_the_agent_with_its_configuration(
    medium: Path, tmp_path: Path, firmware: Firmware, medium_as: MediumAs, secure_boot: bool
) -> None:
    machine = Machine(
        name="boot",
        directory=tmp_path,
        firmware=firmware,
        chipset="q35" if secure_boot else "pc",
        secure_boot=secure_boot,
        memory_mib=768,
        medium=medium,
        medium_as=medium_as,
        disks=on_every_controller(tmp_path),
        nics=[NIC],
    )
    with machine.start() as running:
        found = probe(running)
        stats = running.block_stats()
    check_live_system(found, medium)
    assert {row["serial"]: row["transport"] for row in found["disks"]} == {
        f"ON-{controller}": transport for controller, transport in CONTROLLERS.items()
    }
    assert all(one.untouched for one in stats)
    assert found["medium"]["in_ram"] is True
    assert found["medium"]["device"].startswith("/dev/sr" if medium_as is not MediumAs.USB_STICK else "/dev/sd")
    assert found["efi"] is (firmware is Firmware.UEFI)
    assert bool(found["efivars"]) is (firmware is Firmware.UEFI)
    assert found["available_mib"] > 350


def test_firmware_entry_needs_no_driver_for_the_medium(medium: Path, tmp_path: Path) -> None:
    choose_entry(medium, "firmware")
    machine = Machine(name="firmware", directory=tmp_path, memory_mib=768, medium=medium, nics=[NIC])
    with machine.start() as running:
        found = probe(running, 60)
    check_live_system(found, medium)
    assert found["medium"]["device"] is None


def test_runs_from_the_medium_when_memory_is_short(medium: Path, tmp_path: Path) -> None:
    machine = Machine(name="small", directory=tmp_path, memory_mib=256, medium=medium, nics=[NIC])
    with machine.start() as running:
        found = probe(running, 60)
    check_live_system(found, medium)
    assert found["medium"]["in_ram"] is False


def test_stick_of_another_build_is_not_taken_for_the_medium(medium: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.raw"
    data = bytearray(medium.read_bytes()[: 1 << 20])
    data[16 * 2048 + 40 : 16 * 2048 + 72] = b"COLDMIG_2_FFFFFFFFFFFFFFFF".ljust(32)
    other.write_bytes(data)
    machine = Machine(
        name="two",
        directory=tmp_path,
        medium=medium,
        disks=[Disk(other, "OTHER")],
        controller=Controller.AHCI,
        nics=[NIC],
    )
    with machine.start() as running:
        found = probe(running)
    assert found["medium"]["device"] == "/dev/sr0"


def test_missing_medium_is_said_on_the_console(built: Built, tmp_path: Path) -> None:
    """The kernel and initrd alone, as a firmware leaves them whose drive the kernel cannot drive."""
    machine = Machine(
        name="nomedium",
        directory=tmp_path,
        memory_mib=512,
        extra=(
            *("-kernel", str(built.parts.system / "vmlinuz"), "-initrd", str(built.parts.initrd / "initrd.img")),
            *(
                "-append",
                "console=ttyS0 quiet loglevel=3 coldmig.volume=COLDMIG_2_0000000000000000 coldmig.find_seconds=5",
            ),
        ),
    )
    with machine.start() as running:
        running.wait_for("No medium COLDMIG_2_0000000000000000 found.*second menu entry", 60)
        running.wait_for("disks were not changed", 5)


@pytest.fixture(scope="session")
def dirty(built: Built, tmp_path_factory: pytest.TempPathFactory) -> list[Disk]:
    missing = [*dirty_disks.missing_tools(), *odd_disks.missing_tools()]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (packages mdadm, lvm2, xfsprogs, btrfs-progs, fdisk)")
    return dirty_disks.make(tmp_path_factory.mktemp("dirty"), built.parts.tree)


@pytest.mark.parametrize(("firmware", "looking"), [(Firmware.BIOS, True), (Firmware.UEFI, False)])
def test_no_source_disk_is_written_to(  # noqa: PLR0917 - fixtures and parameters
    built: Built, site_config: dict[str, Any], tmp_path: Path, dirty: list[Disk], firmware: Firmware, looking: bool
) -> None:
    """Neither by looking into everything on the disks, nor by attacks on the fence."""
    medium = tmp_path / "template.iso"
    write_iso(built.path, medium, site_config, ["net.ifnames=0", *([] if looking else ["coldmig.inspect=no"])])
    disks = [*dirty, *odd_disks.make(tmp_path, medium)]
    before = {disk.serial: dirty_disks.sha256(disk.path) for disk in disks}
    machine = Machine(
        name="fence",
        directory=tmp_path,
        firmware=firmware,
        medium=medium,
        medium_as=MediumAs.USB_STICK,
        controller=Controller.AHCI,
        disks=disks,
        nics=[NIC],
        # A machine whose clock is years off; and QEMU stays, to be asked, when the machine has powered itself off.
        extra=("-rtc", "base=2021-03-04T05:06:07", "-no-shutdown"),
    )
    variables = tmp_path / "fence.vars.fd"
    with machine.start() as running:
        # The firmware may note what it booted; from here on, long before systemd, nothing may change any more.
        running.wait_for("coldmig: Copying the live system", 60, failure=BAD)
        first = dirty_disks.sha256(variables) if variables.exists() else None
        clock = running.events.count("RTC_CHANGE")
        found = probe(running, 180)
        running.wait_for_event("SHUTDOWN", 60)
        stats = running.block_stats()
        events = running.events
    assert {disk.serial: one for disk, one in zip(disks, stats, strict=True) if not one.untouched} == {}
    assert all(one.reads for one in stats)
    assert {disk.serial: dirty_disks.sha256(disk.path) for disk in disks} == before
    assert found["complaints"] == []
    assert events.count("RTC_CHANGE") == clock
    assert (first is not None) is (firmware is Firmware.UEFI)
    assert not first or dirty_disks.sha256(variables) == first
    check_live_system(found, medium)
    assert found["medium"]["device"].startswith("/dev/sd")  # not the disk of the same name
    succeeded = {name: result for name, result in found["attacks"].items() if result["exit"] == 0}
    # The first two may mount without their log, the third falls back to read-only; the counters say: nothing written.
    assert set(succeeded) <= {"mount_btrfs", "mount_xfs", "mount_windows"}
    assert not [name for name in found["modules"] if name.startswith(("md_mod", "raid", "bcache", "zram"))]
    assert ("inspection" in found) is looking
    if looking:
        check_inspection(found["inspection"])


def check_inspection(found: Mapping[str, Any]) -> None:
    """Everything was put together and replayed on the overlays, and nothing of it is left."""
    volumes = found["volumes"]
    seen = {key: volume["hosts"] for key, volume in volumes.items() if volume["hosts"]}
    # The firmware's array is not started; each half is read as it lies there.
    assert [seen.pop(key, None) for key in ("disk2", "disk3")] == [["on-imsm"]] * 2
    # The snapshot was taken before the last change; all others show what their journals say.
    assert seen.pop("lvm/vg/before") == ["before-the-journal"]
    assert seen == {key: [host] for host, key in dirty_disks.HOSTS.items()}
    assert volumes["lvm/vg/root"]["names"] == ["/dev/mapper/vg-root", "/dev/vg/root"]
    assert "/dev/md0" in volumes["md/0"]["names"]
    # Two paths are one disk, and what is called like the medium is none of the source's.
    serials = [source["serial"] for source in found["sources"]]
    assert serials.count(odd_disks.SAN) == 1
    assert [len(source["paths"]) for source in found["sources"] if source["serial"] == odd_disks.SAN] == [1]
    assert odd_disks.NAMESAKE not in serials
    read = {key for key, volume in volumes.items() if volume["hosts"] is not None}
    assert {f"disk0/{dirty_disks.NTFS}", f"disk0/{dirty_disks.FAT}"} <= read
    for number in (dirty_disks.BAD_EXT4, dirty_disks.BAD_BTRFS):
        assert volumes[f"disk0/{number}"]["hosts"] in (None, [])
    assert volumes[f"disk0/{dirty_disks.BAD_BTRFS}"]["problem"]
    assert volumes["disk0/1"]["fstype"] == "swap"
    assert found["notices"] == ["raid-degraded"]
    report = found["report"]
    assert report["problems"] == []
    assert 0 < report["overlay_bytes"] < 64 << 20
    assert [(writes["ios"], writes["sectors"]) for writes in report["writes"]] == [(0, 0)] * len(found["sources"])
    assert report["seconds"] < found["limit"]
    # Half of the time is for those who come too late, and for taking everything down.
    hurried = found["hurried"]
    assert any("time of 3 s is over" in problem for problem in hurried["problems"])
    assert [(writes["ios"], writes["sectors"]) for writes in hurried["writes"]] == [(0, 0)] * len(found["sources"])
    assert len(hurried["volumes"]) >= 8
    # Without room for its changes the overlay is of no use, and the file system is read as it lies on the disk.
    assert found["cramped"]["hosts"] == ["before-the-journal"]
    assert any("too small" in problem for problem in found["cramped"]["problems"])
    assert found["left"] == []
    assert found["memory_kib"] < 150 << 10


def test_measurement_sees_what_a_stock_system_would_write(built: Built, tmp_path: Path, dirty: list[Disk]) -> None:
    """Every hazard of these disks, set off as a stock system does it, changes its disk: the reason for the fence."""
    copies = []
    for disk in dirty:
        path = tmp_path / disk.path.name
        subprocess.run(["cp", "--sparse=always", disk.path, path], check=True)
        copies.append(Disk(path, disk.serial))
    with dirty_disks.provoke(tmp_path, built.parts.tree, copies) as running:
        stats = running.block_stats()
        assert "Trying to write to read-only block-device" in running.text()
        assert "RTC_CHANGE" in running.events
    assert all(one.writes > 0 for one in stats)
    unchanged = {
        name
        for name, (disk, partition) in dirty_disks.PROVOKED.items()
        if dirty_disks.digest_of(copies[disk].path, partition) == dirty_disks.digest_of(dirty[disk].path, partition)
    }
    assert unchanged == set()


def test_fence_is_in_the_finished_image(built: Built) -> None:
    listing = subprocess.run(
        ["unsquashfs", "-offset", str(OFFSET), "-l", "-d", "", built.parts.system / "system.cpio"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    files = {line.lstrip("/") for line in listing}
    assert "usr/bin/python3.11" in files
    # Without them hivex cannot read a single name.
    assert {f"usr/lib/x86_64-linux-gnu/gconv/{name}.so" for name in ("UTF-16", "ISO8859-1")} <= files
    programs = {Path(name).name for name in files if name.startswith(("usr/bin/", "usr/sbin/"))}
    assert {"blockdev", "losetup", "dmsetup", "lvm", "mdadm", "ntfs-3g"} <= programs
    assert not {"swapon", "mdmon", "e2fsck", "fsck", "hwclock", "mkswap", "wipefs", "blkdiscard", "fstrim"} & programs
    assert not [name for name in files if name.startswith("usr/lib/systemd/system-generators/")]
    modules = [Path(name) for name in files if name.endswith(".ko")]
    found = {path.stem.replace("-", "_") for path in modules if path.is_relative_to("usr/lib/modules")}
    assert {
        "ext4",
        "xfs",
        "btrfs",
        "vfat",
        "fuse",
        "dm_snapshot",
        "dm_thin_pool",
        "vmxnet3",
        "ixgbe",
        "mlx5_core",
        "megaraid_sas",
        "nvme",
    } <= found
    assert not {"md_mod", "raid1", "raid456", "dm_raid", "dm_cache", "bcache", "drbd", "zram"} & found
    apart = {path.stem.replace("-", "_") for path in modules if path.is_relative_to("usr/lib/coldmig/assembly")}
    assert {"md_mod", "raid0", "raid1", "raid10", "raid456", "linear", "dm_raid"} <= apart
    assert not {"bcache", "drbd", "zram"} & apart


def choose_entry(medium: Path, entry: str) -> None:
    """Make another menu entry the default, in the padding of the arguments' slot."""
    slot = _iso_image._read_layout(medium).slots[_iso_image.ARGS_SLOT]
    with medium.open("r+b") as image:
        image.seek(slot.offset)
        text = image.read(slot.length).rstrip(b"\n") + b"\nset default=" + entry.encode()
        image.seek(slot.offset)
        image.write(text.ljust(slot.length, b"\n"))
