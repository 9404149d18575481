# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot stores: which Windows starts by itself, under which firmware."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest
from hive_lab import dirty, hive, nested, software, write_windows

from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.guest.windows.bcd import device_identity, parse_boot_ini
from coldmig_agent.guest.windows.facts import read_windows
from coldmig_agent.guest.windows.model import BootStore, BootStoreEntry, WindowsFacts, WindowsSystem
from coldmig_agent.guest.windows.verdict import rank, to_guest

MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
FIRST, SECOND = "{733b62e5-f608-11eb-825c-c112f60133ab}", "{733b62e9-f608-11eb-825c-c112f60133ab}"
PARTITION = uuid.UUID("8e0f2c38-e4ea-47ba-b7fc-9d8c74dccf0b")


def gpt_device(partition: uuid.UUID) -> bytes:
    """An element that names a GPT partition, as bcdedit writes it."""
    disk = uuid.UUID("5e0b23a9-7d09-488d-8d48-719ecd4d78ca")
    body = partition.bytes_le + struct.pack("<II", 0, 0) + disk.bytes_le + bytes(16)
    return bytes(16) + struct.pack("<IIII", 6, 0, 0x48, 0) + body


def mbr_device(signature: int, offset: int) -> bytes:
    body = struct.pack("<QQIII", offset, 0, 0, 1, signature) + bytes(28)
    return bytes(16) + struct.pack("<IIII", 6, 0, 0x48, 0) + body


def entry(title: str, device: bytes, loader: str = "\\Windows\\system32\\winload.efi") -> dict[str, object]:
    elements = {"12000002": loader, "12000004": title, "21000001": device, "22000002": "\\Windows"}
    return {"Elements": {number: {"Element": value} for number, value in elements.items()}}


def store(default: str, order: list[str], objects: Mapping[str, object]) -> bytes:
    manager = {"23000003": {"Element": default}, "24000001": {"Element": order}}
    return hive({"Description": {"KeyName": "BCD00000000"}, "Objects": {MANAGER: {"Elements": manager}, **objects}})


def read(volume: Path) -> WindowsFacts | None:
    with GuestRoot.at(volume) as root:
        return read_windows(root)


@pytest.mark.parametrize(
    ("path", "firmware"),
    [("EFI/Microsoft/Boot/BCD", "efi"), ("Boot/BCD", "bios"), ("efi/MICROSOFT/BOOT/bcd", "efi")],
)
def test_the_default_entry_names_its_volume(tmp_path: Path, path: str, firmware: str) -> None:
    place = tmp_path / path
    place.parent.mkdir(parents=True)
    objects = {FIRST: entry("Windows 10", gpt_device(PARTITION)), SECOND: entry("Old one", mbr_device(0xABCD, 1 << 20))}
    place.write_bytes(store(FIRST, [SECOND, FIRST], objects))
    found = read(tmp_path)
    assert found is not None
    assert found.system is None
    loader = "\\Windows\\system32\\winload.efi"
    assert found.boot_store == BootStore(
        f"/{path}",
        firmware,
        (
            BootStoreEntry("Windows 10", loader, "\\Windows", f"gpt:{PARTITION}", default=True),
            BootStoreEntry("Old one", loader, "\\Windows", "mbr:0000abcd:1048576"),
        ),
    )


def test_a_dirty_store_is_read_and_a_broken_one_is_named(tmp_path: Path) -> None:
    place = tmp_path / "Boot/BCD"
    place.parent.mkdir()
    place.write_bytes(dirty(store(FIRST, [FIRST], {FIRST: entry("Windows 7", mbr_device(1, 2))})))
    found = read(tmp_path)
    assert found is not None
    assert found.boot_store is not None
    assert [item.title for item in found.boot_store.entries] == ["Windows 7"]
    place.write_bytes(b"nothing")
    found = read(tmp_path)
    assert found is not None
    assert found.boot_store is not None
    assert (found.boot_store.entries, found.boot_store.firmware) == ((), "bios")
    assert "BCD" in found.boot_store.problem


@pytest.mark.parametrize("element", [b"", bytes(71), bytes(88), gpt_device(PARTITION)[:40] + b"\xff" * 40])
def test_devices_of_other_kinds_have_no_identity(element: bytes) -> None:
    assert device_identity(element) == ""


def test_boot_ini_is_read() -> None:
    text = (
        "[boot loader]\r\ntimeout=30\r\ndefault=multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS\r\n"
        "[operating systems]\r\n"
        'multi(0)disk(0)rdisk(0)partition(2)\\WINNT="Windows 2000" /fastdetect\r\n'
        'multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS="Windows Server 2003, Standard" /noexecute=optout\r\n'
        'C:\\CMDCONS\\BOOTSECT.DAT="Recovery Console" /cmdcons\r\n'
    )
    assert parse_boot_ini(text) == (
        BootStoreEntry("Windows 2000", "ntldr", "\\WINNT", "", default=False),
        BootStoreEntry("Windows Server 2003, Standard", "ntldr", "\\WINDOWS", "", default=True),
    )


# --- which system starts

SYSTEM = WindowsSystem(root="/Windows", identity=f"gpt:{PARTITION}", written=5)


def boot(
    *, firmware: str = "efi", identity: str = f"gpt:{PARTITION}", root: str = "\\WINDOWS", default: bool = True
) -> BootStore:
    found = BootStoreEntry("Windows Server", "\\Windows\\system32\\winload.efi", root, identity, default=default)
    return BootStore("/EFI/Microsoft/Boot/BCD", firmware, (found,))


def test_the_system_that_the_default_entry_means_boots_and_brings_its_firmware() -> None:
    guest, _notices = to_guest(SYSTEM, place="p", key="k", stores=[boot(firmware="bios")], firmware="efi")
    assert (guest.bootable, guest.firmware, guest.boot_entry) == (True, "bios", "Windows Server")


@pytest.mark.parametrize(
    ("stores", "expected"),
    [
        ([], False),
        ([boot(root="\\Windows.1")], False),
        ([boot(default=False)], False),
        ([boot(identity="gpt:another")], True),
        ([boot(identity="")], True),
    ],
    ids=["no store", "another directory", "not by default", "restored on another disk", "boot.ini"],
)
def test_other_systems_boot_only_as_far_as_that_is_plausible(stores: list[BootStore], expected: bool) -> None:
    assert to_guest(SYSTEM, place="p", key="k", stores=stores)[0].bootable == expected


def test_of_two_stores_that_fit_the_one_for_the_machines_firmware_counts() -> None:
    stores = [boot(firmware="bios"), boot(firmware="efi")]
    assert to_guest(SYSTEM, place="p", key="k", stores=stores, firmware="efi")[0].firmware == "efi"
    assert to_guest(SYSTEM, place="p", key="k", stores=stores, firmware="bios")[0].firmware == "bios"


def test_systems_are_ordered_by_the_default_entry_then_by_their_last_write() -> None:
    other = WindowsSystem(root="/Windows", identity="gpt:other", written=9)
    setup = WindowsSystem(root="/Windows", identity="", written=99, preinstallation=True)
    ordered = sorted([SYSTEM, other, setup], key=lambda item: rank(item, [boot()]), reverse=True)
    assert ordered == [SYSTEM, other, setup]
    assert rank(other) > rank(SYSTEM) > rank(setup)


def test_the_volume_of_a_system_is_known_by_its_own_registry(tmp_path: Path) -> None:
    for number, (data, expected) in enumerate(
        [
            (b"DMIO:ID:" + PARTITION.bytes_le, f"gpt:{PARTITION}"),
            (struct.pack("<IQ", 0x5CBEA03E, 1 << 20), "mbr:5cbea03e:1048576"),
            (b"\\\0?\0?\0", ""),
        ]
    ):
        values = nested({"Select\\Current": 1, "ControlSet001\\x": 1})
        volume = tmp_path / str(number)
        names = {"SystemRoot": "D:\\Windows", "CurrentBuildNumber": "9600"}
        write_windows(volume, hive({**values, "MountedDevices": {"\\DosDevices\\D:": data}}), software(names))
        found = read(volume)
        assert found is not None
        assert found.system is not None
        assert found.system.identity == expected
