# SPDX-License-Identifier: GPL-3.0-or-later
"""BitLocker's metadata: protectors, the computer's name, damage. What is made here is what cryptsetup understands."""

from __future__ import annotations

import random
import re
import struct
import sys
from pathlib import Path

import pytest
from agent_lab import need, run

sys.path.insert(0, str(Path(__file__).parent))
from bitlocker_lab import (
    CLEAR,
    GUID,
    OFFSETS,
    PASSWORD,
    RECOVERY,
    SMART_CARD,
    STARTUP,
    TPM,
    TPM_PIN,
    TPM_STARTUP,
    volume,
)
from luks_lab import reader

from coldmig_agent.discovery.filesystems import probe
from coldmig_agent.encryption.bitlocker import BitLocker, read_bitlocker

NAMES = {
    CLEAR: "clear key", TPM: "TPM", STARTUP: "startup key", TPM_PIN: "TPM and PIN", RECOVERY: "recovery passphrase",
    SMART_CARD: "smart card", PASSWORD: "passphrase",
}  # fmt: skip


def read(image: bytes | bytearray) -> BitLocker:
    return read_bitlocker(reader(image))


@pytest.mark.parametrize("to_go", [False, True], ids=["fixed", "To-Go"])
def test_protectors_and_description_are_those_that_cryptsetup_shows(tmp_path: Path, to_go: bool) -> None:
    need("cryptsetup")
    path = tmp_path / "volume.img"
    path.write_bytes(volume(list(NAMES), to_go=to_go))
    shown = run("cryptsetup", "bitlkDump", path).decode()
    found = read(path.read_bytes())
    assert re.findall(r"VMK protected with (.*)", shown) == [NAMES[code] for code in found.protectors]
    assert re.findall(r"Description:\s+(.*)", shown) == [found.description] == ["WIN-SRV1 C: 11/23/2026"]
    assert str(GUID) == found.guid
    assert str(GUID) in shown.lower()
    assert (found.to_go, found.problem) == (to_go, "")


@pytest.mark.parametrize("to_go", [False, True])
def test_the_volume_is_recognised_by_its_boot_sector(to_go: bool) -> None:
    image = volume([RECOVERY], to_go=to_go)
    assert probe(reader(image), len(image)).fstype == "BitLocker"


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ("DESKTOP-NPM7RCA F: 7/3/2019", "DESKTOP-NPM7RCA"),
        ("DESKTOP-LG39GVP New Volume 05/05/2020", "DESKTOP-LG39GVP"),
        ("SRV_1 C: 23.11.2026", "SRV_1"),
        ("", None),
        ("backup", None),
        ("\u4f83 C: 1/1/2020", None),
        ("a b", None),
    ],
)
def test_the_computers_name_stands_first_in_the_description(description: str, name: str | None) -> None:
    assert read(volume([RECOVERY], description)).computer == name


def test_what_is_left_when_the_tpm_is_another_one() -> None:
    assert read(volume([TPM])).spare_key is None
    assert read(volume([TPM, RECOVERY])).spare_key == "its 48-digit recovery key"
    assert read(volume([TPM_STARTUP, PASSWORD])).spare_key == "its password"
    assert all(read(volume([code])).needs_tpm for code in (TPM, TPM_PIN, TPM_STARTUP, 0x0400, 0x0700))
    assert not any(read(volume([code])).needs_tpm for code in (RECOVERY, PASSWORD, STARTUP, SMART_CARD, CLEAR))


def test_an_encryption_that_is_under_way_is_not_complete() -> None:
    assert read(volume([RECOVERY])).complete
    assert not read(volume([RECOVERY], states=(2, 4))).complete


def test_an_unknown_protector_is_shown_with_its_number() -> None:
    assert read(volume([0x4000, RECOVERY])).names == "unknown 0x4000, recovery key"


@pytest.mark.parametrize("damaged", [(0,), (0, 1)])
def test_a_damaged_copy_is_replaced_by_the_next(damaged: tuple[int, ...]) -> None:
    image = volume([TPM, RECOVERY])
    for number in damaged:
        image[OFFSETS[number] + 200] ^= 1
    assert read(image) == read(volume([TPM, RECOVERY]))


def test_three_damaged_copies_are_a_problem() -> None:
    image = volume([TPM])
    for offset in OFFSETS:
        image[offset + 200] ^= 1
    assert read(image).problem == "all three copies of its metadata are damaged"
    assert read(image).protectors == ()


def test_vista_and_other_things_are_named() -> None:
    image = volume([TPM])
    image[:3] = b"\xeb\x52\x90"
    assert "Vista" in read(image).problem
    assert read(bytes(1024)).problem == "it has no header of BitLocker"
    assert read(b"").problem
    assert read(volume([])).problem == "its metadata holds no protector"


def test_nothing_is_read_that_the_headers_only_claim() -> None:
    asked: list[tuple[int, int]] = []
    image = volume([TPM])
    struct.pack_into("<3Q", image, 176, 1 << 63, 0xFFFFFFFFFFFFFFFF, OFFSETS[0])
    struct.pack_into("<H", image, OFFSETS[0] + 8, 0xFFFF)

    def counting(offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return bytes(image[offset : offset + length]) if offset < len(image) else b""

    assert read_bitlocker(counting).problem
    assert max(length for _offset, length in asked) <= 64 << 10


def test_damage_neither_fails_nor_hangs() -> None:
    chance = random.Random(11)
    whole = volume([TPM, RECOVERY, PASSWORD])
    for _ in range(1000):
        broken = bytearray(whole)
        for _ in range(chance.randrange(1, 8)):
            broken[chance.choice([0, OFFSETS[0]]) + chance.randrange(600)] = chance.randrange(256)
        read(broken)
