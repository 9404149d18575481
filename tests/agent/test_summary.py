# SPDX-License-Identifier: GPL-3.0-or-later
"""What was found, said in a line each for the person in front of the machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coldmig_agent import summary
from coldmig_agent.machine import (
    Cpu,
    Disk,
    Guest,
    InspectedVolume,
    Inspection,
    KernelWrites,
    LeftOut,
    Machine,
    Readiness,
    Tpm,
)

GIB = 1 << 30
STORAGE = ("pvscsi", "lsilogic-sas", "ahci", "nvme", "lsilogic", "ide")
DISK = Disk(
    0, "/dev/sda", 480 * GIB, 512, "S1", "PERC", "naa.1", False, "gpt", (), used_bytes=20 * GIB, transport="sas"
)
DEBIAN = Guest("linux", "debian", pretty_name="Debian 12", hostname="erp", place="disk 0, partition 2")
MACHINE = Machine(
    agent_version="1", smbios_uuid=None, vendor="Dell", product="R740", serial="", firmware="efi", secure_boot=True,
    live_boot_firmware="efi", cpu=Cpu(2, 12, 48, "Xeon"), memory_bytes=256 * GIB, nics=(), disks=(DISK,),
    guest=DEBIAN, addresses=(), name="erp", guests=(DEBIAN,), tpm=Tpm("2.0"),
)  # fmt: skip


def guest(os_type: str = "linux", **verdicts: str) -> Guest:
    items = {key.replace("_", "-"): verdict for key, verdict in verdicts.items()}
    readiness = tuple(
        Readiness(device, "storage" if device in STORAGE else "network", verdict) for device, verdict in items.items()
    )
    return replace(DEBIAN, os_type=os_type, readiness=readiness)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (guest(pvscsi="ready", vmxnet3="ready"), "boots from PVSCSI, network VMXNET3: ready"),
        (guest(pvscsi="likely", ahci="ready", e1000e="ready"), "boots from SATA (AHCI), network E1000E: ready"),
        (guest(pvscsi="likely", vmxnet3="ready"), "boots from PVSCSI, network VMXNET3: likely"),
        (guest(nvme="ready", vmxnet3="no"), "boots from NVMe, has no driver for VMware's network cards"),
        (guest(pvscsi="no", ahci="no", vmxnet3="ready"), "finds none of VMware's disk controllers: it will not boot"),
        (guest(pvscsi="unknown", vmxnet3="unknown"), "its boot drivers are not known"),
        (guest(), "which of VMware's devices it can use is not known"),
        (
            guest("windows", pvscsi="likely", ahci="likely", vmxnet3="no", e1000e="ready"),
            "boots from SATA (AHCI), network E1000E: likely",
        ),
    ],
)
def test_the_best_devices_and_their_verdict_are_one_line(found: Guest, line: str) -> None:
    assert summary.readiness_line(found) == line


def test_each_system_is_named_with_its_place_and_what_it_boots_from() -> None:
    ready = guest(pvscsi="ready", vmxnet3="ready")
    other = Guest("windows", pretty_name="Windows Server 2022", place="disk 1, partition 3")
    assert summary.system_lines(replace(MACHINE, guests=(ready, other))) == [
        "Debian 12 (erp) on disk 0, partition 2: boots from PVSCSI, network VMXNET3: ready",
        "Windows Server 2022 on disk 1, partition 3: which of VMware's devices it can use is not known",
    ]


def test_many_systems_are_counted_and_none_is_said() -> None:
    assert summary.system_lines(replace(MACHINE, guests=(DEBIAN,) * 9))[-1] == "3 more systems"
    assert summary.system_lines(replace(MACHINE, guests=(), guest=Guest())) == ["no known operating system"]
    windows = Guest("windows", pretty_name="Windows")
    assert "Windows" in summary.system_lines(replace(MACHINE, guests=(), guest=windows))[0]


def test_the_table_names_every_device() -> None:
    assert summary.readiness_table(guest(pvscsi="ready", lsilogic_sas="no", vmxnet3="likely")) == [
        "disks: PVSCSI ready, LSI Logic SAS no",
        "network: VMXNET3 likely",
    ]
    assert summary.readiness_table(Guest()) == []


def test_the_machine_is_told_with_its_firmware_and_disks() -> None:
    assert summary.lines(MACHINE) == [
        "erp (Dell R740)",
        "2 x 12 cores, 256.0 GiB memory, UEFI with Secure Boot, TPM 2.0, 0 NICs",
        "disk 0: /dev/sda 480.0 GiB, 20.0 GiB to copy sas PERC S1",
    ]
    several = replace(MACHINE, disks=(replace(DISK, paths=("/dev/sdb", "/dev/sdc")),), tpm=Tpm(), secure_boot=None)
    assert summary.lines(several)[1:] == [
        "2 x 12 cores, 256.0 GiB memory, UEFI, TPM, 0 NICs",
        "disk 0: /dev/sda 480.0 GiB, 20.0 GiB to copy, 3 paths sas PERC S1",
    ]


def test_the_look_into_the_disks_is_told_with_the_kernels_count_of_writes() -> None:
    volumes = (
        InspectedVolume("a", "ext4"),
        InspectedVolume("b", "xfs", problem="damaged"),
        InspectedVolume("c", "ext4"),
    )
    looked = Inspection(3.4, 0, volumes, (KernelWrites(0, 0, 0),))
    assert summary.looked_line(replace(MACHINE, inspection=looked)) == (
        "looked at 3 volumes in 3 s, 1 of them could not be read; no disk was written to"
    )
    written = replace(looked, writes=(KernelWrites(0, 1, 8),))
    assert summary.looked_line(replace(MACHINE, inspection=written)).endswith("8 SECTORS WERE WRITTEN")
    one = Inspection(0.4, 0, volumes[:1])
    assert summary.looked_line(replace(MACHINE, inspection=one)) == "looked at 1 volume in 0 s"
    assert summary.looked_line(MACHINE) == ""


def test_disks_that_are_not_copied_are_named_with_the_reason() -> None:
    left = LeftOut("/dev/sdb", 4 * GIB, "S2", "USB", "left out by the settings (serial S2)")
    lines = summary.machine_lines(replace(MACHINE, left_out=(left,)))
    assert lines[-1] == "not copied: /dev/sdb 4.0 GiB: left out by the settings (serial S2)"
