# SPDX-License-Identifier: GPL-3.0-or-later
"""Every Windows by its registry: what it is called, and which identifier vSphere gets for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._guest_id import guest_id_candidates
from hive_lab import PAGE, dirty, hive, nested, pe_file, software, write_windows

from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.guest.windows.facts import read_windows
from coldmig_agent.guest.windows.model import VersionFacts
from coldmig_agent.guest.windows.naming import pretty_name
from coldmig_agent.guest.windows.verdict import to_guest
from coldmig_agent.machine import Guest

AMD64, X86 = 0x8664, 0x14C


def ten(build: int, product: str, edition: str, **more: object) -> dict[str, object]:
    """CurrentVersion of NT 10.0, which calls itself 6.3 for old programs."""
    return {
        "CurrentVersion": "6.3",
        "CurrentMajorVersionNumber": 10,
        "CurrentMinorVersionNumber": 0,
        "CurrentBuild": str(build),
        "CurrentBuildNumber": str(build),
        "ProductName": product,
        "EditionID": edition,
        **more,
    }


def six(minor: int, build: int, product: str, edition: str, **more: object) -> dict[str, object]:
    """CurrentVersion of Vista to Windows 8.1."""
    numbers = {"CurrentVersion": f"6.{minor}", "CurrentBuildNumber": str(build), "CurrentBuild": str(build)}
    return {**numbers, "ProductName": product, "EditionID": edition, **more}


def five(minor: int, build: int, product: str, service_pack: str = "") -> dict[str, object]:
    """CurrentVersion of Windows 2000 to 2003; CurrentBuild is another thing there."""
    numbers = {
        "CurrentVersion": f"5.{minor}",
        "CurrentBuildNumber": str(build),
        "CurrentBuild": "1.511.1 () (Obsolete)",
    }
    return {**numbers, "ProductName": product, **({"CSDVersion": service_pack} if service_pack else {})}


@dataclass(frozen=True)
class Row:
    """A Windows and what has to come of it."""

    values: Mapping[str, object]
    product_type: str
    pretty: str
    guest_id: str
    machine: int = AMD64
    suite: list[str] = field(default_factory=list)


CLIENT, SERVER, CONTROLLER = "WinNT", "ServerNT", "LanmanNT"
ROWS = [
    Row(
        five(0, 2195, "Microsoft Windows 2000", "Service Pack 4"),
        CLIENT,
        "Windows 2000 Professional SP4",
        "win2000ProGuest",
        X86,
    ),
    Row(five(0, 2195, "Microsoft Windows 2000"), SERVER, "Windows 2000 Server Standard", "win2000ServGuest", X86),
    Row(
        five(0, 2195, "Microsoft Windows 2000"),
        SERVER,
        "Windows 2000 Server Enterprise",
        "win2000AdvServGuest",
        X86,
        ["Enterprise"],
    ),
    Row(
        five(1, 2600, "Microsoft Windows XP", "Service Pack 3"),
        CLIENT,
        "Windows XP Professional SP3",
        "winXPProGuest",
        X86,
    ),
    Row(
        five(2, 3790, "Microsoft Windows XP", "Service Pack 2"),
        CLIENT,
        "Windows XP Professional x64 SP2",
        "winXPPro64Guest",
    ),
    Row(
        five(2, 3790, "Microsoft Windows Server 2003", "Service Pack 2"),
        SERVER,
        "Windows Server 2003 Standard SP2",
        "winNetStandardGuest",
        X86,
    ),
    Row(
        five(2, 3790, "Microsoft Windows Server 2003"),
        CONTROLLER,
        "Windows Server 2003 Enterprise",
        "winNetEnterprise64Guest",
        AMD64,
        ["Terminal Server", "Enterprise"],
    ),
    Row(
        five(2, 3790, "Microsoft Windows Server 2003"),
        SERVER,
        "Windows Server 2003 Datacenter",
        "winNetDatacenter64Guest",
        AMD64,
        ["DataCenter"],
    ),
    Row(
        five(2, 3790, "Microsoft Windows Server 2003"),
        SERVER,
        "Windows Server 2003 Web",
        "winNetWebGuest",
        X86,
        ["Blade"],
    ),
    Row(
        five(2, 3790, "Microsoft Windows Server 2003"),
        CONTROLLER,
        "Windows Server 2003 Small Business Server",
        "winNetBusinessGuest",
        X86,
        ["Small Business(Restricted)"],
    ),
    Row(
        six(0, 6002, "Windows Vista (TM) Business", "Business", CSDVersion="Service Pack 2"),
        CLIENT,
        "Windows Vista Business SP2",
        "winVistaGuest",
        X86,
    ),
    Row(six(0, 6002, "Windows Vista (TM) Ultimate", "Ultimate"), CLIENT, "Windows Vista Ultimate", "winVista64Guest"),
    Row(
        six(0, 6003, "Windows Server (R) 2008 Standard", "ServerStandard", CSDVersion="Service Pack 2"),
        SERVER,
        "Windows Server 2008 Standard SP2",
        "winLonghorn64Guest",
    ),
    Row(
        six(0, 6002, "Windows Server (R) 2008 Standard", "ServerStandard"),
        SERVER,
        "Windows Server 2008 Standard",
        "winLonghornGuest",
        X86,
    ),
    Row(
        six(1, 7601, "Windows 7 Professional", "Professional", CSDVersion="Service Pack 1"),
        CLIENT,
        "Windows 7 Professional SP1",
        "windows7_64Guest",
    ),
    Row(six(1, 7601, "Windows 7 Enterprise", "Enterprise"), CLIENT, "Windows 7 Enterprise", "windows7Guest", X86),
    Row(
        six(1, 7601, "Windows Server 2008 R2 Enterprise", "ServerEnterprise", CSDVersion="Service Pack 1"),
        SERVER,
        "Windows Server 2008 R2 Enterprise SP1",
        "windows7Server64Guest",
    ),
    Row(six(2, 9200, "Windows 8 Pro", "Professional"), CLIENT, "Windows 8 Pro", "windows8_64Guest"),
    Row(
        six(2, 9200, "Windows Server 2012 Standard", "ServerStandard"),
        SERVER,
        "Windows Server 2012 Standard",
        "windows8Server64Guest",
    ),
    Row(six(3, 9600, "Windows 8.1", "Core"), CLIENT, "Windows 8.1 Home", "windows8Guest", X86),
    Row(
        six(3, 9600, "Windows Server 2012 R2 Datacenter", "ServerDatacenter", InstallationType="Server Core"),
        CONTROLLER,
        "Windows Server 2012 R2 Datacenter (Server Core)",
        "windows8Server64Guest",
    ),
    Row(
        ten(10240, "Windows 10 Enterprise 2015 LTSB", "EnterpriseS"),
        CLIENT,
        "Windows 10 Enterprise LTSB",
        "windows9_64Guest",
    ),
    Row(
        ten(19044, "Windows 10 Pro", "Professional", DisplayVersion="21H2", ReleaseId="2009"),
        CLIENT,
        "Windows 10 Pro 21H2",
        "windows9_64Guest",
    ),
    Row(
        ten(17763, "Windows 10 Enterprise LTSC 2019", "EnterpriseS", ReleaseId="1809"),
        CLIENT,
        "Windows 10 Enterprise LTSC 1809",
        "windows9Guest",
        X86,
    ),
    Row(
        ten(22000, "Windows 10 Pro", "Professional", DisplayVersion="21H2"),
        CLIENT,
        "Windows 11 Pro 21H2",
        "windows11_64Guest",
    ),
    Row(
        ten(26100, "Windows 10 Enterprise", "Enterprise", DisplayVersion="24H2"),
        CLIENT,
        "Windows 11 Enterprise 24H2",
        "windows11_64Guest",
    ),
    Row(
        ten(22631, "Windows 10 Enterprise for Virtual Desktops", "ServerRdsh", DisplayVersion="23H2"),
        SERVER,
        "Windows 11 Enterprise multi-session 23H2",
        "windows11_64Guest",
    ),
    Row(
        ten(14393, "Windows Server 2016 Standard", "ServerStandard", ReleaseId="1607"),
        SERVER,
        "Windows Server 2016 Standard",
        "windows9Server64Guest",
    ),
    Row(
        ten(16299, "Windows Server Standard", "ServerStandardACor", InstallationType="Server Core"),
        SERVER,
        "Windows Server, version 1709 Standard (Server Core)",
        "windows9Server64Guest",
    ),
    Row(
        ten(17134, "Windows Server Datacenter", "ServerDatacenterACor"),
        SERVER,
        "Windows Server, version 1803 Datacenter",
        "windows9Server64Guest",
    ),
    Row(
        ten(17763, "Windows Server 2019 Datacenter Evaluation", "ServerDatacenterEval", ReleaseId="1809"),
        CONTROLLER,
        "Windows Server 2019 Datacenter Evaluation",
        "windows2019srv_64Guest",
    ),
    Row(
        ten(19042, "Windows Server Standard", "ServerStandardACor", DisplayVersion="20H2"),
        SERVER,
        "Windows Server, version 20H2 Standard",
        "windows2019srv_64Guest",
    ),
    Row(
        ten(20348, "Windows Server 2022 Datacenter", "ServerDatacenter", DisplayVersion="21H2"),
        SERVER,
        "Windows Server 2022 Datacenter",
        "windows2019srvNext_64Guest",
    ),
    Row(
        ten(20348, "Windows Server 2022 Datacenter Azure Edition", "ServerTurbine", DisplayVersion="21H2"),
        SERVER,
        "Windows Server 2022 Datacenter: Azure Edition",
        "windows2019srvNext_64Guest",
    ),
    Row(
        ten(25398, "Windows Server 2022 Datacenter", "ServerDatacenter", DisplayVersion="23H2"),
        SERVER,
        "Windows Server, version 23H2 Datacenter",
        "windows2019srvNext_64Guest",
    ),
    Row(
        ten(26100, "Windows Server 2025 Standard", "ServerStandard", DisplayVersion="24H2"),
        SERVER,
        "Windows Server 2025 Standard",
        "windows2022srvNext_64Guest",
    ),
]


def system_hive(product_type: str, suite: list[str], **more: object) -> bytes:
    options = {"ProductType": product_type, "ProductSuite": suite}
    return hive(
        nested(
            {
                "Select\\Current": 1,
                **{f"ControlSet001\\Control\\ProductOptions\\{name}": value for name, value in options.items()},
                "ControlSet001\\Control\\ComputerName\\ComputerName\\ComputerName": "SENSEI",
                "ControlSet001\\Services\\Tcpip\\Parameters\\Hostname": "sensei",
                "ControlSet001\\Services\\Tcpip\\Parameters\\Domain": "example.org",
                **more,
            }
        )
    )


def guest_of(volume: Path) -> Guest:
    with GuestRoot.at(volume) as root:
        facts = read_windows(root)
    assert facts is not None
    assert facts.system is not None
    return to_guest(facts.system, place="disk 0, partition 2", key="disk0/2")[0]


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.pretty}{'' if row.machine == AMD64 else ' x86'}" for row in ROWS])
def test_each_windows_gets_its_name_and_its_identifier(tmp_path: Path, row: Row) -> None:
    write_windows(tmp_path, system_hive(row.product_type, row.suite), software({**row.values, "UBR": 2113}))
    (tmp_path / "Windows/System32/cmd.exe").write_bytes(pe_file(row.machine))
    guest = guest_of(tmp_path)
    build = int(str(row.values["CurrentBuildNumber"]))
    major = row.values.get("CurrentMajorVersionNumber")
    nt = f"{major}.0" if major else row.values["CurrentVersion"]
    assert guest.pretty_name == row.pretty
    assert (guest.os_type, guest.id, guest.version, guest.build) == ("windows", "windows", f"{nt}.{build}", build)
    assert (guest.ubr, guest.release) == (2113, f"{nt}.{build}.2113")
    assert (guest.product_type, guest.arch) == (row.product_type, "x86_64" if row.machine == AMD64 else "i386")
    view = {name: getattr(guest, name) for name in guest.__dataclass_fields__}
    assert guest_id_candidates(view)[0] == row.guest_id


def test_the_dns_name_the_netbios_name_and_the_domain_are_told(tmp_path: Path) -> None:
    guest = guest_of(write_windows(tmp_path, system_hive(CLIENT, []), software(ten(19045, "x", "Professional"))))
    assert (guest.hostname, guest.computer_name, guest.domain) == ("sensei", "SENSEI", "example.org")


def test_the_name_that_setup_gives_is_none(tmp_path: Path) -> None:
    names = {
        "ControlSet001\\Control\\ComputerName\\ComputerName\\ComputerName": "MINWINPC",
        "ControlSet001\\Services\\Tcpip\\Parameters\\Hostname": "minwinpc",
    }
    guest = guest_of(write_windows(tmp_path, system_hive(CLIENT, [], **names), software({})))
    assert (guest.hostname, guest.computer_name) == (None, None)


def test_the_name_for_the_next_start_counts(tmp_path: Path) -> None:
    more = {"ControlSet001\\Services\\Tcpip\\Parameters\\NV Hostname": "renamed"}
    assert guest_of(write_windows(tmp_path, system_hive(CLIENT, [], **more), software({}))).hostname == "renamed"


@pytest.mark.parametrize(("current", "expected"), [(2, "second"), (7, "first")], ids=["Current", "broken Select"])
def test_the_control_set_in_use_counts(tmp_path: Path, current: int, expected: str) -> None:
    name = "Services\\Tcpip\\Parameters\\Hostname"
    values = {"Select\\Current": current, f"ControlSet001\\{name}": "first", f"ControlSet002\\{name}": "second"}
    guest = guest_of(write_windows(tmp_path, hive(nested(values)), software({})))
    assert guest.hostname == expected


# --- without SOFTWARE


def unreadable_software(volume: Path, system: bytes) -> Path:
    return write_windows(volume, system, bytes(2 * PAGE))


def test_without_software_the_kernels_file_tells_the_build(tmp_path: Path) -> None:
    unreadable_software(tmp_path, system_hive(SERVER, []))
    (tmp_path / "Windows/System32/ntoskrnl.exe").write_bytes(pe_file(version=(10, 0, 20348, 2113)))
    guest = guest_of(tmp_path)
    assert (guest.version, guest.ubr, guest.pretty_name) == ("10.0.20348", 2113, "Windows Server 2022")
    assert guest_id_candidates({"os_type": "windows", "version": guest.version, "product_type": SERVER})[0] == (
        "windows2019srvNext_64Guest"
    )


@pytest.mark.parametrize(
    ("number", "product_type", "pretty"),
    [
        (0x0A000000, CLIENT, "Windows 10 or 11"),
        (0x0A000000, SERVER, "Windows Server 2016 or later"),
        (0x06030000, CLIENT, "Windows 8.1"),
        (0x06020000, SERVER, "Windows Server 2012"),
    ],
)
def test_without_software_and_kernel_the_device_database_tells_the_version(
    tmp_path: Path, number: int, product_type: str, pretty: str
) -> None:
    more = {"DriverDatabase\\Version": number, "DriverDatabase\\Architecture": 9}
    unreadable_software(tmp_path, system_hive(product_type, [], **more))
    (tmp_path / "Windows/System32/cmd.exe").write_bytes(b"compressed away")
    guest = guest_of(tmp_path)
    assert (guest.pretty_name, guest.arch) == (pretty, "x86_64")


def test_with_nothing_readable_it_is_still_a_windows(tmp_path: Path) -> None:
    guest = guest_of(write_windows(tmp_path, bytes(2 * PAGE), bytes(100)))
    assert (guest.os_type, guest.pretty_name, guest.version, guest.arch) == ("windows", "Windows", "", "x86_64")
    assert {item.verdict for item in guest.readiness} == {"unknown"}


def test_a_stale_hive_still_names_the_system(tmp_path: Path) -> None:
    write_windows(
        tmp_path, dirty(system_hive(CLIENT, [])), dirty(software(ten(22631, "Windows 10 Pro", "Professional")))
    )
    assert guest_of(tmp_path).pretty_name == "Windows 11 Pro"


@pytest.mark.parametrize(
    ("version", "product_type", "expected"),
    [
        (VersionFacts(), "", "Windows"),
        (VersionFacts(major=6, minor=1), "", "Windows 7 or Server 2008 R2"),
        (VersionFacts(major=7, minor=5, edition="Odd"), "ServerNT", "Windows NT 7.5 Odd"),
        (
            VersionFacts(major=10, minor=0, build=99999, edition="ServerStandard"),
            "ServerNT",
            "Windows Server 2025 Standard",
        ),
    ],
)
def test_odd_versions_are_named_as_far_as_they_are_known(
    version: VersionFacts, product_type: str, expected: str
) -> None:
    assert pretty_name(version, product_type) == expected
