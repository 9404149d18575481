# SPDX-License-Identifier: GPL-3.0-or-later
"""The write fence on a real block device (a loop device)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, run, write_tree

from coldmig_agent import fence
from coldmig_agent.copying.device import SourceDevice
from coldmig_agent.fence import FenceError, WriteCounters


@pytest.fixture
def device(loop_devices: None, tmp_path: Path) -> Iterator[Path]:
    path = Path(run("losetup", "--find", "--show", empty_image(tmp_path / "disk.img", 4 * MIB)).decode().strip())
    run("blockdev", "--setrw", path)  # the flag stays with a loop device from whoever had it before
    yield path
    run("blockdev", "--setrw", path)
    run("losetup", "--detach", path)


def test_a_disk_is_set_read_only_before_it_is_opened(device: Path) -> None:
    assert run("blockdev", "--getro", device).strip() == b"0"
    with closing(SourceDevice(device, 4 * MIB)):
        assert run("blockdev", "--getro", device).strip() == b"1"
        with pytest.raises(PermissionError):
            device.write_bytes(b"x" * 512)


def test_a_disk_that_becomes_writable_stops_the_copy(device: Path) -> None:
    fence.protect(device)
    fd = os.open(device, os.O_RDONLY)
    try:
        fence.check(fd, device)
        run("blockdev", "--setrw", device)
        with pytest.raises(FenceError, match="become writable"):
            fence.check(fd, device)
    finally:
        os.close(fd)


def test_a_kernel_that_keeps_the_disk_writable_is_refused(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "is_read_only", lambda _fd: False)
    with pytest.raises(FenceError, match="nothing is read from it"):
        fence.protect(device)


def test_a_disk_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(FenceError, match="absent"):
        fence.protect(tmp_path / "absent")


def test_an_image_file_needs_no_fence(tmp_path: Path) -> None:
    fence.protect(empty_image(tmp_path / "disk.img", 512))


@pytest.mark.parametrize(
    ("stat", "expected"),
    [
        ("100 0 800 5 0 0 0 0 0 5 5", (0, 0)),
        ("100 0 800 5 7 0 56 0 0 5 5 2 0 16 0 9 1", (9, 72)),
        ("", (0, 0)),
        ("nonsense", (0, 0)),
    ],
)
def test_writes_and_discards_of_the_kernel_are_counted(tmp_path: Path, stat: str, expected: tuple[int, int]) -> None:
    write_tree(tmp_path, {"block/sda/stat": stat + "\n"})
    assert fence.write_counters(Path("/dev/sda"), tmp_path) == WriteCounters(*expected)
