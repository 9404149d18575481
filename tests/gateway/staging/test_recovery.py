# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coldmig_gateway.staging import disk as disk_module
from coldmig_gateway.staging.disk import DiskStaging
from coldmig_gateway.staging.errors import StagingError
from coldmig_gateway.staging.index import SLOT
from coldmig_gateway.staging.pack import PACK_HEADER, Record
from coldmig_wire.frames import CHUNK, HEADER
from gateway.staging.conftest import MIGRATION, Opener
from gateway.staging.content import data_frame, have, raw_chunk, store, zero_frame

CHUNKS = 12
SIZE = CHUNKS * CHUNK


def small_frames() -> list[tuple[int, int, tuple[object, bytes]]]:
    """A few records with little data: (first chunk, end chunk, frame)."""
    return [
        (0, 1, data_frame(0, raw_chunk(0, stored=30))),
        (1, 4, zero_frame(1, 3)),
        (6, 7, data_frame(6, raw_chunk(6, stored=20))),
        (11, 12, data_frame(11, raw_chunk(11, stored=10))),
    ]


def ends_of(frames: list[tuple[int, int, tuple[object, bytes]]]) -> list[tuple[int, set[int]]]:
    """After how many bytes of the pack which chunks are there."""
    position, chunks, ends = PACK_HEADER, set[int](), [(PACK_HEADER, set[int]())]
    for start, end, (_, payload) in frames:
        position += HEADER + len(payload)
        chunks = chunks | set(range(start, end))
        ends.append((position, chunks))
    return ends


@pytest.mark.parametrize("keep_index", [True, False])
def test_a_pack_cut_at_any_byte_opens_with_the_records_that_are_whole(
    tmp_path: Path, open_staging: Opener, pack: Path, index: Path, keep_index: bool
) -> None:
    frames = small_frames()
    staging = open_staging(SIZE)
    store(staging, [frame for _, _, frame in frames])  # type: ignore[misc]
    staging.close()
    ends = ends_of(frames)
    content, index_content = pack.read_bytes(), index.read_bytes()
    assert len(content) == ends[-1][0]
    # Inside the header every 97th byte is enough: its fields are compared as one piece.
    for cut in [*range(0, PACK_HEADER, 97), *range(PACK_HEADER, len(content) + 1)]:
        pack.write_bytes(content[:cut])
        index.write_bytes(index_content if keep_index else b"")
        reopened = DiskStaging(tmp_path, MIGRATION, 0, SIZE)
        try:
            expected = max((end for end in ends if end[0] <= cut), default=(PACK_HEADER, set()), key=lambda e: e[0])
            assert set(have(reopened)) == expected[1], f"cut at {cut}"
            assert reopened.stored_bytes == pack.stat().st_size == expected[0]
            for chunk in reopened.data_bitmap().indices():
                reopened.load(chunk)
        finally:
            reopened.close()


def test_whole_chunks_cut_at_and_around_every_record_boundary(tmp_path: Path, open_staging: Opener, pack: Path) -> None:
    frames = [(chunk, chunk + 1, data_frame(chunk, raw_chunk(chunk))) for chunk in (2, 0, 5)]
    staging = open_staging(SIZE)
    store(staging, [frame for _, _, frame in frames])
    staging.close()
    content = pack.read_bytes()
    ends = ends_of(frames)  # type: ignore[arg-type]
    for boundary, _ in ends:
        for cut in {boundary - 1, boundary, boundary + 1, boundary + HEADER, boundary + 500_000} & {
            *range(len(content))
        }:
            pack.write_bytes(content[:cut])
            reopened = DiskStaging(tmp_path, MIGRATION, 0, SIZE)
            try:
                assert set(have(reopened)) == next((e[1] for e in reversed(ends) if e[0] <= cut), set())
            finally:
                reopened.close()


def test_a_cut_pack_takes_what_is_missing_again(open_staging: Opener, pack: Path) -> None:
    staging = open_staging(SIZE)
    store(staging, [data_frame(chunk, raw_chunk(chunk)) for chunk in range(3)])
    staging.close()
    os.truncate(pack, pack.stat().st_size - 1)
    staging = open_staging(SIZE)
    assert have(staging) == [0, 1]
    store(staging, [data_frame(2, raw_chunk(2))])
    staging.close()
    assert have(open_staging(SIZE)) == [0, 1, 2]


@pytest.mark.parametrize("damage", ["missing", "empty", "headers", "bitmaps", "random", "another disk's"])
def test_a_lost_or_damaged_index_is_made_again_from_the_pack(
    open_staging: Opener, pack: Path, index: Path, damage: str
) -> None:
    staging = open_staging(SIZE)
    store(staging, [data_frame(chunk, raw_chunk(chunk)) for chunk in (1, 8)] + [zero_frame(3, 2)])
    staging.checkpoint()
    staging.close()
    content = bytearray(index.read_bytes())
    if damage == "missing":
        index.unlink()
    elif damage == "empty":
        index.write_bytes(b"")
    elif damage == "another disk's":
        other = open_staging(SIZE, disk=1)
        store(other, [zero_frame(0, 12, disk=1)])
        other.close()
        shutil.copy(index.with_name("disk-1.index"), index)
    else:
        start, end = {"headers": (0, 8192), "bitmaps": (8192, 16384), "random": (0, len(content))}[damage]
        content[start:end] = os.urandom(end - start)
        index.write_bytes(content)
    staging = open_staging(SIZE)
    assert have(staging) == [1, 3, 4, 8]
    assert list(staging.data_bitmap().indices()) == [1, 8]
    for chunk in (1, 8):
        staging.load(chunk)


def test_a_crash_while_a_checkpoint_is_written_costs_no_scan_of_the_whole_pack(
    open_staging: Opener, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = open_staging(SIZE)
    store(staging, [data_frame(0, raw_chunk(0))])
    staging.checkpoint()
    store(staging, [data_frame(1, raw_chunk(1))])
    before = index.read_bytes()
    staging.checkpoint()
    after = bytearray(index.read_bytes())
    staging.close()
    # The new bitmaps arrived, the new header did not.
    after[:8192] = before[:8192]
    index.write_bytes(after)
    adopted = []
    real = DiskStaging._adopt

    def adopt(self: DiskStaging, record: Record) -> None:
        adopted.append(record)
        real(self, record)

    monkeypatch.setattr(DiskStaging, "_adopt", adopt)
    assert have(open_staging(SIZE)) == [0, 1]
    assert [record.frame.chunk for record in adopted] == [1]


def test_a_damaged_record_in_the_middle_is_passed_over_when_the_index_is_made_again(
    open_staging: Opener, pack: Path, index: Path
) -> None:
    staging = open_staging(SIZE)
    store(staging, [data_frame(chunk, raw_chunk(chunk)) for chunk in range(3)])
    offset = staging.slot(1).offset
    staging.close()
    index.unlink()
    with pack.open("r+b") as file:
        file.seek(offset + HEADER + 70)
        file.write(b"\x55\xaa\x55\xaa")
    assert have(open_staging(SIZE)) == [0, 2]


def test_a_pack_tail_of_zeros_as_power_loss_leaves_it_is_cut(open_staging: Opener, pack: Path) -> None:
    staging = open_staging(SIZE)
    store(staging, [data_frame(0, raw_chunk(0))])
    staging.close()
    size = pack.stat().st_size
    with pack.open("r+b") as file:
        file.truncate(size + 100_000)
    assert have(open_staging(SIZE)) == [0]
    assert pack.stat().st_size == size


def test_opening_reads_only_what_the_index_does_not_cover(
    open_staging: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "CHECKPOINT_BYTES", 2 * CHUNK)
    staging = open_staging(SIZE)
    for chunk in range(5):
        store(staging, [data_frame(chunk, raw_chunk(chunk))])
    scanned = []
    monkeypatch.setattr(DiskStaging, "_adopt", lambda self, record: scanned.append(record))
    monkeypatch.setattr(DiskStaging, "checkpoint", lambda self: None)
    staging.close()
    open_staging(SIZE)
    assert [record.frame.chunk for record in scanned] == [4]


WRITER = """
import sys
from pathlib import Path
from gateway.staging.content import data_frame, raw_chunk
from gateway.staging.conftest import MIGRATION
from coldmig_gateway.staging.disk import DiskStaging
from coldmig_wire.frames import CHUNK
staging = DiskStaging(Path(sys.argv[1]), MIGRATION, 0, 4096 * CHUNK)
for chunk in range(4096):
    epoch = staging.epoch
    staging.append(*data_frame(chunk, raw_chunk(chunk, stored=70_000)))
    staging.append(*data_frame(4095 - chunk, raw_chunk(4095 - chunk, stored=100)))
    staging.commit(epoch)
    print(chunk, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 20, 150])
def test_what_a_process_acknowledged_is_there_after_it_was_killed(
    tmp_path: Path, open_staging: Opener, acknowledged: int
) -> None:
    paths = [path for path in sys.path if path]
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert writer.stdout is not None
    seen = -1
    for line in writer.stdout:
        seen = int(line)
        if seen >= acknowledged:
            break
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read().split()
    writer.wait()
    seen = max([seen, *map(int, rest)])
    assert seen >= acknowledged
    staging = open_staging(4096 * CHUNK)
    present = set(have(staging))
    assert set(range(seen + 1)) | {4095 - chunk for chunk in range(seen + 1)} <= present
    for chunk in present:
        staging.load(chunk)


def test_slots_that_a_failed_checkpoint_may_have_lost_are_written_again(
    open_staging: Opener, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = open_staging(SIZE)
    store(staging, [data_frame(0, raw_chunk(0))])
    staging.checkpoint()
    store(staging, [data_frame(1, raw_chunk(1)), data_frame(2, raw_chunk(2))])
    before = index.read_bytes()
    with monkeypatch.context() as patch:

        def failing(fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patch.setattr(os, "fdatasync", failing)
        with pytest.raises(StagingError, match="checkpoint"):
            staging.checkpoint()
    # After a failed fdatasync the kernel takes the pages for written; here they are lost.
    slot = len(before) - SLOT
    with index.open("r+b") as file:
        file.seek(slot - SLOT)
        file.write(bytes(2 * SLOT))
    staging.checkpoint()
    staging.close()
    again = open_staging(SIZE)
    for chunk in range(3):
        again.load(chunk)
