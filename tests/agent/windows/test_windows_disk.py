# SPDX-License-Identifier: GPL-3.0-or-later
"""A Windows on a real NTFS, looked into as the agent does it: in its jail, on an overlay where there is one."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, need, place, run
from disk_lab import fuse_mounted
from hive_lab import dirty, hive, log_of, nested, software, write_windows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coldmig_agent import records
from coldmig_agent.discovery.disks import read_image_files
from coldmig_agent.guest.assemble import Assembly, assemble
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.guest.windows import pe
from coldmig_agent.guest.windows.facts import read_windows
from coldmig_agent.guest.windows.model import WindowsFacts
from coldmig_agent.guest.windows.tree import Tree
from coldmig_agent.inspection.limits import Limits
from coldmig_agent.inspection.look import inspect
from support.images import sha256

NTFS_GUID = uuid.UUID("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")
MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
ENTRY = "{733b62e5-f608-11eb-825c-c112f60133ab}"
DRIVERS = ("pci", "disk", "partmgr", "mountmgr", "volmgr", "storahci")
SERVER = {
    "CurrentMajorVersionNumber": 10,
    "CurrentMinorVersionNumber": 0,
    "CurrentBuildNumber": "20348",
    "UBR": 2113,
    "ProductName": "Windows Server 2022 Datacenter",
    "EditionID": "ServerDatacenter",
    "DisplayVersion": "21H2",
    "SystemRoot": "C:\\Windows",
}


def system_values(host: str) -> dict[str, object]:
    package = "DriverDatabase\\DriverPackages\\mshdc.inf_amd64_0"
    values: dict[str, object] = {
        "Select\\Current": 1,
        "ControlSet001\\Control\\ProductOptions\\ProductType": "ServerNT",
        "ControlSet001\\Services\\Tcpip\\Parameters\\Hostname": host,
        "DriverDatabase\\DeviceIds\\PCI\\CC_010601\\mshdc.inf": b"\x01",
        "DriverDatabase\\DriverInfFiles\\mshdc.inf\\Active": "mshdc.inf_amd64_0",
        f"{package}\\Descriptors\\PCI\\CC_010601\\Configuration": "ahci",
        f"{package}\\Configurations\\ahci\\Service": "storahci",
    }
    return values | {f"ControlSet001\\Services\\{name}\\Start": 0 for name in DRIVERS}


def system_hive(host: str) -> bytes:
    tree = nested(system_values(host))
    return hive({**tree, "MountedDevices": {"\\DosDevices\\C:": b"DMIO:ID:" + NTFS_GUID.bytes_le}}, room=4096)


def boot_store() -> bytes:
    device = bytes(16) + struct.pack("<IIII", 6, 0, 0x48, 0) + NTFS_GUID.bytes_le + bytes(40)
    elements = {
        "12000004": "Windows Server",
        "21000001": device,
        "22000002": "\\windows",
        "12000002": "\\x\\winload.efi",
    }
    objects = {
        MANAGER: {"Elements": {"23000003": {"Element": ENTRY}}},
        ENTRY: {"Elements": {number: {"Element": value} for number, value in elements.items()}},
    }
    return hive({"Objects": objects})


def fill(volume: Path) -> None:
    """A Windows that lost its power: the new name stands in the log only; names are in odd cases."""
    old, new = system_hive("yesterday"), system_hive("today")
    files = {f"Windows/System32/DRIVERS/{name.title()}.sys": b"MZ" for name in DRIVERS}
    write_windows(volume, dirty(old), software(SERVER), files)
    config = volume / "Windows/System32/config"
    (config / "SYSTEM.LOG1").write_bytes(log_of(old, new, 8))
    (config / "SYSTEM.LOG2").write_bytes(b"")
    write_windows(volume, old, software(SERVER), root="Windows.old/Windows")
    (volume / "hiberfil.sys").write_bytes(bytes(4096))
    (volume / "Users").mkdir()


def reserved(volume: Path) -> None:
    """The small volume that a machine with BIOS boots from."""
    (volume / "Boot").mkdir()
    (volume / "Boot/BCD").write_bytes(boot_store())
    (volume / "bootmgr").write_bytes(b"MZ")


def ntfs_image(tmp_path: Path, name: str, fill_it: Callable[[Path], None]) -> Path:
    need("mkntfs", "ntfs-3g")
    image = empty_image(tmp_path / f"{name}.img", 12 * MIB)
    run("mkntfs", "-Q", "-F", "-q", "-L", name, image)
    with fuse_mounted("ntfs-3g", image, tmp_path / "mnt") as volume:
        fill_it(volume)
    return image


def disk_with(path: Path, parts: Sequence[Path]) -> Path:
    need("sfdisk")
    empty_image(path, sum(part.stat().st_size for part in parts) + MIB)
    start, table = MIB, ["label: dos"]
    for part in parts:
        table.append(f"start={start // 512}, size={part.stat().st_size // 512}, type=7")
        place(path, part, start)
        start += part.stat().st_size
    run("sfdisk", "-q", path, stdin="\n".join(table).encode())
    return path


def systems_of(disk: Path) -> Assembly:
    look = inspect(read_image_files([disk]), Limits(300))
    assert [volume.problem for volume in look.volumes] == [""] * len(look.volumes)
    return assemble(look.volumes, "bios")


@pytest.mark.usefixtures("loop_devices")
def test_a_windows_is_read_from_its_disk_and_the_disk_is_unchanged(tmp_path: Path) -> None:
    volumes = [ntfs_image(tmp_path, "reserved", reserved), ntfs_image(tmp_path, "system", fill)]
    disk = disk_with(tmp_path / "disk.img", volumes)
    before = sha256(disk)
    found = systems_of(disk)
    assert sha256(disk) == before
    (guest,) = found.guests
    assert (guest.key, guest.place) == ("disk0/2", "disk 0, partition 2")
    assert guest.pretty_name == "Windows Server 2022 Datacenter"
    assert (guest.release, guest.product_type, guest.arch) == ("10.0.20348.2113", "ServerNT", "x86_64")
    assert guest.hostname == "today"
    assert (guest.bootable, guest.firmware, guest.boot_entry) == (True, "bios", "Windows Server")
    assert {item.device for item in guest.readiness if item.verdict == "ready"} == {"ahci"}
    assert {item.code for item in found.notices} == {"no-network-driver"}


def directory(path: Path) -> Tree:
    return Tree(GuestRoot.at(path))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("/WINDOWS/system32/CMD.EXE", "/Windows/System32/cmd.exe"),
        ("windows\\System32\\cmd.exe", "/Windows/System32/cmd.exe"),
        ("/", ""),
        ("/windows/nothing", None),
        ("/windows/../windows", None),
        ("/windows/system32/cmd.exe/x", None),
    ],
)
def test_names_are_found_in_any_case(tmp_path: Path, asked: str, expected: str | None) -> None:
    write_windows(tmp_path, b"", b"")
    assert directory(tmp_path).find(asked) == expected


def test_of_names_that_differ_in_case_only_the_exact_one_counts(tmp_path: Path) -> None:
    for name in ("Name", "NAME", "name"):
        (tmp_path / name).write_text(name)
    assert [directory(tmp_path).find(name) for name in ("NAME", "Name", "name")] == ["/NAME", "/Name", "/name"]
    assert directory(tmp_path).find("nAmE") in {"/NAME", "/Name", "/name"}


def test_a_file_that_cannot_be_opened_is_there_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "compressed.sys").symlink_to("unsupported reparse tag 0x80000017")
    assert directory(tmp_path).exists("/COMPRESSED.SYS")
    assert directory(tmp_path).read("/compressed.sys", 10) is None


def read(volume: Path) -> WindowsFacts | None:
    with GuestRoot.at(volume) as root:
        facts = read_windows(root)
    if facts is not None:
        assert records.from_json(WindowsFacts, records.to_json(facts)) == facts
    return facts


@pytest.mark.parametrize("missing", ["cmd.exe", "config/SYSTEM", "config/SOFTWARE"])
def test_a_directory_that_lacks_what_every_windows_has_is_none(tmp_path: Path, missing: str) -> None:
    write_windows(tmp_path, system_hive("a"), software(SERVER))
    (tmp_path / "Windows/System32" / missing).unlink()
    assert read(tmp_path) is None


@pytest.mark.parametrize("name", ["Windows.old", "$WINDOWS.~BT", "Windows.old.000", "Recovery"])
def test_a_former_windows_is_none(tmp_path: Path, name: str) -> None:
    write_windows(tmp_path, system_hive("a"), software(SERVER), root=name)
    assert read(tmp_path) is None


@pytest.mark.parametrize("name", ["WINNT", "windows", "WINDOWS.0"])
def test_windows_directories_of_other_names_are_found(tmp_path: Path, name: str) -> None:
    write_windows(tmp_path, system_hive("a"), software(SERVER), root=name)
    found = read(tmp_path)
    assert found is not None
    assert found.system is not None
    assert found.system.root == f"/{name}"


def test_of_two_on_a_volume_the_one_written_last_counts_and_setup_never(tmp_path: Path) -> None:
    write_windows(tmp_path, system_hive("old"), software(SERVER), root="WINNT")
    write_windows(tmp_path, system_hive("new"), software(SERVER), root="Windows")
    write_windows(tmp_path, system_hive("setup"), software({**SERVER, "EditionID": "WindowsPE"}), root="Setup")
    for name, age in (("WINNT", 100), ("Windows", 200), ("Setup", 300)):
        for file in ("SYSTEM", "SOFTWARE"):
            run("touch", "-d", f"@{age}", tmp_path / name / "System32/config" / file)
    found = read(tmp_path)
    assert found is not None
    assert found.system is not None
    assert (found.system.host_name, found.system.others) == ("new", ("/Setup", "/WINNT"))


def test_a_volume_without_windows_is_none(tmp_path: Path) -> None:
    (tmp_path / "DCIM").mkdir()
    assert read(tmp_path) is None


@pytest.mark.parametrize(
    ("head", "expected"),
    [(b"", None), (b"MZ", None), (b"MZ" + b"\xff" * 62, None), (b"\x7fELF" + bytes(100), None)],
)
def test_what_is_no_program_has_no_machine(head: bytes, expected: str | None) -> None:
    assert pe.machine(head) == expected
    assert pe.product_version(head) is None


NAMES = st.sampled_from(["config/SYSTEM", "config/SOFTWARE", "config/DRIVERS", "config/SYSTEM.LOG1", "cmd.exe"])

CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=12)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=NAMES, places=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=12), cut=st.booleans()
)
def test_whatever_is_damaged_facts_come_out(
    tmp_path: Path, name: str, places: list[tuple[int, int]], cut: bool
) -> None:
    old = system_hive("yesterday")
    drivers = hive(nested({"DriverDatabase\\DeviceIds\\PCI\\VEN_8086&DEV_10D3\\net1ic64.inf": b"\x01"}))
    write_windows(tmp_path, dirty(old), software(SERVER), {"Windows/System32/config/DRIVERS": drivers})
    (tmp_path / "Windows/System32/config/SYSTEM.LOG1").write_bytes(log_of(old, system_hive("today"), 8))
    file = tmp_path / "Windows/System32" / name
    data = bytearray(file.read_bytes())
    for spot, value in places:
        data[spot % len(data)] = value
    file.write_bytes(data[: len(data) // 2] if cut else data)
    found = read(tmp_path)
    assert found is not None
    assert found.system is not None
    assert found.system.root == "/Windows"
