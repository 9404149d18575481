# SPDX-License-Identifier: GPL-3.0-or-later
"""Tools that lie, fail, talk too much or never end: their output belongs to whoever made the file system."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coldmig_agent.freespace import ext, tools, xfs
from coldmig_agent.freespace.area import Area, Doubt, Unclean
from coldmig_agent.freespace.partclone import free_in_map
from coldmig_agent.freespace.tools import Sandbox, ToolError, ToolRun

MIB = 1 << 20


def listing(text: str) -> list[bytes]:
    return text.encode().splitlines()


GOOD_MAP = """\
# Domain logfile created by unset_name v0.3.23
# current_pos  current_status
0x00100000     ?
#      pos        size  status
0x00000000  0x00010000  +
0x00010000  0x00070000  ?
0x00080000  0x00040000  +
0x000C0000  0x00040000  ?
"""


def test_a_map_of_partclone() -> None:
    assert list(free_in_map(listing(GOOD_MAP), MIB)) == [(0x10000, 0x80000), (0xC0000, 0x100000)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (GOOD_MAP, ""),
        (GOOD_MAP, "# only a comment\n"),
        ("0x00100000     ?\n", ""),
        ("0x00100000     ?", "Segmentation fault"),
        ("0x00100000     ?\n#", "0x00100000     ?\n0x00000000  0x00000000  +\n#"),
        ("0x00010000  0x00070000", "0x00020000  0x00060000"),
        ("0x00010000  0x00070000", "0x00008000  0x00078000"),
        ("0x00080000  0x00040000  +", "0x00080000  0x00040000  *"),
        ("0x00080000  0x00040000  +", "0x00080000  -0x0040000  +"),
        ("0x00080000  0x00040000  +", "0x00080000 0x00040000 +"),
        ("0x000C0000  0x00040000", "0x000C0000  0x00040001"),
        ("0x000C0000  0x00040000", "0x000C0000  0xFFFFFFFFFFFFFFFF"),
        ("0x000C0000  0x00040000", "0x000C0000  0x" + "F" * 40),
        ("0x00000000  0x00010000  +\n", ""),
    ],
)
def test_a_map_that_makes_no_sense_is_refused(old: str, new: str) -> None:
    assert old in GOOD_MAP
    with pytest.raises(Doubt, match="partclone"):
        list(free_in_map(listing(GOOD_MAP.replace(old, new, 1)), MIB))


EXT = ext.Layout(1024, 1, 20_001, 60, 8192, has_journal=True)
GOOD_EXT = """\
Filesystem volume name:   <none>
Journal start:            0
Group 0: (Blocks 1-8192) csum 0x1 [ITABLE_ZEROED]
  Block bitmap at 259 (+258), csum 0xa4648523
  30 free blocks, 20 free inodes, 2 directories, 20 unused inodes
  Free blocks: 101-120, 130-138, 8192
  Free inodes: 12-2048
Group 1: (Blocks 8193-16384) [INODE_UNINIT]
  0 free blocks, 2048 free inodes, 0 directories
  Free blocks: 
Group 2: (Blocks 16385-20000)
  30 free blocks, 2048 free inodes, 0 directories
  Free blocks: 19971-20000
"""  # noqa: W291 - dumpe2fs writes it so


def test_a_listing_of_dumpe2fs() -> None:
    found = list(ext.free_blocks(listing(GOOD_EXT), EXT))
    assert found == [(101, 121), (130, 139), (8192, 8193), (19971, 20001)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (GOOD_EXT, ""),
        ("Group 2: (Blocks 16385-20000)", "Group 3: (Blocks 16385-20000)"),
        ("Blocks 16385-20000", "Blocks 16385-20001"),
        ("Blocks 8193-16384", "Blocks 8192-16384"),
        ("Blocks 8193-16384", "Blocks 8193-" + "9" * 30),
        ("130-138, 8192", "130-138, 8193"),
        ("130-138", "110-118"),
        ("130-138", "138-130"),
        ("130-138", "130-137"),
        ("130-138", "130-138x"),
        ("130-138", "-1-138"),
        ("101-120", "0-19"),
        ("  30 free blocks, 20 free", "  31 free blocks, 20 free"),
        ("  30 free blocks, 20 free inodes, 2 directories, 20 unused inodes\n", ""),
        ("  Free blocks: 101-120, 130-138, 8192\n", ""),
        ("  Free blocks: 19971-20000\n", ""),
        ("  Free inodes: 12-2048\n", "  Free blocks: 101-120, 130-138, 8192\n"),
        ("  Free inodes: 12-2048\n", "  30 free blocks, 1 free inodes\n"),
        (
            "Group 2: (Blocks 16385-20000)\n",
            "Group 2: (Blocks 16385-20000)\n*** Checksum errors detected in bitmaps!\n",
        ),
        ("Group 2: (Blocks 16385-20000)\n", "dumpe2fs: /dev/x: error reading bitmaps\nGroup 2: (Blocks 16385-20000)\n"),
        ("30 free blocks, 2048", "29 free blocks, 2048"),
        ("19971-20000", "19971-19999"),
    ],
)
def test_a_listing_of_dumpe2fs_that_makes_no_sense_is_refused(old: str, new: str) -> None:
    assert old in GOOD_EXT
    with pytest.raises(Doubt):
        list(ext.free_blocks(listing(GOOD_EXT.replace(old, new, 1)), EXT))


def test_all_groups_right_and_the_superblock_wrong() -> None:
    layout = ext.Layout(1024, 1, 20_001, 61, 8192, has_journal=True)
    with pytest.raises(Doubt, match="superblock counts 61 free blocks, the bitmaps 60"):
        list(ext.free_blocks(listing(GOOD_EXT), layout))


@pytest.mark.parametrize(
    "new", ["Journal start:            77", "", "Journal start:            0\nJournal start:    5"]
)
def test_a_journal_that_is_not_known_to_be_empty(new: str) -> None:
    with pytest.raises(Unclean, match="journal"):
        list(ext.free_blocks(listing(GOOD_EXT.replace("Journal start:            0", new)), EXT))


XFS = xfs.Layout(4096, 512, 2000, 1000, 2, 150)
GROUPS = [xfs.Group(free=100, listed=2, tree=0), xfs.Group(free=46, listed=1, tree=1)]
GOOD_XFS = """\
    agno    agbno      len
       0      990        1
       0      991        1
       0       10       60
       0       80       40
       1        5        1
       1        6       46
   from      to extents  blocks    pct
      1       1       3       3   0.02
"""


def test_a_listing_of_xfs_db() -> None:
    assert list(xfs.free_extents(listing(GOOD_XFS), XFS, GROUPS)) == [(10, 70), (80, 120), (1006, 1052)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (GOOD_XFS, ""),
        ("    agno    agbno      len\n", ""),
        ("   from      to extents  blocks    pct\n      1       1       3       3   0.02\n", ""),
        ("       0      991        1\n", ""),
        ("991        1", "991        2"),
        ("       0       80       40\n", ""),
        ("0       80       40", "0       80       41"),
        ("0       80       40", "0       60       40"),
        ("0       80       40", "0      980       40"),
        ("0       80       40", "0       80        0"),
        ("0       80       40", "2       80       40"),
        ("1        6       46", "0        6       46"),
        ("1        6       46", "9        6       46"),
        ("1        6       46", "4294967295        6       46"),
        ("1        6       46", "1        6       4x"),
        ("1        6       46", "Metadata CRC error"),
        ("       1        5        1\n       1        6       46\n", ""),
    ],
)
def test_a_listing_of_xfs_db_that_makes_no_sense_is_refused(old: str, new: str) -> None:
    assert old in GOOD_XFS
    with pytest.raises(Doubt):
        list(xfs.free_extents(listing(GOOD_XFS.replace(old, new, 1)), XFS, GROUPS))


# How tools are run. The tool is a shell; what holds it is the real thing.

root_only = pytest.mark.usefixtures("loop_devices")


def shell(script: str, seconds: float = 60.0) -> ToolRun:
    return Sandbox(Path("/dev/null"), time.monotonic() + seconds).run("sh", "-c", script)


@root_only
def test_lines_come_one_by_one_and_a_bad_end_counts() -> None:
    with shell("printf 'a\\nb\\n\\nc'") as tool:
        assert list(tool.lines()) == [b"a", b"b", b"", b"c"]
    with shell("echo a; echo trouble >&2; exit 3") as tool:
        lines = tool.lines()
        assert next(lines) == b"a"
        with pytest.raises(ToolError, match=r"sh ended with 3 \(trouble\)"):
            next(lines)


@root_only
def test_a_tool_that_never_ends_is_killed_with_all_its_children(tmp_path: Path) -> None:
    with shell("sleep 1000 & echo $$; sleep 1000", seconds=1.0) as tool:
        lines = tool.lines()
        group = int(next(lines))
        with pytest.raises(ToolError, match="took too long"):
            next(lines)
    wait_until_gone(group)


def wait_until_gone(group: int) -> None:
    """Until no process of the group is left but, perhaps, ones that nobody has waited for."""
    for _try in range(500):
        if not any(state != "Z" for state in group_states(group)):
            return
        time.sleep(0.02)
    raise AssertionError(f"process group {group} is still there")


def group_states(group: int) -> Iterator[str]:
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            yield fields[0]


@root_only
def test_a_tool_that_is_not_listened_to_any_more_ends() -> None:
    with shell("echo $$; yes") as tool:
        group = int(next(tool.lines()))
    wait_until_gone(group)


@root_only
@pytest.mark.parametrize(
    ("script", "limit", "words"),
    [
        ("yes", "MAX_OUTPUT", "said too much"),
        ("yes >&2", "_MAX_STDERR", "said too much"),
        ("yes | tr -d '\\n'", "MAX_LINE", "a line of more than"),
    ],
)
def test_a_tool_that_says_too_much_is_stopped(
    script: str, limit: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, limit, 1 << 18)
    with shell(script) as tool, pytest.raises(ToolError, match=words):
        for _line in tool.lines():
            pass


@root_only
def test_short_output_has_a_limit_too() -> None:
    with shell("yes | head -c 5000") as tool, pytest.raises(ToolError, match="more than 4096 bytes"):
        tool.output(limit=4096)


@root_only
def test_a_tool_gets_no_memory_without_end() -> None:
    with shell("head -c 2000000000 /dev/zero | tail -n 1") as tool:
        tool.output()
    assert b"memory exhausted" in tool.stderr or tool.returncode != 0


@pytest.mark.parametrize(
    ("available", "limit"), [("16777216", 384 * MIB), ("409600", 200 * MIB), ("1000", 64 * MIB), ("x", 64 * MIB)]
)
def test_where_memory_is_short_tools_get_less(available: str, limit: int, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 33554432 kB\nMemAvailable:   {available} kB\nBuffers: 1 kB\n")
    assert tools.memory_limit(tmp_path) == limit


@root_only
def test_when_memory_runs_out_a_tool_goes_first() -> None:
    with shell("cat /proc/self/oom_score_adj") as tool:
        assert tool.output().strip() == b"900"


@root_only
def test_a_tool_cannot_fill_the_live_system() -> None:
    target = Path(f"/tmp/coldmig-tool-{os.getpid()}")
    with shell(f"head -c 100000 /dev/zero >{target}") as tool:
        tool.output()
    size = target.stat().st_size if target.exists() else 0
    target.unlink(missing_ok=True)
    assert (tool.returncode != 0, size) == (True, 0)


def test_a_tool_that_cannot_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_CAGE", ("/nonexistent/cage",))
    with pytest.raises(ToolError, match="cannot be run"):
        shell("true")


def test_what_cannot_be_read_is_a_doubt() -> None:
    area = Area(4096, lambda _offset, _length: b"short", Sandbox(Path("/dev/null"), 0.0))
    with pytest.raises(Doubt, match="cannot be read"):
        area.read_exactly(1024, 1024)
