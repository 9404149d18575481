# SPDX-License-Identifier: GPL-3.0-or-later
"""What the logs of a registry hive add to it, worked out as Windows does when it loads the hive.

From Windows 8.1 on, changes may stand for an hour only in the logs (LOG1, LOG2), so a machine that was not shut down
has a hive of yesterday. Written from the published description of the format (github.com/msuhanov/regf). Pure: bytes
in, a list of changes out; every number is checked before it is believed. Unlike Windows it does not check hive bins in
the pages; the reader of the hive has to bear with what they hold.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from coldmig_agent.guest.windows.marvin32 import marvin32
from coldmig_agent.guest.windows.regf import (
    BASE_BLOCK,
    NEW_LOG,
    OLD_LOG,
    OLDEST_LOG,
    SECTOR,
    BaseBlock,
    RegfError,
    made_whole,
    parse,
)

#: Of a hive and of a log: several times what Windows makes.
MAX_HIVE = 512 << 20
MAX_LOG = 48 << 20
#: How much of the beginning of a hive :func:`plan` wants to see: the base block and the first bin's header.
HEAD = BASE_BLOCK + 32
_ENTRY_HEADER = 40
_BIN_UNIT = 4096
CLEAN, REPLAYED, STALE = "clean", "replayed", "stale"


@dataclass(frozen=True, slots=True)
class Recovery:
    """How to make a hive whole: write ``pages`` in their order, then ``base`` at 0, and give it ``size`` bytes.

    ``state``: ``clean`` (nothing to do), ``replayed`` (``entries`` log entries stand in ``pages``), or ``stale``: it
    lacks changes, because of ``problem``; ``base`` then only makes it readable.
    """

    state: str
    size: int
    base: bytes = b""
    pages: tuple[tuple[int, memoryview], ...] = ()
    entries: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    sequence: int
    flags: int
    bins_size: int
    pages: tuple[tuple[int, memoryview], ...]


@dataclass(frozen=True, slots=True)
class _Log:
    data: memoryview
    base: BaseBlock


def log_extent(read: Callable[[int, int], bytes], size: int) -> int:
    """How much of a log of ``size`` bytes is worth reading: up to the last entry of the newest sequence.

    ``read(offset, size)`` gives bytes of it. What follows are remains of earlier writes, often most of the file.
    """
    try:
        base = parse(read(0, SECTOR))
    except RegfError:
        return 0
    if base.file_type != NEW_LOG:
        return size
    offset, sequence = SECTOR, base.primary_sequence
    while offset + SECTOR <= size:
        header = read(offset, _ENTRY_HEADER)
        if len(header) < _ENTRY_HEADER:
            break
        signature, length, _flags, number = struct.unpack_from("<4sIII", header)
        if signature != b"HvLE" or number != sequence or not SECTOR <= length <= size - offset:
            break
        offset += length
        sequence = sequence + 1 & 0xFFFFFFFF
    return max(offset, min(size, 2 * SECTOR))


def plan(head: bytes, size: int, logs: Sequence[bytes | bytearray]) -> Recovery:
    """What to do with a hive of ``size`` bytes that begins with ``head`` (at least :data:`HEAD` bytes).

    ``logs``: contents of LOG1, LOG2 and LOG as far as there are any, in this order. Raises RegfError where the file is
    no hive or too large.
    """
    if size > MAX_HIVE:
        raise RegfError(f"it has {size} bytes, more than {MAX_HIVE}")
    if size < HEAD or len(head) < HEAD:
        raise RegfError(f"it has {size} bytes, fewer than the {HEAD} of the smallest hive")
    base = parse(head)
    if not base.dirty:
        return Recovery(CLEAN, size)
    found = [log for log in map(_open, logs) if log is not None]
    new = [log for log in found if log.base.file_type == NEW_LOG]
    old = [log for log in found if log.base.file_type != NEW_LOG]
    done = _replay_new(head, base, new, size) if new else None
    if done is None and old:
        done = _replay_old(head, base, old, size)
    if done is not None:
        return done
    problem = "no log has anything newer" if found else "it has no usable log"
    return Recovery(STALE, size, _readable(head, base, size), problem=f"it was not written to its end, and {problem}")


def apply(hive: bytes, recovery: Recovery) -> bytes:
    """The hive after recovery."""
    whole = bytearray(hive[: recovery.size])
    whole.extend(bytes(recovery.size - len(whole)))
    for offset, page in recovery.pages:
        whole[offset : offset + len(page)] = page
    whole[: len(recovery.base)] = recovery.base
    return bytes(whole)


def recover(hive: bytes, logs: Sequence[bytes]) -> bytes:
    """:func:`plan` and :func:`apply` in one. Raises RegfError."""
    return apply(hive, plan(hive[:HEAD], len(hive), logs))


def _readable(head: bytes, base: BaseBlock, size: int) -> bytes:
    """A base block that readers accept; sizes that cannot be are replaced by what the file holds."""
    room = (size - BASE_BLOCK) // _BIN_UNIT * _BIN_UNIT
    fits = base.bins_size % _BIN_UNIT == 0 and 0 < base.bins_size <= room
    return made_whole(head, sequence=base.primary_sequence, bins_size=base.bins_size if fits else room)


def _open(data: bytes | bytearray) -> _Log | None:
    if not SECTOR * 2 <= len(data) <= MAX_LOG:
        return None
    try:
        base = parse(bytes(data[:SECTOR]))
    except RegfError:
        return None
    usable = base.intact and base.primary_sequence == base.secondary_sequence
    known = base.file_type in {OLD_LOG, OLDEST_LOG, NEW_LOG}
    return _Log(memoryview(data), base) if usable and known else None


# --- Windows 8.1 and later


def _replay_new(head: bytes, base: BaseBlock, logs: Sequence[_Log], size: int) -> Recovery | None:
    """Entries of both logs, the lower numbers first. Without a base block of its own: only of the newest log."""
    logs = sorted(logs, key=lambda log: log.base.primary_sequence)
    source = head
    if not base.intact:
        logs = logs[-1:]
        source = bytes(logs[0].data[:SECTOR])
    pages: list[tuple[int, memoryview]] = []
    last: _Entry | None = None
    count = 0
    for log in logs:
        expected = log.base.primary_sequence
        if last is not None and expected != last.sequence + 1 & 0xFFFFFFFF:
            continue
        if last is None and base.intact and expected < base.secondary_sequence:
            continue
        for entry in _entries(log.data, expected):
            pages += entry.pages
            last = entry
            count += 1
    if last is None:
        return None
    whole = made_whole(source, sequence=last.sequence, bins_size=last.bins_size, flags=last.flags)
    return Recovery(REPLAYED, max(size, BASE_BLOCK + last.bins_size), whole, tuple(pages), count)


def _entries(log: memoryview, sequence: int) -> Iterator[_Entry]:
    """The entries numbered ``sequence``, ``sequence`` + 1, … up to the first that is missing or damaged."""
    offset = SECTOR
    while offset + _ENTRY_HEADER <= len(log):
        length = struct.unpack_from("<I", log, offset + 4)[0]
        if length < SECTOR or length % SECTOR or length > len(log) - offset:
            return
        entry = _entry(log[offset : offset + length], sequence)
        if entry is None:
            return
        yield entry
        offset += length
        sequence = sequence + 1 & 0xFFFFFFFF


def _entry(data: memoryview, sequence: int) -> _Entry | None:
    signature, _length, flags, number, bins_size, count = struct.unpack_from("<4sIIIII", data)
    sums = struct.unpack_from("<QQ", data, 24)
    if signature != b"HvLE" or number != sequence:
        return None
    if bins_size % _BIN_UNIT or not 0 < bins_size <= MAX_HIVE - BASE_BLOCK:
        return None
    start = _ENTRY_HEADER + 8 * count
    if start > len(data) or sums != (marvin32(data[_ENTRY_HEADER:]), marvin32(data[:32])):
        return None
    pages = []
    for index in range(count):
        offset, size = struct.unpack_from("<II", data, _ENTRY_HEADER + 8 * index)
        # Whole sectors only: a log of pages of one byte would make a list far bigger than itself.
        if not size or size % SECTOR or offset % SECTOR or offset + size > bins_size or start + size > len(data):
            return None
        pages.append((BASE_BLOCK + offset, data[start : start + size]))
        start += size
    return _Entry(number, flags, bins_size, tuple(pages))


# --- up to Windows 8


def _replay_old(head: bytes, base: BaseBlock, logs: Sequence[_Log], size: int) -> Recovery | None:
    """The pages of one log: that of the interrupted write, else one that a later, failed attempt left."""
    written = base.written if base.intact else struct.unpack_from("<Q", head, BASE_BLOCK + 20)[0]
    matching = [log for log in logs if log.base.written == written]
    newer = sorted((log for log in logs if log.base.written > written), key=lambda log: -log.base.written)
    for log in (*matching, *newer):
        pages = _dirty_pages(log)
        if pages is None:
            continue
        source = head if base.intact else bytes(log.data[:SECTOR])
        whole = made_whole(source, sequence=log.base.primary_sequence, bins_size=log.base.bins_size)
        return Recovery(REPLAYED, max(size, BASE_BLOCK + log.base.bins_size), whole, tuple(pages), 1)
    return None


def _dirty_pages(log: _Log) -> list[tuple[int, memoryview]] | None:
    """Runs of changed sectors; None where the log does not hold all that its bitmap names."""
    bins_size = log.base.bins_size
    sector = SECTOR * log.base.clustering
    if sector not in {SECTOR, 4096} or bins_size % _BIN_UNIT or not 0 < bins_size <= MAX_HIVE - BASE_BLOCK:
        return None
    if bytes(log.data[sector : sector + 4]) != b"DIRT":
        return None
    length = bins_size // SECTOR // 8
    start = -(-(sector + 4 + length) // sector) * sector
    bitmap = bytes(log.data[sector + 4 : sector + 4 + length])
    if len(bitmap) < length:
        return None
    pages: list[tuple[int, memoryview]] = []
    for first, count in _runs(bitmap):
        data = log.data[start : start + count * SECTOR]
        if len(data) < count * SECTOR:
            return None
        pages.append((BASE_BLOCK + first * SECTOR, data))
        start += count * SECTOR
    return pages


def _runs(bitmap: bytes) -> Iterator[tuple[int, int]]:
    """First bit and length of every run of set bits; the lowest bit of a byte comes first."""
    begin: int | None = None
    for index, value in enumerate(bitmap):
        if value == (0 if begin is None else 0xFF):
            continue
        for bit in range(8):
            if value >> bit & 1:
                begin = 8 * index + bit if begin is None else begin
            elif begin is not None:
                yield begin, 8 * index + bit - begin
                begin = None
    if begin is not None:
        yield begin, 8 * len(bitmap) - begin
