# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._guest_id import (
    guest_id_candidates,
    known_since,
    known_to,
)

REPOSITORY = Path(__file__).resolve().parents[8]
GUEST_DATA = Path(os.environ.get("COLDMIG_GUEST_DATA", REPOSITORY.parent / "shared" / "guest-data"))


def guest(os_id: str, version: str = "", **others: Any) -> dict[str, Any]:
    return {"os_type": "linux", "id": os_id, "version": version, "kernel": "6.1.0-28-amd64", "drivers": [], **others}


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


#: Where ours is not the data's proposal, and why it is better.
_BETTER = {
    "chef/raspbian_10": "Raspbian's release numbers are Debian's",
    "chef/raspbian_11": "Raspbian's release numbers are Debian's",
    "chef/raspbian_8": "Raspbian's release numbers are Debian's",
    "chef/suse-microos": "SLE Micro 5 is SLES 15 underneath",
    "chef/xenserver_7_6": "no release number: by the kernel, not as Fedora",
}


def test_real_os_release_files_get_the_proposed_identifier() -> None:
    index = GUEST_DATA / "os-release" / "index.tsv"
    if not index.is_file():
        pytest.skip(f"{index} is absent (set COLDMIG_GUEST_DATA)")
    with index.open(newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    assert len(rows) > 100
    wrong = []
    for row in rows:
        release = _os_release(GUEST_DATA / "os-release" / row["path"])
        found = guest_id_candidates(
            guest(
                release.get("ID", "").lower(),
                release.get("VERSION_ID", ""),
                id_like=release.get("ID_LIKE", "").split(),
                platform_id=release.get("PLATFORM_ID", ""),
            )
        )
        if found[0] != row["proposed_guestId"] and row["path"] not in _BETTER:
            wrong.append((row["path"], row["rule"], found[0], row["proposed_guestId"]))
    assert wrong == []


def test_all_identifiers_exist_in_vsphere() -> None:
    table = GUEST_DATA / "guestids.tsv"
    if not table.is_file():
        pytest.skip(f"{table} is absent (set COLDMIG_GUEST_DATA)")
    with table.open(newline="") as lines:
        known = {row["guestId"] for row in csv.DictReader(lines, delimiter="\t")}
    source = Path(__file__).resolve().parents[4] / "plugins" / "module_utils" / "_guest_id.py"
    used = set(re.findall(r'"(\w+Guest(?:64)?)"', source.read_text()))
    assert used - known == set()
    for os_id, version, _unused in FIRST_CHOICE:
        assert set(guest_id_candidates(guest(os_id, version))) <= known


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"os_id": "neverheard", "id_like": ["rhel", "fedora"], "version": "9.4"}, "rhel9_64Guest"),
        ({"os_id": "neverheard", "id_like": ["rhel", "fedora"], "version": "41"}, "fedora64Guest"),
        ({"os_id": "neverheard", "platform_id": "platform:el8", "version": "2.1"}, "rhel8_64Guest"),
        ({"os_id": "neverheard", "platform_id": "platform:f40", "version": "40"}, "fedora64Guest"),
        ({"os_id": "neverheard", "id_like": ["debian"], "version": "3", "release": "11.7"}, "debian11_64Guest"),
        ({"os_id": "neverheard", "id_like": ["ubuntu", "debian"], "version": "3"}, "ubuntu64Guest"),
        ({"os_id": "neverheard", "id_like": ["suse"], "version": "3"}, "opensuse64Guest"),
        ({"os_id": "kali", "version": "2025.4", "release": "kali-rolling"}, "debian12_64Guest"),
        ({"os_id": "debian", "version": "12", "arch": "i386"}, "debian12Guest"),
        ({"os_id": "rhel", "version": "8", "arch": "i386"}, "rhel7Guest"),
        ({"os_id": "ubuntu", "version": "16.04", "arch": "i386"}, "ubuntuGuest"),
    ],
)
def test_what_stands_beside_the_id_is_used_too(facts: dict[str, Any], expected: str) -> None:
    assert guest_id_candidates(guest(**facts))[0] == expected


def windows(version: str, product_type: str = "ServerNT", **others: Any) -> dict[str, Any]:
    return {"os_type": "windows", "id": "windows", "version": version, "product_type": product_type, **others}


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        (windows("10.0.26100"), "windows2022srvNext_64Guest"),
        (windows("10.0.26100", "WinNT"), "windows11_64Guest"),
        (windows("10.0.25398"), "windows2019srvNext_64Guest"),
        (windows("10.0.19042"), "windows2019srv_64Guest"),
        (windows("10.0.17134", "LanmanNT"), "windows9Server64Guest"),
        (windows("10.0.19045", "ServerNT", edition="ServerRdsh"), "windows9_64Guest"),
        (windows("10.0.19045", "WinNT", arch="i386"), "windows9Guest"),
        (windows("6.3.9600"), "windows8Server64Guest"),
        (windows("6.1.7601", "WinNT", arch="i386"), "windows7Guest"),
        (windows("6.0.6003"), "winLonghorn64Guest"),
        (windows("6.0.6003", arch="i386"), "winLonghornGuest"),
        (windows("6.0.6002", "WinNT"), "winVista64Guest"),
        (windows("5.2.3790", pretty_name="Windows Server 2003, Datacenter Edition"), "winNetDatacenter64Guest"),
        (windows("5.2.3790", arch="i386"), "winNetStandardGuest"),
        (windows("5.2.3790", arch="i386", pretty_name="Windows Server 2003, Web Edition"), "winNetWebGuest"),
        (windows("5.2.3790", "WinNT"), "winXPPro64Guest"),
        (windows("5.1.2600", "WinNT", arch="i386"), "winXPProGuest"),
        (windows("5.0.2195", "WinNT", arch="i386"), "win2000ProGuest"),
        (windows("5.0.2195", arch="i386", pretty_name="Windows 2000 Advanced Server"), "win2000AdvServGuest"),
        # the name says 10, the build says 11
        (windows("10.0.22631", "WinNT", pretty_name="Windows 10 Pro"), "windows11_64Guest"),
    ],
)
def test_windows_goes_by_build_product_type_and_architecture(system: dict[str, Any], expected: str) -> None:
    assert guest_id_candidates(system)[0] == expected


def test_servers_degrade_one_release_at_a_time() -> None:
    assert guest_id_candidates(windows("10.0.26100"))[:4] == [
        "windows2022srvNext_64Guest", "windows2019srvNext_64Guest", "windows2019srv_64Guest", "windows9Server64Guest",
    ]  # fmt: skip


def test_32_bit_systems_never_get_a_64_bit_identifier() -> None:
    for os_id, version, _unused in FIRST_CHOICE:
        assert not [item for item in guest_id_candidates(guest(os_id, version, arch="i386")) if "64" in item]


def test_other_systems_are_named_as_far_as_vsphere_knows_them() -> None:
    assert guest_id_candidates({"os_type": "freebsd", "id": "freebsd", "version": "13.2-RELEASE"})[:2] == [
        "freebsd13_64Guest", "freebsd12_64Guest",
    ]  # fmt: skip
    assert guest_id_candidates({"os_type": "openbsd", "id": "openbsd", "version": "7.4"}) == ["otherGuest64"]


def test_servers_know_what_is_not_newer_than_they_are() -> None:
    assert known_to("7.0.3.0", ["debian12_64Guest", "debian11_64Guest", "debian10_64Guest"])[0] == "debian11_64Guest"
    assert known_to("", ["flatcar_64Guest"]) == ["flatcar_64Guest"]
    assert known_to("6.0", ["debian12_64Guest"]) == ["debian12_64Guest"]


def test_ages_of_identifiers_agree_with_the_list() -> None:
    table = GUEST_DATA / "guestids.tsv"
    if not table.is_file():
        pytest.skip(f"{table} is absent (set COLDMIG_GUEST_DATA)")
    with table.open(newline="") as lines:
        rows = {row["guestId"]: row for row in csv.DictReader(lines, delimiter="\t")}
    used = {item for os_id, version, _unused in FIRST_CHOICE for item in guest_id_candidates(guest(os_id, version))}
    for guest_id in used:
        offered = rows[guest_id]["listed_by_a_real_8.0U3_host_default_hw(transcribed)"] == "yes"
        assert offered == (known_since(guest_id) <= (8, 0, 3)) or guest_id.startswith("asianux"), guest_id
