# SPDX-License-Identifier: GPL-3.0-or-later
"""LUKS headers that cryptsetup made: key slots, tokens, damage, and hostile metadata."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import sys
import tracemalloc
from pathlib import Path

import pytest
from agent_lab import MIB, run

sys.path.insert(0, str(Path(__file__).parent))
from luks_lab import (
    TANG,
    TPM2,
    add_luksmeta,
    add_token,
    clevis,
    header,
    jwe,
    luks1,
    luks2,
    reader,
    sss,
    systemd_tpm2,
)

from coldmig_agent.encryption.luks import MAX_JSON, Pin, read_luks

TPM = frozenset({"tpm"})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A LUKS2 volume with the passphrases 0 and 1; tests work on copies of it."""
    return luks2(tmp_path_factory.mktemp("luks") / "plain.img", "--label", "data", slots=2).read_bytes()


@pytest.fixture
def volume(plain: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "volume.img"
    path.write_bytes(plain)
    return path


def test_a_plain_luks2_volume_has_slots_and_no_tokens(volume: Path) -> None:
    found = header(volume)
    assert (found.version, found.label, found.problem) == (2, "data", "")
    assert found.uuid == run("cryptsetup", "luksUUID", volume).decode().strip()
    assert (found.slots, found.free_slots, found.tokens) == ({0, 1}, {0, 1}, ())


@pytest.mark.parametrize(
    ("token", "name"),
    [
        (clevis(TPM2), "clevis tpm2"),
        (systemd_tpm2(), "systemd-tpm2"),
        (systemd_tpm2(pin=True), "systemd-tpm2 with a PIN"),
        ({"type": "ubuntu-fde", "ubuntu_fde_name": "default"}, "ubuntu-fde"),
    ],
)
def test_a_token_of_the_tpm_binds_its_slot(volume: Path, token: dict[str, object], name: str) -> None:
    add_token(volume, token, 1)
    found = header(volume)
    assert found.token_names("tpm") == name
    assert found.free_slots == {0}
    assert found.opens_without(TPM)
    add_token(volume, token, 0)
    found = header(volume)
    assert found.free_slots == frozenset()
    assert not found.opens_without(TPM)


def test_a_recovery_key_is_for_a_person(volume: Path) -> None:
    add_token(volume, systemd_tpm2(), 0)
    add_token(volume, {"type": "systemd-recovery"}, 1)
    found = header(volume)
    assert found.free_slots == {1}
    assert found.opens_without(TPM)


def test_tang_names_its_server(volume: Path) -> None:
    add_token(volume, clevis(TANG), 1)
    assert header(volume).token_names("network") == "clevis tang http://tang.example:7500"


@pytest.mark.parametrize(
    ("pin", "opens", "name"),
    [
        (sss(1, TPM2, TANG), True, "clevis sss (1 of: tpm2, tang http://tang.example:7500)"),
        (sss(2, TPM2, TANG), False, "clevis sss (2 of: tpm2, tang http://tang.example:7500)"),
        (sss(2, TANG, TANG, TPM2), True, None),
        (sss(1, sss(2, TPM2, TANG), TPM2), False, None),
        (sss(1, sss(2, TPM2, TANG), TANG), True, None),
    ],
    ids=["one of two", "both", "two of three", "nested, sealed", "nested, open"],
)
def test_shared_secrets_are_followed_to_their_pins(
    volume: Path, pin: dict[str, object], opens: bool, name: str | None
) -> None:
    add_token(volume, clevis(pin), 0, 1)
    found = header(volume)
    assert found.opens_without(TPM) is opens
    assert found.tokens[0].pin.uses("tpm")
    assert name is None or found.token_names("tpm") == name


def test_a_token_without_slots_opens_nothing(volume: Path) -> None:
    add_token(volume, clevis(TPM2))
    assert header(volume).tokens == ()


def test_a_slot_whose_key_belongs_to_no_data_opens_nothing(volume: Path, tmp_path: Path) -> None:
    key, old = tmp_path / "key", tmp_path / "old"
    key.write_bytes(b"unbound")
    old.write_bytes(b"0")
    run("cryptsetup", "luksAddKey", "-q", "--unbound", "--key-size", "128", "--key-slot", "5", "--key-file", old,
        "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", volume, key)  # fmt: skip
    assert header(volume).slots == {0, 1}


def test_luks1_shows_its_slots_and_what_clevis_left_beside_them(tmp_path: Path) -> None:
    volume = luks1(tmp_path / "volume.img", slots=2)
    found = header(volume)
    assert (found.version, found.slots, found.tokens, found.problem) == (1, {0, 1}, (), "")
    assert found.uuid == run("cryptsetup", "luksUUID", volume).decode().strip()
    add_luksmeta(volume, 1, TPM2)
    found = header(volume)
    assert found.token_names("tpm") == "clevis tpm2"
    assert found.free_slots == {0}
    run("cryptsetup", "isLuks", volume)


def test_a_damaged_first_header_is_replaced_by_the_second(volume: Path) -> None:
    whole = header(volume)
    with volume.open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    assert header(volume) == whole
    with volume.open("r+b") as file:
        file.write(bytes(512))
    assert header(volume) == whole


def test_both_headers_damaged_is_a_problem(volume: Path) -> None:
    with volume.open("r+b") as file:
        for place in (5000, 16384 + 5000):
            file.seek(place)
            file.write(b"damage")
    assert header(volume).problem == "a wrong checksum"


def test_other_things_are_no_header() -> None:
    assert read_luks(reader(b"")).problem
    assert read_luks(reader(bytes(MIB))).problem
    assert read_luks(reader(b"LUKS\xba\xbe\x00\x07" + bytes(8192))).problem == "version 7 of LUKS is not known"


def made(
    document: object, size: int = 16384, algorithm: bytes = b"sha256", *, sequence: int = 1, start: int = 0
) -> bytes:
    """A LUKS2 header with a right checksum over any metadata."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    area = text.ljust(size - 4096, b"\0")
    head = bytearray(4096)
    struct.pack_into(">6sHQQ", head, 0, b"SKUL\xba\xbe" if start else b"LUKS\xba\xbe", 2, size, sequence)
    struct.pack_into(">Q", head, 256, start)
    head[72 : 72 + len(algorithm)] = algorithm
    digest = hashlib.sha256(bytes(head) + area).digest()
    head[448 : 448 + 32] = digest
    return bytes(head) + area


SLOTS = {"keyslots": {"0": {"type": "luks2"}}, "digests": {"0": {"keyslots": ["0"], "segments": ["0"]}}}


@pytest.mark.parametrize(("first", "second", "slots"), [(3, 4, {0}), (4, 3, set())])
def test_the_newer_of_two_whole_headers_counts(first: int, second: int, slots: set[int]) -> None:
    image = made({"keyslots": {}}, sequence=first) + made(SLOTS, sequence=second, start=16384)
    assert read_luks(reader(image)).slots == slots


def test_slots_have_numbers_of_two_digits_at_most() -> None:
    names = ["0", "31", "100", "9" * 4000]
    document = {
        "keyslots": {name: {"type": "luks2"} for name in names},
        "digests": {"0": {"keyslots": names, "segments": ["0"]}},
    }
    assert read_luks(reader(made(document, 1 << 17))).slots == {0, 31}


@pytest.mark.parametrize(
    "document",
    [
        b"no json",
        b"[" * 10000,
        b'{"keyslots": []}',
        b'{"a": ' + b"9" * 5000 + b"}",
        [],
        {"keyslots": 5},
    ],
    ids=["text", "nesting", "a list for slots", "a long number", "a list", "a number for slots"],
)
def test_metadata_that_is_none_is_a_problem(document: object) -> None:
    assert read_luks(reader(made(document))).problem == "its metadata is no JSON"


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        {"0": 5},
        {"0": {"type": ["clevis"], "keyslots": ["0"]}},
        {"0": {"type": "clevis", "keyslots": ["0"], "jwe": "text"}},
        {"0": {"type": "clevis", "keyslots": ["0"], "jwe": {"protected": "!!!"}}},
        {"0": {"type": "clevis", "keyslots": ["0"], "jwe": {"protected": "\u00e9"}}},
        {"0": {"type": "clevis", "keyslots": [0, None, "x", "-1", "999999"]}},
        {"0": clevis({"pin": "sss", "sss": {"t": "1", "jwe": [5, None, {}]}}) | {"keyslots": ["0"]}},
        {str(n): {"type": "x\x1b[2J" * 1000, "keyslots": ["0"]} for n in range(8)},
    ],
)
def test_strange_tokens_do_no_harm(tokens: object) -> None:
    found = read_luks(reader(made({**SLOTS, "tokens": tokens}, 1 << 17)))
    assert found.problem == ""
    assert found.slots == {0}
    assert all(len(token.pin.name) <= 200 and "\x1b" not in token.pin.name for token in found.tokens)


def test_nested_shared_secrets_end_somewhere() -> None:
    pin: dict[str, object] = TPM2
    for _ in range(8):
        pin = sss(1, pin)
    found = read_luks(reader(made({**SLOTS, "tokens": {"0": clevis(pin) | {"keyslots": ["0"]}}}, 1 << 17)))
    assert not found.tokens[0].pin.uses("tpm")
    depth, inner = 0, found.tokens[0].pin
    while inner.pins:
        depth, inner = depth + 1, inner.pins[0]
    assert depth == 5
    assert inner == Pin("other", "clevis sss")


def test_metadata_of_any_size_is_refused_before_it_is_read() -> None:
    asked: list[int] = []
    head = bytearray(made(SLOTS)[:4096])
    struct.pack_into(">Q", head, 8, 4 << 20)

    def read(offset: int, length: int) -> bytes:
        asked.append(length)
        return bytes(head[offset : offset + length])

    assert f"at most {MAX_JSON} are read" in read_luks(read).problem
    assert max(asked) <= 4096
    struct.pack_into(">Q", head, 8, 1 << 60)
    assert "a header of version 2" in read_luks(read).problem
    assert max(asked) <= 4096


def test_a_checksum_that_does_not_exist_is_a_problem() -> None:
    for name in (b"shake_128", b"md5", b"\xff\xfe", b""):
        assert "unknown checksum" in read_luks(reader(made(SLOTS, algorithm=name))).problem


def test_the_memory_for_the_worst_metadata_is_bounded() -> None:
    worst = b"[" + b"[],[]," * ((MAX_JSON - 4096) // 6 - 20) + b"[]]"
    image = made(worst, 1 << 19)
    tracemalloc.start()
    try:
        assert read_luks(reader(image)).problem
        assert tracemalloc.get_traced_memory()[1] < 40 * MIB
    finally:
        tracemalloc.stop()


def test_damage_neither_fails_nor_hangs(plain: bytes, tmp_path: Path) -> None:
    chance = random.Random(5)
    for whole in (plain[:65536], luks1(tmp_path / "one.img").read_bytes()[: 2 * MIB]):
        for _ in range(300):
            broken = bytearray(whole)
            for _ in range(chance.randrange(1, 6)):
                broken[chance.randrange(4096)] = chance.randrange(256)
            read_luks(reader(broken))
    assert jwe(TPM2).count(".") == 4
