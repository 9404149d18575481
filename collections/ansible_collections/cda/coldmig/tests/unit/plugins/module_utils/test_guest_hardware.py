# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._guest_hardware import (
    CONTROLLERS,
    CONTROLLERS_BY_NAME,
    HardwareError,
    OfferedGuest,
    capacity_kb,
    choose_controller,
    choose_nic,
    guest_id_candidates,
    memory_mb,
    place_disks,
    plan_hardware,
)

REPOSITORY = Path(__file__).resolve().parents[8]
GUEST_DATA = Path(os.environ.get("COLDMIG_GUEST_DATA", REPOSITORY.parent / "shared" / "guest-data"))
MIB = 1 << 20
GIB = 1 << 30


def guest(os_id: str, version: str = "", **others: Any) -> dict[str, Any]:
    return {"os_type": "linux", "id": os_id, "version": version, "kernel": "6.1.0-28-amd64", "drivers": [], **others}


def machine(**others: Any) -> dict[str, Any]:
    return {
        "firmware": "bios",
        "secure_boot": None,
        "cpu": {"sockets": 2, "cores_per_socket": 4, "threads": 16, "model": "x"},
        "memory_bytes": 8 * GIB,
        "guest": guest("debian", "12", drivers=["vmw_pvscsi", "ahci", "vmxnet3", "e1000"]),
        **others,
    }


FIRST_CHOICE = [
    ("debian", "12", "debian12_64Guest"),
    ("debian", "", "debian12_64Guest"),
    ("ubuntu", "24.04", "ubuntu64Guest"),
    ("linuxmint", "22", "ubuntu64Guest"),
    ("rhel", "9.6", "rhel9_64Guest"),
    ("centos", "7", "centos7_64Guest"),
    ("centos", "10", "rhel10_64Guest"),
    ("centos", "5", "centos64Guest"),
    ("rocky", "9.3", "rockylinux_64Guest"),
    ("almalinux", "8.10", "almalinux_64Guest"),
    ("ol", "5.11", "oracleLinux64Guest"),
    ("ol", "8.7", "oracleLinux8_64Guest"),
    ("sles", "15.7", "sles15_64Guest"),
    ("sles_sap", "12.0.1", "sles12_64Guest"),
    ("sle-micro", "6.0", "sles16_64Guest"),
    ("opensuse-leap", "15.6", "opensuse64Guest"),
    ("fedora", "41", "fedora64Guest"),
    ("amzn", "2", "amazonlinux2_64Guest"),
    ("amzn", "2023", "amazonlinux3_64Guest"),
    ("devuan", "5", "debian12_64Guest"),
    ("raspbian", "11", "debian11_64Guest"),
    ("kali", "2025.4", "debian12_64Guest"),
    ("asianux", "6", "asianux5_64Guest"),
    ("alpine", "3.20.7", "other6xLinux64Guest"),
    ("debian", "99", "debian13_64Guest"),
    ("", "", "other6xLinux64Guest"),
]


@pytest.mark.parametrize(("os_id", "version", "expected"), FIRST_CHOICE)
def test_linux_gets_the_identifier_of_its_release(os_id: str, version: str, expected: str) -> None:
    assert guest_id_candidates(guest(os_id, version))[0] == expected


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("6.12.1", "other6xLinux64Guest"),
        ("2.6.32-754", "other26xLinux64Guest"),
        ("2.4.21", "other24xLinux64Guest"),
        ("4.4.0", "other4xLinux64Guest"),
        ("9.0", "other7xLinux64Guest"),
        ("2.2.1", "otherLinux64Guest"),
        (None, "otherLinux64Guest"),
        ("nonsense", "otherLinux64Guest"),
    ],
)
def test_unknown_linux_goes_by_its_kernel(kernel: str | None, expected: str) -> None:
    assert guest_id_candidates(guest("homegrown", "1", kernel=kernel))[0] == expected


@pytest.mark.parametrize(
    ("version", "title", "expected"),
    [
        ("10.0.20348", "Windows Server 2022 Standard", "windows2019srvNext_64Guest"),
        ("10.0.17763", "Windows Server 2019", "windows2019srv_64Guest"),
        ("10.0.14393", "Windows Server 2016", "windows9Server64Guest"),
        ("10.0.22631", "Windows 11 Pro", "windows11_64Guest"),
        ("10.0.19045", "Windows 10 Pro", "windows9_64Guest"),
        ("6.3.9600", "Windows Server 2012 R2", "windows8Server64Guest"),
        ("6.1.7601", "Windows 7", "windows7_64Guest"),
        ("", "", "windows9_64Guest"),
    ],
)
def test_windows_goes_by_its_build(version: str, title: str, expected: str) -> None:
    found = guest_id_candidates({"os_type": "windows", "id": "windows", "version": version, "pretty_name": title})
    assert found[0] == expected
    assert found[-1] == "otherGuest64"


def test_every_ladder_ends_at_other_and_never_at_generic_linux() -> None:
    for os_id, version, _unused in FIRST_CHOICE:
        found = guest_id_candidates(guest(os_id, version))
        assert found[-2:] == ["otherLinux64Guest", "otherGuest64"]
        assert "genericLinuxGuest" not in found
        assert len(found) == len(set(found))


def test_unknown_system_is_other() -> None:
    assert guest_id_candidates({"os_type": "unknown", "id": "", "version": ""}) == ["otherGuest64"]
    assert guest_id_candidates({"os_type": "other", "id": "freebsd", "version": "14.1"})[0] == "freebsd14_64Guest"


def _os_release(path: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in path.read_text(errors="replace").splitlines() if "=" in line)
    return {key.strip(): value.strip().strip("\"'") for key, _unused, value in pairs}


# What needs ID_LIKE or PLATFORM_ID, which the agent does not report, or where the data's proposal is a stopgap.
_DIFFERS = {"clearos": "", "ios_xr": "", "raspbian": "own release numbers are Debian's"}


def test_real_os_release_files_get_the_proposed_identifier() -> None:
    index = GUEST_DATA / "os-release" / "index.tsv"
    if not index.is_file():
        pytest.skip(f"{index} is absent (set COLDMIG_GUEST_DATA)")
    with index.open(newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    assert len(rows) > 100
    wrong = []
    for row in rows:
        if not row["rule"].startswith("id") or row["ID"] in _DIFFERS:
            continue
        release = _os_release(GUEST_DATA / "os-release" / row["path"])
        found = guest_id_candidates(guest(release.get("ID", ""), release.get("VERSION_ID", "")))
        if found[0] != row["proposed_guestId"]:
            wrong.append((row["path"], found[0], row["proposed_guestId"]))
    assert wrong == []


def test_all_identifiers_exist_in_vsphere() -> None:
    table = GUEST_DATA / "guestids.tsv"
    if not table.is_file():
        pytest.skip(f"{table} is absent (set COLDMIG_GUEST_DATA)")
    with table.open(newline="") as lines:
        known = {row["guestId"] for row in csv.DictReader(lines, delimiter="\t")}
    source = Path(__file__).resolve().parents[4] / "plugins" / "module_utils" / "_guest_hardware.py"
    used = set(re.findall(r'"(\w+Guest(?:64)?)"', source.read_text()))
    assert used - known == set()
    for os_id, version, _unused in FIRST_CHOICE:
        assert set(guest_id_candidates(guest(os_id, version))) <= known


def test_host_without_the_identifier_gets_the_nearest_lower_one_and_a_note() -> None:
    offered = [OfferedGuest("debian11_64Guest"), OfferedGuest("debian10_64Guest"), OfferedGuest("otherGuest64")]
    plan = plan_hardware(machine(), [GIB], offered=offered)
    assert plan.guest_id == "debian11_64Guest"
    assert "debian12_64Guest" in plan.notes[0]


def test_identifier_that_cannot_be_created_or_lacks_the_firmware_is_passed_over() -> None:
    offered = [
        OfferedGuest("debian12_64Guest", supported_for_create=False),
        OfferedGuest("debian11_64Guest", firmware=("bios",)),
        OfferedGuest("debian10_64Guest", firmware=("bios", "efi")),
    ]
    assert plan_hardware(machine(firmware="efi"), [GIB], offered=offered).guest_id == "debian10_64Guest"


def test_override_that_is_not_offered_is_refused_with_near_ones() -> None:
    offered = [OfferedGuest("rhel8_64Guest"), OfferedGuest("rhel9_64Guest"), OfferedGuest("otherGuest64")]
    with pytest.raises(HardwareError, match=r"guest_id: the host does not offer 'rhel99.*rhel8_64Guest, rhel9_64Guest"):
        plan_hardware(machine(), [GIB], offered=offered, guest_id="rhel99_64Guest")


def test_host_that_offers_nothing_usable_is_named() -> None:
    with pytest.raises(HardwareError, match="offers none of the guest types"):
        plan_hardware(machine(), [GIB], offered=[OfferedGuest("dosGuest")])


@pytest.mark.parametrize(
    ("drivers", "expected"),
    [
        (["ahci", "vmw_pvscsi", "nvme"], "pvscsi"),
        (["vmw-pvscsi"], "pvscsi"),
        (["mptsas", "ahci"], "lsilogic-sas"),
        (["nvme", "ahci"], "ahci"),
        (["nvme", "mptspi"], "nvme"),
        (["ata_piix", "mptspi"], "lsilogic"),
        (["ata_piix"], "ide"),
        (["virtio_blk"], "ahci"),
        ([], "ahci"),
    ],
)
def test_controller_is_the_best_that_the_guest_can_drive(drivers: list[str], expected: str) -> None:
    assert choose_controller(guest("debian", "12", drivers=drivers), None, []).name == expected


def test_person_is_told_when_no_controller_will_work() -> None:
    notes: list[str] = []
    choose_controller(guest("debian", "12", drivers=["virtio_blk"]), None, notes)
    assert "probably not find its disk" in notes[0]


def test_host_constraints_narrow_the_controller() -> None:
    both = guest("debian", "12", drivers=["vmw_pvscsi", "mptsas"])
    no_boot = OfferedGuest("debian12_64Guest", pvscsi_boot=False)
    only_ide = OfferedGuest("debian12_64Guest", controllers=("VirtualIDEController", "VirtualAHCIController"))
    assert choose_controller(both, no_boot, []).name == "lsilogic-sas"
    assert choose_controller(both, only_ide, []).name == "ahci"


@pytest.mark.parametrize(
    ("drivers", "expected"),
    [(["e1000", "vmxnet3"], "vmxnet3"), (["e1000", "e1000e"], "e1000e"), (["e1000"], "e1000"), ([], "e1000e")],
)
def test_network_card_is_the_best_that_the_guest_can_drive(drivers: list[str], expected: str) -> None:
    assert choose_nic(guest("debian", "12", drivers=drivers)) == expected


@pytest.mark.parametrize(
    ("size", "kilobytes"), [(1, 1024), (MIB, 1024), (MIB + 1, 2048), (20481 * 512, 11 * 1024), (GIB, 1 << 20)]
)
def test_capacity_is_whole_mebibytes_and_never_less_than_the_source(size: int, kilobytes: int) -> None:
    assert capacity_kb(size) == kilobytes


def test_memory_is_a_multiple_of_four_megabytes() -> None:
    assert memory_mb(8 * GIB) == 8192
    assert memory_mb(1000 * MIB + 1) == 1004


def test_cpus_memory_and_firmware_are_the_source_s() -> None:
    plan = plan_hardware(machine(firmware="efi", secure_boot=True), [10 * GIB, 5])
    assert (plan.num_cpus, plan.cores_per_socket, plan.memory_mb) == (8, 4, 8192)
    assert (plan.firmware, plan.secure_boot) == ("efi", True)
    assert plan.controller == "pvscsi"
    assert plan.nic == "vmxnet3"
    assert [(d.index, d.capacity_kb, d.bus, d.unit) for d in plan.disks] == [(0, 10 << 20, 0, 0), (1, 1024, 0, 1)]
    assert plan.notes == ()


def test_secure_boot_is_left_off_on_bios_and_where_the_host_lacks_it() -> None:
    assert plan_hardware(machine(secure_boot=True), [GIB]).secure_boot is False
    offered = [OfferedGuest("debian12_64Guest", secure_boot=False)]
    plan = plan_hardware(machine(firmware="efi", secure_boot=True), [GIB], offered=offered)
    assert plan.secure_boot is False
    assert "Secure Boot" in plan.notes[0]


def test_disks_skip_the_controller_s_own_scsi_id_and_go_on_to_the_next_bus() -> None:
    places = place_disks(CONTROLLERS_BY_NAME["pvscsi"], [1024] * 17)
    assert [place.unit for place in places[:8]] == [0, 1, 2, 3, 4, 5, 6, 8]
    assert [(place.bus, place.unit) for place in places[14:]] == [(0, 15), (1, 0), (1, 1)]


@pytest.mark.parametrize("controller", CONTROLLERS, ids=lambda c: c.name)
def test_more_disks_than_a_controller_takes_are_refused(controller: Any) -> None:
    room = len(controller.units) * controller.buses
    assert len({(p.bus, p.unit) for p in place_disks(controller, [1024] * room)}) == room
    with pytest.raises(HardwareError, match=f"which take {room}"):
        place_disks(controller, [1024] * (room + 1))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"firmware": "openfirmware"}, "machine.firmware"),
        ({"cpu": {"sockets": 0, "cores_per_socket": 1}}, "machine.cpu.sockets"),
        ({"cpu": {"sockets": 1}}, "machine.cpu.cores_per_socket"),
        ({"memory_bytes": -1}, "machine.memory_bytes"),
    ],
)
def test_unusable_values_are_refused_by_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(HardwareError, match=field):
        plan_hardware(machine(**change), [GIB])


def test_more_cpus_than_the_guest_type_allows_are_refused() -> None:
    with pytest.raises(HardwareError, match="8 CPUs; the host allows 4"):
        plan_hardware(machine(), [GIB], offered=[OfferedGuest("debian12_64Guest", max_cpus=4)])
