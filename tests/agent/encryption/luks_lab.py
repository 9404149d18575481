# SPDX-License-Identifier: GPL-3.0-or-later
"""Real LUKS images with tokens as clevis, systemd and snapd leave them in the header."""

from __future__ import annotations

import base64
import json
import struct
import uuid
from pathlib import Path

from agent_lab import MIB, empty_image, need, run

from coldmig_agent.discovery.tables import ReadAt
from coldmig_agent.encryption.luks import Luks, read_luks

_FAST = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")


def reader(data: bytes | bytearray) -> ReadAt:
    return lambda offset, length: bytes(data[offset : offset + length]) if offset >= 0 else b""


def luks2(path: Path, *options: str, slots: int = 1) -> Path:
    """A LUKS2 volume with as many passphrases; nothing is opened, so no device-mapper is needed."""
    need("cryptsetup")
    empty_image(path, 24 * MIB)
    run("cryptsetup", "luksFormat", "-q", "--type", "luks2", *_FAST, *options, path, stdin=b"0")
    for number in range(1, slots):
        add_key(path, number)
    return path


def luks1(path: Path, slots: int = 1) -> Path:
    need("cryptsetup")
    empty_image(path, 24 * MIB)
    run("cryptsetup", "luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000", path, stdin=b"0")
    for number in range(1, slots):
        add_key(path, number)
    return path


def add_key(path: Path, number: int) -> None:
    old, new = path.with_suffix(".old"), path.with_suffix(".new")
    old.write_bytes(b"0")
    new.write_text(str(number))
    run("cryptsetup", "luksAddKey", "-q", "--key-file", old, *_FAST, path, new)


def add_token(path: Path, token: dict[str, object], *slots: int) -> None:
    document = {**token, "keyslots": [str(slot) for slot in slots]}
    run("cryptsetup", "token", "import", path, stdin=json.dumps(document).encode())


def protected(pin: dict[str, object]) -> str:
    """The protected header of a JWE: base64url without padding."""
    header = {"alg": "dir", "clevis": pin, "enc": "A256GCM"}
    return base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()


def jwe(pin: dict[str, object]) -> str:
    """In compact form, as sss holds it."""
    return f"{protected(pin)}..iv.ciphertext.tag"


def systemd_tpm2(*, pin: bool = False) -> dict[str, object]:
    """As systemd-cryptenroll writes it; cryptsetup's plugin checks the fields."""
    return {
        "type": "systemd-tpm2",
        "tpm2-blob": base64.b64encode(bytes(64)).decode(),
        "tpm2-pcrs": [7],
        "tpm2-pcr-bank": "sha256",
        "tpm2-primary-alg": "ecc",
        "tpm2-policy-hash": bytes(32).hex(),
        "tpm2-pin": pin,
    }


TPM2: dict[str, object] = {"pin": "tpm2", "tpm2": {"hash": "sha256", "key": "ecc", "pcr_ids": "7"}}
TANG: dict[str, object] = {"pin": "tang", "tang": {"url": "http://tang.example:7500"}}


def sss(needed: int, *pins: dict[str, object]) -> dict[str, object]:
    return {"pin": "sss", "sss": {"t": needed, "p": "prime", "jwe": [jwe(pin) for pin in pins]}}


def clevis(pin: dict[str, object]) -> dict[str, object]:
    return {"type": "clevis", "jwe": {"protected": protected(pin), "iv": "x", "ciphertext": "x", "tag": "x"}}


def add_luksmeta(path: Path, slot: int, pin: dict[str, object]) -> None:
    """What ``luksmeta init`` and ``luksmeta save`` write into the gap behind the key slots of a LUKS1 header."""
    with path.open("r+b") as file:
        head = file.read(592)
        key_bytes = struct.unpack_from(">I", head, 108)[0]
        ends = [
            offset * 512 + -(-key_bytes * stripes // 512) * 512
            for offset, stripes in (struct.unpack_from(">II", head, 208 + 48 * number + 40) for number in range(8))
        ]
        hole = -(-max(ends) // 4096) * 4096
        data = jwe(pin).encode()
        meta = bytearray(b"LUKSMETA" + struct.pack(">II", 1, 0) + bytes(32 * 8))
        owner = uuid.UUID("cb6e8904-81ff-40da-a84a-07ab9ab5715e").bytes
        struct.pack_into(">16sIIII", meta, 16 + 32 * slot, owner, 4096, len(data), 0, 0)
        file.seek(hole)
        file.write(meta)
        file.seek(hole + 4096)
        file.write(data)


def header(path: Path) -> Luks:
    return read_luks(reader(path.read_bytes()))
