# SPDX-License-Identifier: GPL-3.0-or-later
"""ext2, ext3 and ext4: free blocks as dumpe2fs prints them, behind checks of the superblock's own.

Layout: Documentation/filesystems/ext4/super.rst of the kernel. dumpe2fs needs a few MiB whatever the size.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from coldmig_agent.freespace.area import Area, Doubt, Ranges, Unclean

_COMPAT = {
    0x1: "dir_prealloc", 0x2: "imagic", 0x4: "has_journal", 0x8: "ext_attr", 0x10: "resize_inode", 0x20: "dir_index",
    0x200: "sparse_super2", 0x400: "fast_commit", 0x800: "stable_inodes", 0x1000: "orphan_file",
}  # fmt: skip
_INCOMPAT = {
    0x2: "filetype", 0x10: "meta_bg", 0x40: "extent", 0x80: "64bit", 0x200: "flex_bg", 0x400: "ea_inode",
    0x2000: "metadata_csum_seed", 0x4000: "large_dir", 0x8000: "inline_data", 0x10000: "encrypt", 0x20000: "casefold",
}  # fmt: skip
_RO_COMPAT = {
    0x1: "sparse_super", 0x2: "large_file", 0x8: "huge_file", 0x10: "uninit_bg", 0x20: "dir_nlink",
    0x40: "extra_isize", 0x100: "quota", 0x400: "metadata_csum", 0x2000: "project", 0x8000: "verity",
}  # fmt: skip
_HAS_JOURNAL = 0x4
_RECOVER, _JOURNAL_DEVICE, _64BIT = 0x4, 0x8, 0x80
_ORPHAN_PRESENT = 0x10000
_ADVICE = "start the machine, shut it down properly, and boot this ISO again if its free space should not be copied"

_GROUP = re.compile(rb"Group (\d{1,10}): \(Blocks (\d{1,18})-(\d{1,18})\)")
_COUNT = re.compile(rb"  (\d{1,10}) free blocks, ")
_RANGE = re.compile(rb" (\d{1,18})(?:-(\d{1,18}))?(?:,|$)")
_FREE = b"  Free blocks:"
_START = re.compile(rb"Journal start: +(\d+)$")


@dataclass(frozen=True, slots=True)
class Layout:
    """What the superblock says. Sizes in bytes, the rest in blocks."""

    block_bytes: int
    first_block: int
    blocks: int
    free_blocks: int
    blocks_per_group: int
    has_journal: bool

    @property
    def groups(self) -> int:
        """Number of block groups."""
        return -(-(self.blocks - self.first_block) // self.blocks_per_group)


def _unknown(bits: int, known: dict[int, str]) -> int:
    return bits & ~sum(known)


def _check_features(compat: int, incompat: int, ro_compat: int) -> None:
    if incompat & _RECOVER:
        raise Unclean("its journal holds changes: it was not unmounted cleanly", _ADVICE)
    if ro_compat & _ORPHAN_PRESENT:
        raise Unclean("it holds files that were deleted while they were open: it was not unmounted cleanly", _ADVICE)
    if incompat & _JOURNAL_DEVICE:
        raise Doubt("it is the journal of another file system")
    for name, bits, known in (
        ("compatible", compat, _COMPAT),
        ("incompatible", incompat, _INCOMPAT),
        ("read-only compatible", ro_compat, _RO_COMPAT),
    ):
        if _unknown(bits, known):
            raise Doubt(f"unknown {name} features {_unknown(bits, known):#x}")


def check_superblock(block: bytes, area_bytes: int) -> Layout:
    """The layout that a superblock (1024 bytes) describes. Raises Doubt, Unclean where it was not left cleanly."""
    blocks, free = struct.unpack_from("<I4xI", block, 4)
    first, log_block, log_cluster, per_group, clusters_per_group = struct.unpack_from("<IIIII", block, 20)
    magic, state, revision = struct.unpack_from("<HH16xI", block, 56)
    compat, incompat, ro_compat = struct.unpack_from("<III", block, 92)
    journal_inode, journal_device, last_orphan = struct.unpack_from("<III", block, 224)
    if magic != 0xEF53 or revision > 1:
        raise Doubt(f"magic number {magic:#x}, revision {revision}: must be 0xef53 and at most 1")
    if revision == 0 and (compat or incompat or ro_compat):
        raise Doubt("revision 0 has no features")
    _check_features(compat, incompat, ro_compat)
    if state != 1:
        raise Unclean(f"its state is {state:#x}: it was not unmounted cleanly or has errors", _ADVICE)
    if last_orphan:
        raise Unclean("it holds files that were deleted while they were open: it was not unmounted cleanly", _ADVICE)
    if struct.unpack_from("<I", block, 404)[0]:
        raise Unclean("errors were recorded in it", "check it with e2fsck on the running machine")
    has_journal = bool(compat & _HAS_JOURNAL)
    if has_journal and (journal_device or not journal_inode):
        raise Doubt("its journal lies elsewhere")
    if incompat & _64BIT:
        high, free_high = struct.unpack_from("<I4xI", block, 336)
        blocks, free = blocks | high << 32, free | free_high << 32
    block_bytes = 1024 << log_block if log_block <= 6 else 0
    if not block_bytes or log_cluster != log_block or clusters_per_group != per_group:
        raise Doubt(f"block size 2^{10 + log_block}, cluster size 2^{10 + log_cluster}: must be equal, at most 64 KiB")
    if first != (1 if block_bytes == 1024 else 0) or not 0 < per_group <= 8 * block_bytes or per_group % 8:
        raise Doubt(f"first block {first}, {per_group} blocks in a group: no layout of this block size")
    if not first < blocks <= area_bytes // block_bytes or free > blocks:
        raise Doubt(
            f"{blocks} blocks of {block_bytes} bytes, {free} of them free: the partition has {area_bytes} bytes"
        )
    return Layout(block_bytes, first, blocks, free, per_group, has_journal)


class _Listing:
    """The output of dumpe2fs, line by line, held against the layout."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._group = -1
        self._first = self._last = self._position = 0
        self._announced: int | None = None
        self._complete = True
        self._total = 0
        self._journal_starts: list[bytes] = []

    def line(self, line: bytes) -> Ranges:
        """The free blocks of a line, if it lists any. Raises Doubt."""
        if b"***" in line or line.startswith((b"dumpe2fs:", b"Journal errno")) or b"error reading" in line:
            raise Doubt(f"dumpe2fs says: {line[:120].decode('ascii', 'replace').strip()}")
        if found := _START.match(line):
            self._journal_starts.append(found[1])
        elif found := _GROUP.match(line):
            self._next_group(*(int(number) for number in found.groups()))
        elif found := _COUNT.match(line):
            if self._complete or self._announced is not None:
                raise Doubt("dumpe2fs lists a group twice")
            self._announced = int(found[1])
        elif line.startswith(_FREE) and self._group >= 0:
            yield from self._free(line[len(_FREE) :])

    def _next_group(self, number: int, first: int, last: int) -> None:
        self._check_complete()
        self._group += 1
        expected = self._layout.first_block + self._group * self._layout.blocks_per_group
        end = min(expected + self._layout.blocks_per_group, self._layout.blocks) - 1
        if (number, first, last) != (self._group, expected, end):
            raise Doubt(f"dumpe2fs lists group {number}, blocks {first}-{last}: not the layout")
        self._first, self._last, self._announced, self._complete = first, last, None, False

    def _free(self, text: bytes) -> Ranges:
        counted = 0
        for start, stop in _ranges(text):
            if not max(self._first, self._position) <= start < stop <= self._last + 1:
                raise Doubt(f"dumpe2fs lists free blocks {start}-{stop - 1} in {self._first}-{self._last}")
            yield start, stop
            self._position = stop
            counted += stop - start
        if self._complete or counted != self._announced:
            raise Doubt(f"group {self._group} counts {self._announced} free blocks, its bitmap {counted}")
        self._total += counted
        self._complete = True

    def _check_complete(self) -> None:
        if not self._complete:
            raise Doubt(f"dumpe2fs does not list the free blocks of group {self._group}")

    def end(self) -> None:
        """Raises Doubt, Unclean unless everything was listed and adds up."""
        self._check_complete()
        if self._group + 1 != self._layout.groups:
            raise Doubt(f"dumpe2fs lists {self._group + 1} of {self._layout.groups} groups")
        if self._layout.has_journal and self._journal_starts != [b"0"]:
            raise Unclean("its journal is not empty: it was not unmounted cleanly", _ADVICE)
        if self._total != self._layout.free_blocks:
            raise Doubt(f"the superblock counts {self._layout.free_blocks} free blocks, the bitmaps {self._total}")


def free_blocks(lines: Iterable[bytes], layout: Layout) -> Ranges:
    """Free blocks (first, behind the last) from the output of dumpe2fs. Raises Doubt unless all counters agree."""
    listing = _Listing(layout)
    for line in lines:
        yield from listing.line(line)
    listing.end()


def _ranges(text: bytes) -> Ranges:
    position = 0
    while position < len(text.rstrip()):
        found = _RANGE.match(text, position)
        if found is None:
            raise Doubt("dumpe2fs lists free blocks in a way that is not known")
        start = int(found[1])
        yield start, int(found[2] or start) + 1
        position = found.end()


def free_ranges(area: Area) -> Ranges:
    """Free bytes of an ext2, ext3 or ext4. Raises Doubt, Unclean, ToolError."""
    layout = check_superblock(area.read_exactly(1024, 1024), area.size_bytes)
    with area.sandbox.run("dumpe2fs", "{}") as tool:
        for start, stop in free_blocks(tool.lines(), layout):
            yield start * layout.block_bytes, stop * layout.block_bytes
        said = tool.stderr.strip()
    if not re.fullmatch(rb"dumpe2fs [\w.-]+ \([\w-]+\)", said):
        raise Doubt(f"dumpe2fs says: {said[:120].decode('ascii', 'replace')}")
