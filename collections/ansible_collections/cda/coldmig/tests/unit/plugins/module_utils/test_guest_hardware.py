# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._guest_hardware import (
    CONTROLLERS,
    CONTROLLERS_BY_NAME,
    HardwareError,
    Host,
    OfferedGuest,
    Wish,
    capacity_kb,
    choose_controller,
    choose_nic,
    memory_mb,
    place_disks,
    plan_hardware,
    wish_of,
)

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


def test_host_without_the_identifier_gets_the_nearest_lower_one_and_a_note() -> None:
    offered = [OfferedGuest("debian11_64Guest"), OfferedGuest("debian10_64Guest"), OfferedGuest("otherGuest64")]
    plan = plan_hardware(machine(), [GIB], host=Host(tuple(offered)))
    assert plan.guest_id == "debian11_64Guest"
    assert "debian12_64Guest" in plan.notes[0]


def test_identifier_that_cannot_be_created_or_lacks_the_firmware_is_passed_over() -> None:
    offered = [
        OfferedGuest("debian12_64Guest", supported_for_create=False),
        OfferedGuest("debian11_64Guest", firmware=("bios",)),
        OfferedGuest("debian10_64Guest", firmware=("bios", "efi")),
    ]
    assert plan_hardware(machine(firmware="efi"), [GIB], host=Host(tuple(offered))).guest_id == "debian10_64Guest"


def test_override_that_is_not_offered_is_refused_with_near_ones() -> None:
    offered = [OfferedGuest("rhel8_64Guest"), OfferedGuest("rhel9_64Guest"), OfferedGuest("otherGuest64")]
    with pytest.raises(HardwareError, match=r"guest_id: the host does not offer 'rhel99.*rhel8_64Guest, rhel9_64Guest"):
        plan_hardware(machine(), [GIB], host=Host(tuple(offered)), wish=Wish(guest_id="rhel99_64Guest"))


def test_host_that_offers_nothing_usable_is_named() -> None:
    with pytest.raises(HardwareError, match="offers none of the guest types"):
        plan_hardware(machine(), [GIB], host=Host((OfferedGuest("dosGuest"),)))


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
    assert choose_controller(guest("debian", "12", drivers=drivers), []).name == expected


def test_person_is_told_when_no_controller_will_work() -> None:
    notes: list[str] = []
    choose_controller(guest("debian", "12", drivers=["virtio_blk"]), notes)
    assert "probably not find its disk" in notes[0]


def test_host_constraints_narrow_the_controller() -> None:
    both = guest("debian", "12", drivers=["vmw_pvscsi", "mptsas"])
    no_boot = OfferedGuest("debian12_64Guest", pvscsi_boot=False)
    only_ide = OfferedGuest("debian12_64Guest", controllers=("VirtualIDEController", "VirtualAHCIController"))
    assert choose_controller(both, [], offered=no_boot).name == "lsilogic-sas"
    assert choose_controller(both, [], offered=only_ide).name == "ahci"


@pytest.mark.parametrize(
    ("drivers", "expected"),
    [(["e1000", "vmxnet3"], "vmxnet3"), (["e1000", "e1000e"], "e1000e"), (["e1000"], "e1000"), ([], "e1000e")],
)
def test_network_card_is_the_best_that_the_guest_can_drive(drivers: list[str], expected: str) -> None:
    assert choose_nic(guest("debian", "12", drivers=drivers), []).name == expected


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
    plan = plan_hardware(machine(firmware="efi", secure_boot=True), [GIB], host=Host(tuple(offered)))
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
        plan_hardware(machine(), [GIB], host=Host((OfferedGuest("debian12_64Guest", max_cpus=4),)))


def graded(os_type: str = "linux", **verdicts: str) -> dict[str, Any]:
    """A system as a grading agent reports it; ``_`` stands for ``-`` in the names of devices."""
    kinds = {"vmxnet3", "e1000e", "e1000"}
    return {
        "os_type": os_type,
        "id": "debian" if os_type == "linux" else "windows",
        "version": "12" if os_type == "linux" else "10.0.20348",
        "kernel": "6.1.0",
        "readiness": [
            {
                "device": name.replace("_", "-"),
                "kind": "network" if name in kinds else "storage",
                "verdict": verdict,
                "evidence": [f"seen for {name}"],
            }
            for name, verdict in verdicts.items()
        ],
    }


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ({"pvscsi": "ready", "ahci": "ready"}, "pvscsi"),
        ({"pvscsi": "no", "ahci": "ready"}, "ahci"),
        ({"pvscsi": "likely", "ide": "ready"}, "ide"),
        ({"pvscsi": "no", "lsilogic_sas": "no", "ahci": "no", "nvme": "likely", "ide": "no"}, "nvme"),
        ({"pvscsi": "no", "lsilogic_sas": "no", "ahci": "no", "nvme": "no", "ide": "unknown"}, "lsilogic"),
    ],
)
def test_what_the_agent_saw_decides_the_controller(verdicts: dict[str, str], expected: str) -> None:
    choice = choose_controller(graded(**verdicts), [])
    assert choice.name == expected


def test_windows_takes_what_is_ready_first_and_then_what_microsoft_ships() -> None:
    assert choose_controller(graded("windows", pvscsi="ready", ahci="likely"), []).name == "pvscsi"
    notes: list[str] = []
    likely = {"pvscsi": "no", "lsilogic_sas": "likely", "ahci": "likely", "nvme": "likely", "ide": "no"}
    assert choose_controller(graded("windows", **likely), notes).name == "ahci"
    assert "likely, but not proven" in notes[0]
    assert "seen for ahci" in notes[0]


def test_no_controller_without_a_driver_while_another_would_do() -> None:
    only_pvscsi = OfferedGuest("debian12_64Guest", controllers=("ParaVirtualSCSIController", "VirtualIDEController"))
    choice = choose_controller(graded(pvscsi="no", ide="likely", ahci="ready"), [], offered=only_pvscsi)
    assert choice.name == "ide"


def test_hardware_versions_without_a_controller_are_respected() -> None:
    system = graded(pvscsi="no", lsilogic_sas="no", ahci="no", nvme="ready", lsilogic="likely")
    assert choose_controller(system, [], host=Host(hardware_version="vmx-13")).name == "nvme"
    assert choose_controller(system, [], host=Host(hardware_version="vmx-11")).name == "lsilogic"


def test_a_controller_without_room_for_all_disks_is_passed_over() -> None:
    system = graded(pvscsi="no", lsilogic_sas="no", ahci="likely", nvme="no", lsilogic="no", ide="ready")
    assert choose_controller(system, [], disks=4).name == "ide"
    assert choose_controller(system, [], disks=5).name == "ahci"


def test_the_template_overrides_and_hears_what_the_agent_saw() -> None:
    wish = wish_of({"disk_controller": "nvme", "nic_type": "e1000", "cpus": 6, "memory_mb": 1000, "firmware": None})
    source = machine(guest=graded(pvscsi="ready", nvme="no", vmxnet3="ready", e1000="ready"))
    plan = plan_hardware(source, [GIB], wish=wish)
    assert (plan.controller, plan.nic, plan.num_cpus, plan.memory_mb) == ("nvme", "e1000", 6, 1000)
    assert plan.cores_per_socket == 1  # six do not divide into sockets of four
    assert "no driver for it (seen for nvme)" in plan.notes[0]
    assert plan.choices[0].as_result() == {"name": "nvme", "verdict": "no", "evidence": ["seen for nvme"]}


def test_a_module_s_option_comes_before_the_template() -> None:
    template = {"disk_controller": "nvme", "firmware": "efi", "secure_boot": True}
    assert wish_of(template, controller="ide", firmware=None) == Wish(
        controller="ide", firmware="efi", secure_boot=True
    )
    assert wish_of(None) == Wish()


def test_another_system_of_the_machine_boots_with_its_own_firmware() -> None:
    first = graded(pvscsi="ready") | {"key": "disk0/1", "firmware": "bios"}
    second = graded(pvscsi="ready") | {"key": "disk1/2", "firmware": "efi"}
    source = machine(guest=first, firmware="efi")
    assert plan_hardware(source, [GIB], guest=second).firmware == "efi"
    assert plan_hardware(machine(guest=first), [GIB], guest=second).firmware == "efi"
    # of the first one the agent has weighed all that it saw
    assert plan_hardware(source, [GIB], guest=first).firmware == "efi"


def test_wishes_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(HardwareError, match="secure_boot: it needs firmware 'efi'"):
        plan_hardware(machine(), [GIB], wish=Wish(secure_boot=True))
    with pytest.raises(HardwareError, match="6 CPUs cannot be divided into sockets of 4"):
        plan_hardware(machine(), [GIB], wish=Wish(cpus=6, cores_per_socket=4))
    assert (
        plan_hardware(machine(firmware="efi", secure_boot=True), [GIB], wish=Wish(secure_boot=False)).secure_boot
        is False
    )


def test_server_that_lists_nothing_gets_an_identifier_that_its_version_knows() -> None:
    source = machine(guest=graded(pvscsi="ready"))
    assert plan_hardware(source, [GIB], host=Host(api_version="8.0.2.0")).guest_id == "debian12_64Guest"
    old = plan_hardware(source, [GIB], host=Host(api_version="7.0.3.0"))
    assert old.guest_id == "debian11_64Guest"
    assert "debian12_64Guest" in old.notes[0]
