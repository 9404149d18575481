# SPDX-License-Identifier: GPL-3.0-or-later
"""The staging file system fills up."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from coldmig_gateway.dataplane.room import Room
from coldmig_gateway.staging.errors import StagingFullError
from coldmig_wire.frames import CHUNK
from gateway.dataplane.front import Front, wait_until
from gateway.staging.content import data_frame, raw_chunk

ID = "11111111-2222-4333-8444-555555555555"
CHUNKS = 64
RESERVE = 8 << 20


@pytest.fixture(params=["tmpfs", "ext4"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    place = tmp_path / "staging"
    place.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=48m,mode=700", "tmpfs", str(place)]
    else:
        image = tmp_path / "image"
        image.touch()
        os.truncate(image, 48 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        command = ["mount", "-o", "loop", str(image), str(place)]
    # Finding a free loop device and taking it are two steps: another test may be faster.
    wait_until(lambda: subprocess.run(command, check=False).returncode == 0, "the file system is mounted")
    yield place
    subprocess.run(["umount", place], check=True)


def free(place: Path) -> int:
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def send_until_full(front: Front) -> list[int]:
    """One chunk for each request; those that were acknowledged."""
    acknowledged: list[int] = []
    for chunk in range(CHUNKS):
        answer = front.session(ID).send([data_frame(chunk, raw_chunk(chunk))])
        if answer.status == 507:
            assert answer.json["type"] == "urn:coldmig:problem:staging-full"
            return acknowledged
        assert answer.json["durable"] == 1
        acknowledged.append(chunk)
    raise AssertionError("it never was full")


@pytest.mark.parametrize("reserve", [RESERVE, 0])
def test_a_full_file_system_stops_the_copy_for_a_while_and_takes_nothing_back(
    small: Path, tmp_path: Path, reserve: int
) -> None:
    front = Front(tmp_path, reserve=reserve)
    try:
        front.migration(ID, CHUNKS * CHUNK)
        ballast = small / "ballast"
        ballast.write_bytes(os.urandom(16 << 20))
        acknowledged = send_until_full(front)
        assert len(acknowledged) >= 8
        if reserve:
            assert RESERVE - 6 * CHUNK <= free(small) < RESERVE + 2 * CHUNK
        # What was in memory when the mark was passed may have been kept, too.
        have = front.session(ID).have()
        assert have in (acknowledged, [*acknowledged, len(acknowledged)])
        # The same after a restart, and while it is still full.
        front.stop()
        front.start()
        assert front.session(ID).have() == have
        ballast.unlink()
        wait_until(lambda: front.session(ID).send([data_frame(63, raw_chunk(63))]).status == 200, "there is room again")
        further = [data_frame(chunk, raw_chunk(chunk)) for chunk in range(len(have), len(have) + 8)]
        assert front.session(ID).send(further).status == 200
        assert front.session(ID).have() == [*range(len(have) + 8), 63]
    finally:
        front.stop()


def test_a_long_body_is_cut_off_at_the_low_water_mark(small: Path, tmp_path: Path) -> None:
    front = Front(tmp_path, reserve=RESERVE)
    try:
        front.migration(ID, CHUNKS * CHUNK)
        # The answer may come while the body is still being sent, and is lost to such a client.
        with contextlib.suppress(OSError):
            answer = front.session(ID).send([data_frame(chunk, raw_chunk(chunk)) for chunk in range(CHUNKS)])
            assert answer.status == 507
        have = front.session(ID).have()
        assert have == list(range(len(have)))
        assert 16 < len(have) < 48
        assert free(small) > RESERVE - 8 * CHUNK
    finally:
        front.stop()


def test_without_a_setting_256_mib_or_a_hundredth_stay_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Status:
        f_frsize, f_blocks, f_bavail = 4096, 0, 0

    monkeypatch.setattr(os, "statvfs", lambda path: Status)
    for size, least in ((10 << 30, 256 << 20), (1 << 40, (1 << 40) // 100)):
        Status.f_blocks = size // 4096
        Status.f_bavail = least // 4096 + 1
        Room(None).check(tmp_path / "not" / "there")
        Status.f_bavail = least // 4096 - 1
        with pytest.raises(StagingFullError, match=str(least)):
            Room(None).check(tmp_path)
