# SPDX-License-Identifier: GPL-3.0-or-later
"""With what the new machine boots: decided by the disks and the systems on them, not by how the ISO was started."""

from __future__ import annotations

import random
import struct
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, need, run, write_tree

from coldmig_agent.discovery import firmware, nvram, tpm
from coldmig_agent.discovery.disks import Source, read_image_files
from coldmig_agent.discovery.nvram import BootEntry
from coldmig_agent.encryption import Luks
from coldmig_agent.machine import Guest, Tpm

GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
ESP_UUID = "11111111-2222-3333-4444-555555555555"
BIOS_BOOT, ESP = ("-n1:2048:+1M", "-t1:ef02"), ("-n2:0:+16M", "-t2:ef00", f"-u2:{ESP_UUID}")
GRUB = b"\xeb\x63\x90"
WINDOWS = bytes.fromhex("33c08ed0bc007c") + b"Invalid partition table"


def gpt_disk(directory: Path, *parts: str, code: bytes = b"") -> Source:
    need("sgdisk")
    path = empty_image(directory / "disk.img", 64 * MIB)
    run("sgdisk", *(parts or ("-n1:0:0",)), path)
    return with_code(path, code)


def mbr_disk(directory: Path, *lines: str, code: bytes = b"") -> Source:
    need("sfdisk")
    path = empty_image(directory / "disk.img", 64 * MIB)
    run("sfdisk", "-q", path, stdin="\n".join(["label: dos", "label-id: 0xdeadbeef", *lines, ""]).encode())
    return with_code(path, code)


def with_code(path: Path, code: bytes) -> Source:
    with path.open("r+b") as file:
        file.write(code)
    (source,) = read_image_files([path])
    return source


def decided(
    source: Source,
    live: str,
    guest: Guest | None = None,
    loaders: Mapping[str, Sequence[str]] | None = None,
    order: str | None = None,
) -> tuple[str, list[str]]:
    found, notices = firmware.decide(firmware.evidence([source], loaders or {}), live, guest, order)
    return found, [notice.code for notice in notices]


@pytest.mark.parametrize(
    ("parts", "live", "expected"),
    [
        (ESP, "efi", ("efi", [])),
        (ESP, "bios", ("efi", ["firmware-mismatch"])),
        (BIOS_BOOT, "efi", ("bios", ["firmware-mismatch"])),
        ((*BIOS_BOOT, *ESP), "efi", ("efi", ["firmware-conflict"])),
        ((*BIOS_BOOT, *ESP), "bios", ("bios", ["firmware-conflict"])),
        (("-n1:0:0",), "bios", ("bios", [])),
        (("-n1:0:0",), "efi", ("efi", [])),
    ],
    ids=["ESP", "ESP, live BIOS", "BIOS-boot", "both, live EFI", "both, live BIOS", "neither", "neither, live EFI"],
)
def test_the_partitions_of_a_gpt_decide(
    tmp_path: Path, parts: tuple[str, ...], live: str, expected: tuple[str, list[str]]
) -> None:
    assert decided(gpt_disk(tmp_path, *parts), live) == expected


def test_a_system_partition_without_a_loader_starts_nothing(tmp_path: Path) -> None:
    source = gpt_disk(tmp_path, *BIOS_BOOT, *ESP)
    assert decided(source, "efi", loaders={"disk0/2": ()}) == ("bios", ["firmware-mismatch"])
    assert decided(source, "efi", loaders={"disk0/2": ("/efi/boot/bootx64.efi",)}) == ("efi", ["firmware-conflict"])


@pytest.mark.parametrize(
    ("lines", "code", "live", "expected"),
    [
        (["start=2048, type=83, bootable"], GRUB, "efi", "bios"),
        (["start=2048, type=83"], GRUB, "efi", "bios"),
        (["start=2048, type=7, bootable"], WINDOWS, "efi", "bios"),
        (["start=2048, type=7"], WINDOWS, "efi", "efi"),
        (["start=2048, type=83, bootable"], b"", "efi", "efi"),
        (["start=2048, type=ef"], b"", "bios", "efi"),
    ],
    ids=["grub", "grub, none active", "Windows", "a data disk of Windows", "no code", "ESP on MBR"],
)
def test_code_and_active_partition_of_an_mbr_decide(
    tmp_path: Path, lines: list[str], code: bytes, live: str, expected: str
) -> None:
    assert decided(mbr_disk(tmp_path, *lines, code=code), live)[0] == expected


def test_gpt_started_by_syslinux_is_bios(tmp_path: Path) -> None:
    source = gpt_disk(tmp_path, "-n1:2048:0", "-t1:8300", "-A1:set:2", code=b"\x33\xc0 Missing operating system")
    assert decided(source, "efi") == ("bios", ["firmware-mismatch"])


@pytest.mark.parametrize("wanted", ["bios", "efi"])
@pytest.mark.parametrize("live", ["bios", "efi"])
def test_the_default_boot_entry_decides_where_the_disks_can_do_both(tmp_path: Path, wanted: str, live: str) -> None:
    source = gpt_disk(tmp_path, *BIOS_BOOT, *ESP)
    found, codes = decided(source, live, Guest(firmware=wanted))
    assert found == wanted
    assert "firmware-conflict" not in codes


def test_a_loader_for_a_firmware_that_the_disks_cannot_be_started_with_is_a_conflict(tmp_path: Path) -> None:
    source = gpt_disk(tmp_path, *BIOS_BOOT)
    seen = firmware.evidence([source], {})
    found, (notice,) = firmware.decide(seen, "bios", Guest(firmware="efi"), None)
    assert (found, notice.code) == ("efi", "firmware-conflict")
    assert "BIOS: a BIOS boot partition (disk 0, partition 1)" in notice.message
    assert "UEFI: its boot loader is for UEFI" in notice.message


def test_the_firmwares_own_boot_order_decides_before_the_isos_start(tmp_path: Path) -> None:
    source = gpt_disk(tmp_path, *BIOS_BOOT, *ESP)
    own, other = BootEntry(1, "debian", ESP_UUID, ""), BootEntry(2, "stick", str(uuid.uuid4()), "")
    assert firmware.of_boot_order([source], [other]) is None
    order = firmware.of_boot_order([source], [other, own])
    assert decided(source, "bios", order=order) == ("efi", ["firmware-mismatch"])


# --- what UEFI keeps


def option(title: str, *nodes: bytes, active: bool = True) -> bytes:
    """An EFI_LOAD_OPTION."""
    path = b"".join(nodes) + bytes.fromhex("7fff0400")
    return struct.pack("<IH", int(active), len(path)) + f"{title}\0".encode("utf-16-le") + path


def node(kind: int, sub: int, data: bytes) -> bytes:
    return struct.pack("<BBH", kind, sub, 4 + len(data)) + data


def hard_drive(identity: str) -> bytes:
    return node(4, 1, struct.pack("<IQQ", 2, 2048, 4096) + uuid.UUID(identity).bytes_le + b"\x02\x02")


def mbr_drive(number: int, signature: int) -> bytes:
    return node(4, 1, struct.pack("<IQQI12x", number, 63, 4096, signature) + b"\x01\x01")


def loader(path: str) -> bytes:
    return node(4, 4, f"{path}\0".encode("utf-16-le"))


PCI = node(1, 1, b"\x00\x1f")


def efivars(root: Path, **values: bytes) -> Path:
    files = {f"firmware/efi/efivars/{name}-{GLOBAL}": b"\x07\0\0\0" + value for name, value in values.items()}
    return write_tree(root, files)


def test_boot_entries_come_in_the_firmwares_order(tmp_path: Path) -> None:
    sys = efivars(
        tmp_path,
        BootOrder=struct.pack("<5H", 3, 0x1A, 7, 9, 3),
        Boot0003=option("Windows Boot Manager", PCI, hard_drive(ESP_UUID), loader(r"\EFI\MICROSOFT\BOOT\BOOTMGFW.EFI")),
        Boot001A=option("UEFI DVD", PCI, node(4, 2, bytes(20))),
        Boot0007=option("old", mbr_drive(1, 0xDEADBEEF), loader(r"\EFI\x.efi")),
        Boot0009=option("inactive", hard_drive(ESP_UUID), active=False),
        Boot0001=option("not in the order", hard_drive(ESP_UUID)),
    )
    assert nvram.boot_entries(sys) == (
        BootEntry(3, "Windows Boot Manager", ESP_UUID, r"\EFI\MICROSOFT\BOOT\BOOTMGFW.EFI"),
        BootEntry(7, "old", "deadbeef-01", r"\EFI\x.efi"),
    )


def test_the_partitions_of_entries_are_named_as_the_tables_name_them(tmp_path: Path) -> None:
    assert {entry.uuid for entry in gpt_disk(tmp_path, *ESP).table.entries} == {ESP_UUID}
    assert [e.uuid for e in mbr_disk(tmp_path, "start=2048, type=83").table.entries] == ["deadbeef-01"]


def test_a_machine_without_uefi_has_no_entries(tmp_path: Path) -> None:
    assert nvram.boot_entries(tmp_path) == ()
    assert nvram.secure_boot(tmp_path) is None
    assert firmware.live_firmware(tmp_path) == "bios"


def test_damaged_variables_neither_fail_nor_hang(tmp_path: Path) -> None:
    chance = random.Random(7)
    whole = option("Debian", PCI, hard_drive(ESP_UUID), loader(r"\EFI\debian\shimx64.efi"))
    assert nvram.parse_option(0, whole) is not None
    for _ in range(2000):
        broken = bytearray(whole)
        for _ in range(chance.randrange(1, 8)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        nvram.parse_option(0, bytes(broken[: chance.randrange(len(broken) + 1)]))
    assert nvram.boot_entries(efivars(tmp_path, BootOrder=b"\x01")) == ()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SecureBoot": b"\1", "SetupMode": b"\0"}, True),
        ({"SecureBoot": b"\1", "SetupMode": b"\1"}, False),
        ({"SecureBoot": b"\0"}, False),
        ({"SecureBoot": b"\1"}, True),
        ({"SecureBoot": b""}, None),
    ],
)
def test_secure_boot_is_read_after_the_attributes(
    tmp_path: Path, variables: dict[str, bytes], expected: bool | None
) -> None:
    sys = efivars(tmp_path, **variables)
    assert nvram.secure_boot(sys) is expected
    assert firmware.live_firmware(sys) == "efi"


# --- TPM


@pytest.mark.parametrize(("major", "version"), [("1\n", "1.2"), ("2\n", "2.0"), ("\n", "")])
def test_a_tpm_is_described_with_its_version(tmp_path: Path, major: str, version: str) -> None:
    assert tpm.read(tmp_path) is None
    write_tree(tmp_path, {"class/tpm/tpm0/tpm_version_major": major})
    assert tpm.read(tmp_path) == Tpm(version)


def test_a_tpm_is_mentioned_and_more_where_a_volume_does_not_tell_what_opens_it() -> None:
    assert tpm.notices(None, [Luks(problem="x")]) == []
    assert [item.code for item in tpm.notices(Tpm("2.0"), [Luks(version=2)])] == ["tpm-present"]
    assert [item.code for item in tpm.notices(Tpm("2.0"), [Luks(problem="x")])] == ["tpm-encrypted"]
