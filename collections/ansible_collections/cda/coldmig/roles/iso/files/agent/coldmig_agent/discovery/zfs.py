# SPDX-License-Identifier: GPL-3.0-or-later
"""The label of a ZFS member: which pool it belongs to, and which computer used that last.

A label (256 KiB; two at the start, two at the end) holds at 16 KiB a name-value list in XDR (module/nvpair/nvpair.c,
cmd/zdb; OpenZFS on-disk format chapter 1). Only the flat entries are read, and never more than the list's own area.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from coldmig_agent.discovery.tables import ReadAt
from coldmig_agent.text import clean_bytes

_LABEL = 256 << 10
_LIST_AT = 16 << 10
_LIST_BYTES = 112 << 10
_UBERBLOCKS_AT = 128 << 10
_UBERBLOCKS_BYTES = 128 << 10
_MAGIC = (struct.pack("<Q", 0x00BAB10C), struct.pack(">Q", 0x00BAB10C))
_UINT64, _STRING = 8, 9
_MAX_PAIRS = 256


@dataclass(frozen=True, slots=True)
class Label:
    """Names of pool and computer (empty where the label does not tell), and the pool's number."""

    pool: str = ""
    host: str = ""
    guid: int = 0


def _padded(length: int) -> int:
    return length + 3 & ~3


def _pairs(area: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Name, type and value of every flat entry; stops at the end or where an entry cannot be right."""
    if len(area) < 12 or area[0] != 1:  # NV_ENCODE_XDR
        return
    position = 12
    for _pair in range(_MAX_PAIRS):
        if position + 20 > len(area):
            return
        encoded, _decoded, name_length = struct.unpack_from(">III", area, position)
        end = position + encoded
        value_at = position + 12 + _padded(name_length)
        if encoded < 20 or end > len(area) or name_length > 256 or value_at + 8 > end:
            return
        kind, _count = struct.unpack_from(">II", area, value_at)
        yield area[position + 12 : position + 12 + name_length], kind, area[value_at + 8 : end]
        position = end


def parse(area: bytes) -> Label | None:
    """The name-value list of a label; None for anything else."""
    texts: dict[bytes, bytes] = {}
    numbers: dict[bytes, int] = {}
    for name, kind, value in _pairs(area[:_LIST_BYTES]):
        if kind == _UINT64 and len(value) >= 8:
            numbers[name] = struct.unpack_from(">Q", value)[0]
        elif kind == _STRING and len(value) >= 4:
            length = struct.unpack_from(">I", value)[0]
            texts[name] = value[4 : 4 + min(length, 1024)]
    if b"pool_guid" not in numbers and b"name" not in texts:
        return None
    pool, host = (clean_bytes(texts.get(name, b""), 128) for name in (b"name", b"hostname"))
    return Label(pool, host, numbers.get(b"pool_guid", 0))


def _has_uberblock(read: ReadAt, start: int) -> bool:
    area = read(start + _UBERBLOCKS_AT, _UBERBLOCKS_BYTES)
    return any(area[at : at + 8] in _MAGIC for at in range(0, len(area), 1024))


def read_label(read: ReadAt, size: int) -> Label | None:
    """The first label that holds a pool, of the four places for one; None where there is no ZFS.

    A label counts only with an uberblock: what a former ZFS left behind is overwritten by parts.
    """
    whole = size // _LABEL * _LABEL
    starts = [start for start in (0, _LABEL, whole - 2 * _LABEL, whole - _LABEL) if start >= 0]
    for start in dict.fromkeys(starts):
        if _has_uberblock(read, start):
            return parse(read(start + _LIST_AT, _LIST_BYTES)) or Label()
    return None
