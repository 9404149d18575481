# SPDX-License-Identifier: GPL-3.0-or-later
"""XFS: free extents as xfs_db prints them, when xfs_logprint says that the log is clean.

Layout: "XFS Algorithms & Data Structures" (kernel.org). xfs_db does not mind features that it does not know, hence the
list of our own.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coldmig_agent.freespace.area import Area, Doubt, Ranges, Unclean

_V4_FLAGS = 0x10 | 0x20 | 0x40 | 0x80 | 0x100 | 0x400 | 0x800 | 0x1000 | 0x2000 | 0x4000 | 0x8000
_V4_MORE = 0x2 | 0x8 | 0x80 | 0x200  # lazysbcount, attr2, projid32bit, ftype
_V5_MORE = _V4_MORE | 0x100  # crc
_RO_COMPAT = {0x1: "finobt", 0x2: "rmapbt", 0x4: "reflink", 0x8: "inobtcount"}
_INCOMPAT = {0x1: "ftype", 0x2: "spinodes", 0x4: "meta_uuid", 0x8: "bigtime", 0x20: "nrext64"}
_NEEDS_REPAIR = 0x10
#: A file system that was grown from a tiny one has very many allocation groups; each costs a read.
MAX_GROUPS = 1 << 16
_ADVICE = "start the machine, shut it down properly, and boot this ISO again if its free space should not be copied"

_STATE = re.compile(rb"state: <(\w+)>")
_EXTENT = re.compile(rb" +(\d{1,10}) +(\d{1,10}) +(\d{1,10})$")
# Flushing a disk's caches is a privilege that the tools do not have and nothing that reading needs.
_HARMLESS = re.compile(
    rb"xfs_db: Flushing the data device failed, err=\d+!\n?|xfs_db: flush of device -?\d+ failed, err=-?\d+\n?"
)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the superblock says: bytes, and blocks."""

    block_bytes: int
    sector_bytes: int
    blocks: int
    group_blocks: int
    groups: int
    free_blocks: int

    def blocks_of(self, group: int) -> int:
        """Blocks of an allocation group; the last may be short."""
        return min(self.group_blocks, self.blocks - group * self.group_blocks)


@dataclass(frozen=True, slots=True)
class Group:
    """Counters of an allocation group's free space: free extents, the list for the B+trees, their own blocks."""

    free: int
    listed: int
    tree: int


def check_superblock(block: bytes, area_bytes: int) -> Layout:
    """The layout that a superblock (512 bytes) describes. Raises Doubt."""
    magic, block_bytes, blocks, realtime, realtime_extents = struct.unpack_from(">4sIQQQ", block, 0)
    log_start = struct.unpack_from(">Q", block, 48)[0]
    group_blocks, groups = struct.unpack_from(">II", block, 84)
    version, sector_bytes = struct.unpack_from(">HH", block, 100)
    free = struct.unpack_from(">Q", block, 144)[0]
    if magic != b"XFSB" or version & 0xF not in {4, 5}:
        raise Doubt(f"magic number {magic!r}, version {version & 0xF}: must be b'XFSB' and 4 or 5")
    _check_features(block, version)
    if block[126]:
        raise Unclean("it was not created completely, or not unmounted", _ADVICE)
    if not log_start:
        raise Doubt("its log lies on another device")
    if realtime or realtime_extents:
        raise Doubt("it has a realtime device")
    if block_bytes not in {1 << n for n in range(9, 17)} or sector_bytes not in {1 << n for n in range(9, 16)}:
        raise Doubt(f"block size {block_bytes}, sector size {sector_bytes}: no sizes of XFS")
    if not 0 < groups <= MAX_GROUPS or not 64 <= group_blocks <= blocks or -(-blocks // group_blocks) != groups:
        raise Doubt(f"{blocks} blocks in {groups} groups of {group_blocks}: must fit together, {MAX_GROUPS} at most")
    if blocks * block_bytes > area_bytes or free > blocks:
        raise Doubt(
            f"{blocks} blocks of {block_bytes} bytes, {free} of them free: the partition has {area_bytes} bytes"
        )
    return Layout(block_bytes, sector_bytes, blocks, group_blocks, groups, free)


def _check_features(block: bytes, version: int) -> None:
    flags = version & ~0xF
    if flags & ~_V4_FLAGS:
        raise Doubt(f"unknown version flags {flags & ~_V4_FLAGS:#x}")
    more, bad = struct.unpack_from(">II", block, 200)
    more = more if flags & 0x8000 else 0
    known = _V5_MORE if version & 0xF == 5 else _V4_MORE
    if more & ~known or (flags & 0x8000 and bad not in {0, more}):
        raise Doubt(f"unknown features2 {more & ~known or bad:#x}")
    if version & 0xF == 4:
        return
    compat, ro_compat, incompat, log_incompat = struct.unpack_from(">IIII", block, 208)
    if incompat & _NEEDS_REPAIR:
        raise Unclean("it is marked as in need of repair", "run xfs_repair on it on the running machine")
    for name, bits, names in (
        ("compatible", compat, {}),
        ("read-only compatible", ro_compat, _RO_COMPAT),
        ("incompatible", incompat, _INCOMPAT),
        ("incompatible log", log_incompat, {}),
    ):
        if bits & ~sum(names):
            raise Doubt(f"unknown {name} features {bits & ~sum(names):#x}")


def check_groups(area: Area, layout: Layout) -> list[Group]:
    """Counters of all allocation groups. Raises Doubt unless they make up the superblock's."""
    found: list[Group] = []
    for number in range(layout.groups):
        offset = number * layout.group_blocks * layout.block_bytes + layout.sector_bytes
        header = area.read_exactly(offset, 512)
        magic, version, sequence, length = struct.unpack_from(">4sIII", header, 0)
        listed, free, _longest, tree = struct.unpack_from(">IIII", header, 48)
        if (magic, version, sequence, length) != (b"XAGF", 1, number, layout.blocks_of(number)):
            raise Doubt(f"the header of allocation group {number} is damaged")
        if free + listed + tree > length:
            raise Doubt(f"allocation group {number} counts {free + listed + tree} free blocks of {length}")
        found.append(Group(free, listed, tree))
    total = sum(group.free + group.listed + group.tree for group in found)
    if total != layout.free_blocks:
        raise Doubt(f"the superblock counts {layout.free_blocks} free blocks, the allocation groups {total}")
    return found


def check_log(output: bytes) -> None:
    """Raises Unclean unless xfs_logprint says, once, that the log is clean."""
    states = _STATE.findall(output)
    if states == [b"DIRTY"]:
        raise Unclean("its log holds changes: it was not unmounted cleanly", _ADVICE)
    if states != [b"CLEAN"]:
        raise Doubt("xfs_logprint does not say whether the log is clean")


def free_extents(lines: Iterable[bytes], layout: Layout, groups: Sequence[Group]) -> Ranges:
    """Free blocks (first, behind the last) from ``freesp -d`` of xfs_db. Raises Doubt unless all counters agree.

    Of each group, blocks that are kept for the B+trees come first, one by one; they are not counted as free here.
    """
    rows = iter(lines)
    if next(rows, b"").split() != [b"agno", b"agbno", b"len"]:
        raise Doubt("xfs_db does not list the free extents")
    current, kept, free, position = 0, 0, 0, 0
    ended = False
    for row in rows:
        if row.split()[:2] == [b"from", b"to"]:
            ended = True
            break
        found = _EXTENT.match(row)
        if found is None:
            raise Doubt("xfs_db lists free extents in a way that is not known")
        group, start, length = (int(number) for number in found.groups())
        while current < group:
            _complete(current, kept, free, groups)
            current, kept, free, position = current + 1, 0, 0, 0
        if group != current or group >= layout.groups:
            raise Doubt(f"xfs_db lists allocation group {group} after {current}")
        if kept < groups[group].listed:
            kept += 1
            if length != 1:
                raise Doubt(f"xfs_db lists {length} blocks where one is kept")
            continue
        if not length or start < position or start + length > layout.blocks_of(group):
            raise Doubt(f"xfs_db lists free blocks {start}-{start + length - 1} in allocation group {group}")
        position = start + length
        free += length
        base = group * layout.group_blocks
        yield base + start, base + position
    if not ended:
        raise Doubt("xfs_db does not list all free extents")
    for _row in rows:
        pass  # the histogram
    while current < layout.groups:
        _complete(current, kept, free, groups)
        current, kept, free = current + 1, 0, 0


def _complete(number: int, kept: int, free: int, groups: Sequence[Group]) -> None:
    if number >= len(groups) or (kept, free) != (groups[number].listed, groups[number].free):
        raise Doubt(f"the counters of allocation group {number} and its free extents disagree")


def free_ranges(area: Area) -> Ranges:
    """Free bytes of an XFS. Raises Doubt, Unclean, ToolError."""
    layout = check_superblock(area.read_exactly(0, 512), area.size_bytes)
    with area.sandbox.run("xfs_logprint", "-t", "{}") as tool:
        output = tool.output()
        if tool.returncode != 0:
            raise Doubt(tool.failure())
        check_log(output)
    groups = check_groups(area, layout)
    with area.sandbox.run("xfs_db", "-r", "-c", "freesp -d", "{}") as tool:
        for start, stop in free_extents(tool.lines(), layout, groups):
            yield start * layout.block_bytes, stop * layout.block_bytes
        said = _HARMLESS.sub(b"", tool.stderr).strip()
    if said:
        raise Doubt(f"xfs_db says: {said[:120].decode('ascii', 'replace')}")
