# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are not well: files whose reads fail, lie, dawdle or end, by way of nbdkit and FUSE."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.processes import wait_until

MIB = 1 << 20
SECTOR = 512

_BAD_READ = 'echo "EIO the medium is damaged here" >&2; exit 1'
_SCRIPT = """#!/bin/bash
count=$3 offset=$4
overlaps() {{ (( offset < $1 + $2 && offset + count > $1 )); }}
case $1 in
    thread_model) echo serialize_requests ;;
    get_size) stat -Lc %s {disk} ;;
    pread)
        {before}
        dd if={disk} bs=1M iflag=skip_bytes,count_bytes skip="$offset" count="$count" status=none {after}
        ;;
    *) exit 2 ;;
esac
"""


class StrangeDisk:
    """A disk that is served for as long as the context lasts; ``path`` looks like an image file."""

    def __init__(self, path: Path, nbdkit: subprocess.Popen[bytes]) -> None:
        self.path = path
        self._nbdkit = nbdkit

    def vanish(self) -> None:
        """Whoever pulls the cable of a disk ends every read with an error."""
        self._nbdkit.kill()
        self._nbdkit.wait()


@contextmanager
def served(directory: Path, *arguments: str | Path) -> Iterator[StrangeDisk]:
    """What ``nbdkit`` with these arguments serves, as a file."""
    for tool in ("nbdkit", "nbdfuse", "fusermount3"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    mount = directory / "mount"
    mount.mkdir(parents=True)
    # Names of sockets must be short, those of test directories are not.
    socket = Path(f"/tmp/coldmig-{directory.name[:20]}-{time.monotonic_ns()}")
    with ExitStack() as stack:
        stack.callback(socket.unlink, missing_ok=True)
        words = ["nbdkit", "--foreground", "--readonly", "--unix", str(socket), *map(str, arguments)]
        log = stack.enter_context((directory / "nbdkit.log").open("ab"))
        nbdkit = subprocess.Popen(words, stdout=log, stderr=log)
        served_disk = StrangeDisk(mount / "nbd", nbdkit)
        stack.callback(served_disk.vanish)
        wait_until(socket.exists, (directory / "nbdkit.log").read_text)
        fuse = subprocess.Popen(["nbdfuse", "--readonly", str(mount), "--unix", str(socket)], stdout=log, stderr=log)
        stack.callback(fuse.wait)
        stack.callback(subprocess.run, ["fusermount3", "-u", "-z", str(mount)], check=False, capture_output=True)
        # Before the file system goes, so that reads that would take long end at once.
        stack.callback(served_disk.vanish)
        wait_until(served_disk.path.exists, (directory / "nbdkit.log").read_text)
        yield served_disk


def damaged(directory: Path, image: Path, bad: Sequence[tuple[int, int]]) -> list[str | Path]:
    """An image whose ranges ``bad`` (start, length) cannot be read: what ddrescue could not rescue gives EIO."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = ["0x0 +"]
    position = 0
    for start, length in bad:
        lines += [f"{position:#x} {start - position:#x} +"] if start > position else []
        lines.append(f"{start:#x} {length:#x} -")
        position = start + length
    size = image.stat().st_size
    lines += [f"{position:#x} {size - position:#x} +"] if size > position else []
    mapfile = directory / "rescue.map"
    mapfile.write_text("\n".join(lines) + "\n")
    return ["--filter=ddrescue", "file", image, f"ddrescue-mapfile={mapfile}"]


def script(directory: Path, image: Path, *, before: str = "", after: str = "") -> list[str | Path]:
    """An image with shell code before each read, and after it in a pipe."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "disk.sh"
    path.write_text(_SCRIPT.format(disk=image, before=before, after=after))
    path.chmod(0o755)
    return ["sh", path]


def recovering(directory: Path, image: Path, sector: int, tries: int) -> list[str | Path]:
    """An image with one sector that is read at the ``tries``-th try of reading it alone."""
    seen = directory / "tries"
    before = f"""
        if overlaps {sector} {SECTOR}; then
            (( count == {SECTOR} )) && echo >> {seen}
            (( $(cat {seen} 2>/dev/null | wc -l) >= {tries} )) || {{ {_BAD_READ}; }}
        fi"""
    return script(directory, image, before=before)


def lying(directory: Path, image: Path) -> list[str | Path]:
    """An image that has other bytes in its upper half whenever it is read: the number of the read stands in them."""
    reads = directory / "reads"
    half = image.stat().st_size // 2
    before = f"echo >> {reads}; number=$(wc -l < {reads})"
    after = f'| if (( offset >= {half} )); then printf "%08d" "$number"; tail -c +9; else cat; fi'
    return script(directory, image, before=before, after=after)
