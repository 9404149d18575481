# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of VMware's devices a Windows can start from, by its services, files and device databases."""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from pathlib import Path

import pytest
from hive_lab import dirty, hive, nested, software, write_windows

from coldmig_agent import records
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.guest.windows.devices import DEVICES
from coldmig_agent.guest.windows.drivers import image_path
from coldmig_agent.guest.windows.facts import read_windows
from coldmig_agent.guest.windows.model import WindowsFacts
from coldmig_agent.guest.windows.verdict import to_guest
from coldmig_agent.machine import Guest, Notice, Readiness

SERVICES = "ControlSet001\\Services"
CLASS = "ControlSet001\\Control\\Class"
CRITICAL = "ControlSet001\\Control\\CriticalDeviceDatabase"
DISK_CLASS = "{4d36e967-e325-11ce-bfc1-08002be10318}"
VOLUME_CLASS = "{71a27cdd-812a-11d0-bec7-08002be2092f}"
BASE = ("pci", "disk", "partmgr", "mountmgr", "volmgr")
TEN = {"CurrentMajorVersionNumber": 10, "CurrentBuildNumber": "20348", "EditionID": "ServerStandard"}


def service(name: str, start: int | None = 0, **more: object) -> dict[str, object]:
    key = f"{SERVICES}\\{name}"
    return {f"{key}\\Type": 1, **({} if start is None else {f"{key}\\Start": start})} | {
        f"{key}\\{label}": value for label, value in more.items()
    }


def base() -> dict[str, object]:
    values: dict[str, object] = {
        "Select\\Current": 1,
        "ControlSet001\\Control\\ProductOptions\\ProductType": "ServerNT",
    }
    for name in BASE:
        values |= service(name)
    return values


def bound(inf: str, identifier: str, configuration: str, driver: str) -> dict[str, object]:
    """What DriverDatabase says of a device, from its identifier to the service."""
    package = f"{inf}_amd64_0123456789abcdef"
    database = "DriverDatabase"
    return {
        f"{database}\\Version": 0x0A000000,
        f"{database}\\DeviceIds\\PCI\\{identifier}\\{inf}": b"\x01\xff\x00\x00",
        f"{database}\\DriverInfFiles\\{inf}\\Active": package,
        f"{database}\\DriverPackages\\{package}\\Descriptors\\PCI\\{identifier}\\Configuration": configuration,
        f"{database}\\DriverPackages\\{package}\\Configurations\\{configuration}\\Service": driver,
    }


def files(*names: str) -> dict[str, bytes]:
    """Driver files, in a case of their own."""
    return {f"Windows/System32/Drivers/{name}.SYS": b"MZ" for name in (*BASE, *names)}


AHCI = {**base(), **service("storahci"), **bound("mshdc.inf", "CC_010601", "msahci_Inst", "storahci")}


def read(
    volume: Path, system: Mapping[str, object], drivers: Mapping[str, bytes], **tree: bytes
) -> tuple[Guest, tuple[Notice, ...]]:
    write_windows(volume, hive(nested(system)), software(TEN), {**drivers, **tree})
    return judge(volume)


def judge(volume: Path) -> tuple[Guest, tuple[Notice, ...]]:
    with GuestRoot.at(volume) as root:
        facts = read_windows(root)
    assert facts is not None
    crossed = records.from_json(WindowsFacts, records.to_json(facts))
    assert crossed == facts
    assert crossed.system is not None
    return to_guest(crossed.system, place="disk 0, partition 2", key="disk0/2")


def verdict(guest: Guest, device: str) -> Readiness:
    return next(item for item in guest.readiness if item.device == device)


def verdicts(guest: Guest) -> dict[str, str]:
    return {item.device: item.verdict for item in guest.readiness}


def codes(notices: tuple[Notice, ...]) -> set[str]:
    return {item.code for item in notices}


def with_drivers_of(volume: Path) -> None:
    """The files of all services that a real hive names: guest-data has hives only."""
    with GuestRoot.at(volume) as root:
        facts = read_windows(root)
    assert facts is not None
    assert facts.system is not None
    place = volume / "Windows/System32/drivers"
    place.mkdir()
    for driver in facts.system.drivers:
        assert driver.image.lower().startswith("/windows/system32/drivers/")
        if driver.start is not None:
            (place / Path(driver.image).name).write_bytes(b"MZ")


# --- real hives


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "win7sp1_x86_SYSTEM",
            {"pvscsi": "no", "lsilogic-sas": "ready", "ahci": "no", "nvme": "no", "lsilogic": "ready", "ide": "ready"},
        ),
        (
            "win10_dell_SYSTEM_B_dirty",
            {
                "pvscsi": "no",
                "lsilogic-sas": "likely",
                "ahci": "likely",
                "nvme": "likely",
                "lsilogic": "no",
                "ide": "likely",
            },
        ),
    ],
)
def test_real_systems_are_judged_by_what_they_start(
    guest_data: Path, tmp_path: Path, name: str, expected: dict[str, str]
) -> None:
    write_windows(tmp_path, b"", software(TEN))
    for suffix in ("", ".LOG1", ".LOG2"):
        source = guest_data / f"hives/{name}{suffix}.xz"
        if source.exists():
            target = tmp_path / f"Windows/System32/config/SYSTEM{suffix}"
            target.write_bytes(lzma.decompress(source.read_bytes()))
    with_drivers_of(tmp_path)
    guest, notices = judge(tmp_path)
    found = {item.device: item.verdict for item in guest.readiness if item.kind == "storage"}
    assert found == expected
    overridden = [item for item in guest.readiness if "StartOverride=3" in " ".join(item.evidence)]
    assert len(overridden) == list(expected.values()).count("likely")
    assert ("storage-driver-likely" in codes(notices)) == ("ready" not in expected.values())


# --- storage


def test_a_boot_driver_with_its_file_and_its_device_is_ready(tmp_path: Path) -> None:
    guest, notices = read(tmp_path, AHCI, files("storahci"))
    found = verdict(guest, "ahci")
    assert found.verdict == "ready"
    assert "/Windows/System32/drivers/storahci.sys" in found.evidence[0]
    assert "CC_010601 by mshdc.inf" in found.evidence[0]
    assert {name: value for name, value in verdicts(guest).items() if value == "ready"} == {"ahci": "ready"}
    assert guest.drivers == ("storahci",)
    assert codes(notices) == {"no-network-driver"}


@pytest.mark.parametrize(
    ("change", "files_there", "expected", "words"),
    [
        ({f"{SERVICES}\\storahci\\Start": 3}, ("storahci",), "no", "Start=3"),
        ({}, (), "no", "storahci.sys is missing"),
        ({f"{SERVICES}\\storahci\\StartOverride\\0": 3}, ("storahci",), "likely", "new SMBIOS UUID"),
        ({f"{SERVICES}\\storahci\\StartOverride\\0": 0}, ("storahci",), "ready", "Start=0"),
        (
            {"HardwareConfig\\LastId": 2, f"{SERVICES}\\storahci\\StartOverride\\0": 3},
            ("storahci",),
            "ready",
            "Start=0",
        ),
        (
            {"HardwareConfig\\LastId": 2, f"{SERVICES}\\storahci\\StartOverride\\2": 3},
            ("storahci",),
            "likely",
            "StartOverride=3",
        ),
        ({f"{SERVICES}\\disk\\Start": 4}, ("storahci",), "no", "disk: Start=4"),
    ],
    ids=["start 3", "no file", "overridden", "override 0", "override of other hardware", "override of this", "no disk"],
)
def test_what_keeps_a_boot_driver_from_starting_is_found(
    tmp_path: Path, change: Mapping[str, object], files_there: tuple[str, ...], expected: str, words: str
) -> None:
    guest, _notices = read(tmp_path, {**AHCI, **change}, files(*files_there))
    found = verdict(guest, "ahci")
    assert found.verdict == expected
    assert words in " ".join(found.evidence)


def test_a_boot_driver_that_nothing_binds_to_the_device_is_none(tmp_path: Path) -> None:
    guest, _notices = read(tmp_path, {**AHCI, **service("LSI_SAS")}, files("storahci", "lsi_sas"))
    found = verdict(guest, "lsilogic-sas")
    assert found.verdict == "no"
    assert "DriverDatabase does not bind it" in found.evidence[0]


def test_the_service_that_the_package_names_counts_not_the_usual_one(tmp_path: Path) -> None:
    values = {**base(), **service("acmesas"), **service("LSI_SAS", 3)}
    values |= bound("oem4.inf", "VEN_1000&DEV_0054", "Acme_Inst", "acmesas")
    guest, _notices = read(tmp_path, values, files("acmesas", "lsi_sas"))
    assert verdict(guest, "lsilogic-sas").verdict == "ready"
    assert guest.drivers == ("acmesas",)


def test_two_packages_for_one_device_that_disagree_are_only_likely(tmp_path: Path) -> None:
    values = {**base(), **service("acmesas", 3), **service("LSI_SAS")}
    values |= bound("oem4.inf", "VEN_1000&DEV_0054", "Acme_Inst", "acmesas")
    values |= bound("lsi_sas.inf", "VEN_1000&DEV_0054", "LSI_SAS_Inst", "LSI_SAS")
    guest, _notices = read(tmp_path, values, files("acmesas", "lsi_sas"))
    assert verdict(guest, "lsilogic-sas").verdict == "likely"


def test_a_driver_for_the_exact_device_goes_before_one_for_its_class(tmp_path: Path) -> None:
    values = {**AHCI, **service("acmeahci", 3), **bound("oem1.inf", "VEN_15AD&DEV_07E0", "Acme", "acmeahci")}
    guest, _notices = read(tmp_path, values, files("acmeahci", "storahci"))
    assert verdict(guest, "ahci").verdict == "no"


def test_pvscsi_without_vmware_tools_and_with_them(tmp_path: Path) -> None:
    without = {**AHCI, f"{SERVICES}\\pvscsi\\Parameters\\PnpInterface\\5": 1}
    without |= bound("oem4.inf", "VEN_15AD&DEV_07C0", "pvscsi_Inst", "pvscsi")
    guest, _notices = read(tmp_path / "without", without, files("storahci", "pvscsi"))
    assert verdict(guest, "pvscsi").verdict == "no"
    guest, _notices = read(tmp_path / "with", {**without, **service("pvscsi")}, files("storahci", "pvscsi"))
    assert verdict(guest, "pvscsi").verdict == "ready"


@pytest.mark.parametrize(("atapi", "expected"), [(0, "ready"), (3, "no"), (None, "no")])
def test_ide_needs_the_driver_of_its_channels_too(tmp_path: Path, atapi: int | None, expected: str) -> None:
    values = {**base(), **service("intelide"), **service("atapi", atapi)}
    values |= bound("mshdc.inf", "VEN_8086&DEV_7111", "intelide_Inst", "intelide")
    values |= {**service("pciide", 3), **bound("mshdc.inf", "CC_0101", "pciide_Inst", "pciide")}
    guest, _notices = read(tmp_path, values, files("intelide", "atapi", "pciide"))
    assert verdict(guest, "ide").verdict == expected
    assert guest.drivers == (("atapi", "intelide") if expected == "ready" else ())


@pytest.mark.parametrize(
    ("key", "driver", "device"),
    [
        ("PCI#VEN_1000&DEV_0054", "LSI_SAS", "lsilogic-sas"),
        ("pci#ven_1000&dev_0054", "LSI_SAS", "lsilogic-sas"),
        ("PCI#CC_010601", "msahci", "ahci"),
        ("PCI#VEN_1000&DEV_0030", "symmpi", "lsilogic"),
    ],
)
def test_before_windows_8_the_critical_device_database_binds(
    tmp_path: Path, key: str, driver: str, device: str
) -> None:
    values = {**base(), **service(driver), f"{CRITICAL}\\{key}\\Service": driver}
    guest, _notices = read(tmp_path, values, files(driver))
    assert verdict(guest, device).verdict == "ready"
    unbound = {**base(), **service(driver), f"{CRITICAL}\\other\\Service": "other"}
    guest, _notices = read(tmp_path, unbound, files(driver))
    assert verdict(guest, device).verdict == "no"


def test_windows_before_vista_has_ftdisk_in_volmgrs_place(tmp_path: Path) -> None:
    values = {name: value for name, value in base().items() if "volmgr" not in name}
    values |= {**service("ftdisk"), **service("symmpi"), f"{CRITICAL}\\PCI#VEN_1000&DEV_0030\\Service": "symmpi"}
    guest, _notices = read(tmp_path, values, files("ftdisk", "symmpi"))
    assert verdict(guest, "lsilogic").verdict == "ready"


def test_nothing_that_starts_is_said_with_the_reasons(tmp_path: Path) -> None:
    _guest, notices = read(tmp_path, {**AHCI, f"{SERVICES}\\storahci\\Start": 3}, files("storahci"))
    found = next(item for item in notices if item.code == "windows-no-boot-driver")
    assert "storahci: Start=3" in found.message
    assert "disk 0, partition 2" in found.message


def test_a_stale_registry_proves_nothing_ready(tmp_path: Path) -> None:
    write_windows(tmp_path, dirty(hive(nested(AHCI))), software(TEN), files("storahci"))
    guest, notices = judge(tmp_path)
    assert verdict(guest, "ahci").verdict == "likely"
    assert {"registry-not-replayed", "storage-driver-likely"} <= codes(notices)


def test_a_damaged_registry_disproves_nothing(tmp_path: Path) -> None:
    data = bytearray(hive(nested(AHCI)))
    at = data.index(b"Services") - 76
    data[at + 28 : at + 32] = b"\xf0\xff\xff\x7f"  # its list of keys lies outside of the hive
    write_windows(tmp_path, bytes(data), software(TEN), files("storahci"))
    guest, notices = judge(tmp_path)
    assert set(verdicts(guest).values()) == {"unknown"}
    assert "registry-not-read" in codes(notices)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("System32\\drivers\\a.sys", "/Windows/System32/drivers/a.sys"),
        ("\\SystemRoot\\System32\\drivers\\a.sys", "/Windows/System32/drivers/a.sys"),
        ("%SystemRoot%\\System32\\drivers\\a.sys", "/Windows/System32/drivers/a.sys"),
        ("\\??\\C:\\Windows\\System32\\a.sys", "/Windows/System32/a.sys"),
        ("c:\\Drivers\\a.sys", "/Drivers/a.sys"),
        ("D:\\Drivers\\a.sys", "D:/Drivers/a.sys"),
        ('"system32/drivers/a.sys"', "/Windows/system32/drivers/a.sys"),
    ],
)
def test_image_paths_of_every_form_are_found_on_the_volume(path: str, expected: str) -> None:
    assert image_path(path, "/Windows", "C") == expected


# --- network

NIC = "VEN_8086&DEV_10D3"


def test_an_installed_network_driver_with_its_package_is_ready(tmp_path: Path) -> None:
    values = {**AHCI, **service("e1iexpress", 3, ImagePath="\\SystemRoot\\System32\\drivers\\e1i63x64.sys")}
    drivers = hive(nested({f"DriverDatabase\\DeviceIds\\PCI\\{NIC}\\net1ic64.inf": b"\x01"}))
    there = files("storahci", "e1i63x64") | {"Windows/System32/config/DRIVERS": drivers}
    guest, notices = read(tmp_path, values, there)
    assert verdict(guest, "e1000e").verdict == "ready"
    assert "net1ic64.inf" in verdict(guest, "e1000e").evidence[0]
    assert "no-network-driver" not in codes(notices)
    assert guest.drivers == ("e1iexpress", "storahci")


def test_a_package_in_the_hive_of_drivers_is_likely(tmp_path: Path) -> None:
    drivers = hive(nested({f"DriverDatabase\\DeviceIds\\PCI\\{NIC}\\net1ic64.inf": b"\x01"}))
    guest, notices = read(tmp_path, AHCI, files("storahci") | {"Windows/System32/config/DRIVERS": drivers})
    assert verdict(guest, "e1000e").verdict == "likely"
    assert verdict(guest, "vmxnet3").verdict == "no"
    assert "no-network-driver" not in codes(notices)


@pytest.mark.parametrize("encoding", ["ascii", "utf-16"])
def test_before_windows_8_an_inf_file_is_likely(tmp_path: Path, encoding: str) -> None:
    values = {**base(), f"{CRITICAL}\\x\\Service": "x"}
    inf = "%PRO% = E1000, PCI\\VEN_8086&DEV_100F&SUBSYS_075015AD".encode(encoding)
    guest, _notices = read(tmp_path, values, files() | {"Windows/inf/NETE1G32.INF": inf, "Windows/inf/usb.inf": b"x"})
    assert verdict(guest, "e1000").verdict == "likely"
    assert "NETE1G32.INF" in " ".join(verdict(guest, "e1000").evidence)


@pytest.mark.parametrize(("start", "expected"), [(3, "likely"), (4, "no")])
def test_a_network_driver_whose_package_was_not_seen(tmp_path: Path, start: int, expected: str) -> None:
    guest, _notices = read(tmp_path, {**AHCI, **service("vmxnet3ndis6", start)}, files("storahci", "vmxnet3ndis6"))
    assert verdict(guest, "vmxnet3").verdict == expected


# --- what else stops it


def test_filter_drivers_that_cannot_be_loaded_are_named(tmp_path: Path) -> None:
    values = {
        **AHCI,
        **service("acmeflt"),
        **service("good"),
        **service("off", 4),
        f"{CLASS}\\{DISK_CLASS}\\UpperFilters": ["partmgr", "acmeflt"],
        f"{CLASS}\\{DISK_CLASS}\\LowerFilters": ["gone", "good"],
        f"{CLASS}\\{VOLUME_CLASS}\\UpperFilters": ["off"],
    }
    _guest, notices = read(tmp_path, values, files("storahci", "good", "off"))
    found = next(item for item in notices if item.code == "disk-filter-missing")
    for words in ("acmeflt (DiskDrive", "gone (DiskDrive: no such service)", "off (Volume: disabled)"):
        assert words in found.message
    assert "good" not in found.message
    assert "partmgr" not in found.message


@pytest.mark.parametrize(("policy", "said"), [(1, False), (2, True), (3, True), (4, True)])
def test_a_policy_that_leaves_disks_offline_is_said(tmp_path: Path, policy: int, said: bool) -> None:
    values = {**AHCI, f"{SERVICES}\\partmgr\\Parameters\\SanPolicy": policy}
    _guest, notices = read(tmp_path, values, files("storahci"))
    assert ("san-policy" in codes(notices)) == said


@pytest.mark.parametrize(
    ("head", "fast", "expected"),
    [
        (b"hibr", 0, {"hibernated"}),
        (b"HIBR", 1, {"hibernated", "windows-fast-startup"}),
        (b"RSTR", 0, {"hibernated"}),
        (b"wake", 0, set()),
        (bytes(4096), 1, {"windows-fast-startup"}),
        (None, 1, set()),
    ],
)
def test_a_sleeping_windows_is_told_from_one_that_was_shut_down(
    tmp_path: Path, head: bytes | None, fast: int, expected: set[str]
) -> None:
    values = {**AHCI, "ControlSet001\\Control\\Session Manager\\Power\\HiberbootEnabled": fast}
    there = files("storahci") | ({} if head is None else {"hiberfil.sys": head + bytes(4092)})
    _guest, notices = read(tmp_path, values, there)
    assert codes(notices) - {"no-network-driver"} == expected
    severity = [item.severity for item in notices if item.code == "windows-fast-startup"]
    assert severity in ([], ["warning" if "hibernated" in expected else "info"])


def test_every_device_has_a_verdict_and_evidence(tmp_path: Path) -> None:
    guest, _notices = read(tmp_path, AHCI, files("storahci"))
    assert [item.device for item in guest.readiness] == [device.name for device in DEVICES]
    assert all(item.evidence for item in guest.readiness)
