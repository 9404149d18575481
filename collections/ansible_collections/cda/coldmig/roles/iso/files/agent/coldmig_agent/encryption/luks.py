# SPDX-License-Identifier: GPL-3.0-or-later
"""LUKS headers: key slots, and the tokens that open some of them without a person.

LUKS1 and LUKS2 on-disk format specifications (docs of cryptsetup), the token formats of clevis, systemd and snapd, and
LUKSMETA, where clevis keeps its pins beside a LUKS1 header. The header belongs to the guest: its JSON area is read only
up to a bound, checked against its checksum, and every level of nesting is counted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coldmig_agent.discovery.tables import ReadAt
from coldmig_agent.text import clean, clean_bytes

_MAGIC = (b"LUKS\xba\xbe", b"SKUL\xba\xbe")
_BINARY = 4096
#: The format allows 4 MiB; 32 key slots with 32 tokens need a tenth of this.
MAX_JSON = 512 << 10
_SIZES = tuple(1 << power for power in range(14, 23))
_CHECKSUM = slice(448, 512)
_HASHES = frozenset({"sha1", "sha224", "sha256", "sha384", "sha512"})
_MAX_TOKENS = 32
_MAX_PINS = 32
_MAX_DEPTH = 5

_LUKS1_ACTIVE = 0x00AC71F3
_LUKS1_SLOTS = 8
_LUKSMETA = b"LUKSMETA"
_CLEVIS = uuid.UUID("cb6e8904-81ff-40da-a84a-07ab9ab5715e")
_MAX_LUKSMETA_SLOT = 64 << 10


@dataclass(frozen=True, slots=True)
class Pin:
    """A way to a key: ``kind`` is ``tpm``, ``network``, ``device``, ``person``, ``some`` (of several) or ``other``.

    ``name`` is the token's own word for it. Of ``pins``, ``needed`` are wanted.
    """

    kind: str
    name: str
    needed: int = 0
    pins: tuple[Pin, ...] = ()

    def works_without(self, kinds: frozenset[str]) -> bool:
        """Whether it still opens when nothing of these kinds is there."""
        if self.kind == "some":
            return sum(pin.works_without(kinds) for pin in self.pins) >= self.needed
        return self.kind not in kinds

    def uses(self, kind: str) -> bool:
        """Whether something of this kind is part of it."""
        return self.kind == kind or any(pin.uses(kind) for pin in self.pins)


@dataclass(frozen=True, slots=True)
class Token:
    """A pin and the key slots that it opens."""

    pin: Pin
    slots: frozenset[int]


@dataclass(frozen=True, slots=True)
class Luks:
    """``slots``: key slots that open the volume; ``tokens`` that open some of them. ``problem``: what is not known."""

    version: int = 0
    uuid: str = ""
    label: str = ""
    slots: frozenset[int] = frozenset()
    tokens: tuple[Token, ...] = ()
    problem: str = ""

    @property
    def free_slots(self) -> frozenset[int]:
        """Slots that no token is bound to, or only one that is for a person: most likely passphrases."""
        bound = {slot for token in self.tokens if token.pin.kind != "person" for slot in token.slots}
        return self.slots - bound

    def opens_without(self, kinds: frozenset[str]) -> bool:
        """Whether a passphrase slot or some other token is left when nothing of these kinds is there."""
        return bool(self.free_slots) or any(
            token.slots & self.slots and token.pin.works_without(kinds) for token in self.tokens
        )

    def token_names(self, kind: str) -> str:
        """Names of the tokens that use something of this kind."""
        return ", ".join(dict.fromkeys(token.pin.name for token in self.tokens if token.pin.uses(kind)))


def _json(text: bytes | str) -> object:
    """Parsed JSON; None for anything that is not."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _slots(value: object) -> frozenset[int]:
    """Slot numbers, which LUKS2 writes as text."""
    return frozenset(int(item) for item in _list(value) if isinstance(item, str) and item.isdigit() and len(item) < 3)


# --- clevis


def _protected(text: object) -> Mapping[str, object]:
    """The protected header of a JWE: base64url of JSON."""
    if not isinstance(text, str) or len(text) > MAX_JSON:
        return {}
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return {}
    return _mapping(_json(raw))


def _clevis_pin(header: Mapping[str, object], depth: int = 0) -> Pin:
    """The pin that a JWE's protected header names; ``sss`` holds further JWEs in compact form."""
    clevis = _mapping(header.get("clevis"))
    name = clevis.get("pin")
    if name in {"tpm2", "tpm1"}:
        return Pin("tpm", f"clevis {name}")
    if name == "tang":
        url = _mapping(clevis.get("tang")).get("url")
        return Pin("network", f"clevis tang {clean(url, 100)}" if isinstance(url, str) else "clevis tang")
    if name == "sss" and depth < _MAX_DEPTH:
        share = _mapping(clevis.get("sss"))
        parts = [str(item).split(".", 1)[0] for item in _list(share.get("jwe"))[:_MAX_PINS]]
        pins = tuple(_clevis_pin(_protected(part), depth + 1) for part in parts)
        needed = share.get("t")
        count = needed if isinstance(needed, int) and 0 < needed <= len(pins) else max(1, len(pins))
        inner = ", ".join(pin.name.removeprefix("clevis ") for pin in pins)
        return Pin("some", clean(f"clevis sss ({count} of: {inner})", 200), count, pins)
    return Pin("other", f"clevis {clean(str(name), 32)}")


# --- LUKS2

_TOKEN_KINDS = {
    "systemd-tpm2": "tpm",
    "systemd-fido2": "device",
    "systemd-pkcs11": "device",
    "systemd-recovery": "person",
    "luks2-keyring": "person",
    "ubuntu-fde": "tpm",
    "ubuntu-fde-recovery": "person",
}


def _token(document: Mapping[str, object]) -> Token:
    kind = document.get("type")
    slots = _slots(document.get("keyslots"))
    if kind == "clevis":
        return Token(_clevis_pin(_protected(_mapping(document.get("jwe")).get("protected"))), slots)
    name = clean(str(kind), 40)
    if kind == "systemd-tpm2" and document.get("tpm2-pin") is True:
        name = "systemd-tpm2 with a PIN"
    return Token(Pin(_TOKEN_KINDS.get(str(kind), "other"), name), slots)


def _usable_slots(document: Mapping[str, object]) -> frozenset[int]:
    """Key slots whose key belongs to a segment of data; slots of a reencryption and unbound ones open nothing."""
    keyslots = _mapping(document.get("keyslots"))
    real = _slots([name for name, slot in keyslots.items() if _mapping(slot).get("type") == "luks2"])
    digests = [_mapping(digest) for digest in _mapping(document.get("digests")).values()]
    assigned = frozenset(
        slot for digest in digests if _list(digest.get("segments")) for slot in _slots(digest.get("keyslots"))
    )
    return real & assigned


def _header(read: ReadAt, start: int) -> tuple[int, bytes, bytes] | str:
    """Sequence number, binary header and JSON text of one of the two headers, or what is wrong with it."""
    head = read(start, _BINARY)
    if len(head) < _BINARY or head[:6] not in _MAGIC:
        return "no header of LUKS"
    version, size, sequence = struct.unpack_from(">HQQ", head, 6)
    if version != 2 or size not in _SIZES or struct.unpack_from(">Q", head, 256)[0] != start:
        return f"a header of version {version} with {size} bytes"
    if size - _BINARY > MAX_JSON:
        return f"metadata of {size} bytes: at most {MAX_JSON} are read"
    area = read(start + _BINARY, size - _BINARY)
    algorithm = clean_bytes(head[72:104], 32)
    if algorithm not in _HASHES:
        return f"an unknown checksum {algorithm!r}"
    digest = hashlib.new(algorithm)
    digest.update(head[: _CHECKSUM.start] + bytes(64) + head[_CHECKSUM.stop :] + area)
    if len(area) != size - _BINARY or head[_CHECKSUM][: digest.digest_size] != digest.digest():
        return "a wrong checksum"
    return sequence, head, area.split(b"\0", 1)[0]


def _luks2(read: ReadAt) -> Luks:
    first = _header(read, 0)
    # The second header begins where the first ends; where the first is damaged, that is one of nine places.
    declared = struct.unpack_from(">Q", read(8, 8).ljust(8, b"\0"))[0]
    places = (declared,) if not isinstance(first, str) and declared in _SIZES else _SIZES
    found = [header for header in (first, *(_header(read, place) for place in places)) if not isinstance(header, str)]
    if not found:
        return Luks(version=2, problem=first if isinstance(first, str) else "no header")
    _sequence, head, text = max(found, key=lambda header: header[0])
    identity, label = clean_bytes(head[168:208], 40), clean_bytes(head[24:72], 48)
    document = _json(text)
    if not isinstance(document, dict) or not isinstance(document.get("keyslots"), dict):
        return Luks(2, identity, label, problem="its metadata is no JSON")
    tokens = [_token(_mapping(token)) for token in list(_mapping(document.get("tokens")).values())[:_MAX_TOKENS]]
    bound = tuple(token for token in tokens if token.slots)
    return Luks(2, identity, label, _usable_slots(document), bound)


# --- LUKS1


def _luksmeta(read: ReadAt, hole: int, end: int) -> tuple[Token, ...]:
    """Tokens that clevis keeps in the gap between the key slots and the data (libluksmeta.c)."""
    length = (end - hole) // 4096 * 4096
    head = read(hole, 272)
    if length < 4096 or len(head) < 272 or head[:8] != _LUKSMETA or struct.unpack_from(">I", head, 8)[0] != 1:
        return ()
    tokens = []
    for slot in range(_LUKS1_SLOTS):
        owner, offset, size = struct.unpack_from(">16sII", head, 16 + 32 * slot)
        if owner != _CLEVIS.bytes or offset + size > length or not 0 < size <= _MAX_LUKSMETA_SLOT:
            continue
        text = read(hole + offset, size).split(b".", 1)[0].decode("ascii", "replace")
        tokens.append(Token(_clevis_pin(_protected(text)), frozenset({slot})))
    return tuple(tokens)


def _luks1(read: ReadAt, head: bytes) -> Luks:
    payload, key_bytes = struct.unpack_from(">II", head, 104)
    slots, ends = set(), []
    for slot in range(_LUKS1_SLOTS):
        active, offset, stripes = struct.unpack_from(">I36xII", head, 208 + 48 * slot)
        if active == _LUKS1_ACTIVE:
            slots.add(slot)
        ends.append(offset * 512 + -(-key_bytes * stripes // 512) * 512)
    hole = -(-max(ends) // 4096) * 4096
    tokens = _luksmeta(read, hole, payload * 512) if key_bytes <= 512 else ()
    found = frozenset(slots)
    return Luks(1, clean_bytes(head[168:208], 40), "", found, tuple(token for token in tokens if token.slots & found))


def read_luks(read: ReadAt) -> Luks:
    """The header of a LUKS volume, or a detached header in a file."""
    head = read(0, 592)
    version = struct.unpack_from(">H", head, 6)[0] if len(head) == 592 and head[:6] in _MAGIC else 0
    if version == 1:
        return _luks1(read, head)
    if version == 2 or head[:6] not in _MAGIC:
        return _luks2(read)
    return Luks(problem=f"version {version} of LUKS is not known")
