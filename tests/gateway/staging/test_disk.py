# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import errno
import os
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from coldmig_gateway.staging.disk import DiskStaging
from coldmig_gateway.staging.errors import (
    ChunkDamagedError,
    PackDamagedError,
    StagingBusyError,
    StagingError,
    StagingFullError,
)
from coldmig_gateway.staging.pack import Pack
from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import CHUNK, Codec, Frame, FrameError, FrameType
from coldmig_wire.payload import payload_grains
from gateway.staging.conftest import MIGRATION, Opener
from gateway.staging.content import data_frame, have, raw_chunk, store, zero_frame

SIZE = 10 * CHUNK - 512


def plain(staging: DiskStaging, chunk: int) -> bytes:
    stored = staging.load(chunk)
    grains = payload_grains(stored.frame.codec, stored.payload, stored.frame.run)
    return b"".join(bytes(grain.plain()) for grain in grains)


def test_what_was_committed_can_be_read_again_and_is_there_after_reopening(open_staging: Opener) -> None:
    staging = open_staging(SIZE)
    raw = {chunk: raw_chunk(chunk) for chunk in (4, 0)} | {9: raw_chunk(9, CHUNK - 512)}
    store(staging, [data_frame(chunk, content) for chunk, content in raw.items()] + [zero_frame(5, 3)])
    assert have(staging) == [0, 4, 5, 6, 7, 9]
    staging.close()
    again = open_staging(SIZE)
    assert have(again) == [0, 4, 5, 6, 7, 9]
    assert {chunk: plain(again, chunk) for chunk in raw} == raw
    assert list(again.data_bitmap().indices()) == [0, 4, 9]


def test_what_was_appended_does_not_count_before_it_is_committed(open_staging: Opener) -> None:
    staging = open_staging(SIZE)
    epoch = staging.epoch
    staging.append(*data_frame(1, raw_chunk(1)))
    assert have(staging) == []
    staging.commit(epoch)
    assert have(staging) == [1]


def test_duplicates_and_disorder_leave_one_record_for_each_chunk(open_staging: Opener, pack: Path) -> None:
    staging = open_staging(SIZE)
    store(staging, [data_frame(chunk, raw_chunk(chunk, stored=50)) for chunk in (7, 2, 7, 3, 2)])
    size = pack.stat().st_size
    store(staging, [data_frame(chunk, raw_chunk(chunk, stored=50)) for chunk in (3, 7, 2)])
    assert have(staging) == [2, 3, 7]
    assert pack.stat().st_size == size


def test_zeros_over_chunks_with_data_do_not_hide_the_data(open_staging: Opener) -> None:
    staging = open_staging(SIZE)
    store(staging, [data_frame(3, raw_chunk(3)), zero_frame(0, 10)])
    assert staging.complete
    for opened in (staging, None):
        if opened is None:
            staging.close()
        reopened = opened or open_staging(SIZE)
        assert list(reopened.data_bitmap().indices()) == [3]
        assert plain(reopened, 3) == raw_chunk(3)


def test_a_plain_chunk_and_an_unreadable_one_are_kept_like_others(open_staging: Opener) -> None:
    staging = open_staging(SIZE)
    raw = raw_chunk(1)
    unreadable, payload = data_frame(2, raw_chunk(2))
    store(
        staging,
        [
            (Frame(FrameType.DATA, Codec.RAW, 0, 1, CHUNK, CHUNK, chunk_digest(raw)), raw),
            (Frame(FrameType.UNREADABLE, Codec.GRAINS, 0, 2, CHUNK, len(payload), unreadable.digest), payload),
        ],
    )
    assert plain(staging, 1) == raw
    assert staging.slot(2).type is FrameType.UNREADABLE


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        (data_frame(0, b"x" * 512)[0], "run=512: chunk 0 has 1048576 bytes"),
        (data_frame(9, raw_chunk(9))[0], "chunk 9 has 1048064 bytes"),
        (data_frame(10, raw_chunk(9))[0], "chunks 0 to 9"),
        (zero_frame(9, 2)[0], "chunks 0 to 9"),
        (data_frame(0, raw_chunk(0), disk=1)[0], "disk=1: must be 0"),
    ],
)
def test_a_frame_that_does_not_fit_the_disk_is_refused_and_nothing_is_written(
    open_staging: Opener, pack: Path, frame: Frame, field: str
) -> None:
    staging = open_staging(SIZE)
    before = pack.stat().st_size
    with pytest.raises(FrameError, match=field):
        staging.append(frame)
    assert pack.stat().st_size == before


def test_two_processes_cannot_open_the_same_disk(open_staging: Opener, tmp_path: Path) -> None:
    open_staging(SIZE)
    with pytest.raises(StagingBusyError, match=r"disk-0\.pack"):
        DiskStaging(tmp_path, MIGRATION, 0, SIZE)


def test_the_pack_of_another_disk_is_refused(open_staging: Opener, pack: Path) -> None:
    staging = open_staging(SIZE)
    store(staging, [zero_frame(0, 1)])
    staging.close()
    with pytest.raises(PackDamagedError, match="another disk"):
        open_staging(SIZE + 512)


def test_a_migration_id_that_is_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="UUID"):
        DiskStaging(tmp_path, "../../etc", 0, SIZE)


def test_files_can_be_read_by_their_owner_only(open_staging: Opener, pack: Path, index: Path) -> None:
    open_staging(SIZE)
    assert [path.stat().st_mode & 0o777 for path in (pack, index, pack.parent)] == [0o600, 0o600, 0o700]


def test_a_16_tib_disk_costs_bitmaps_in_memory_and_next_to_nothing_on_disk(
    open_staging: Opener, pack: Path, index: Path
) -> None:
    size = 16 << 40
    tracemalloc.start()
    try:
        staging = open_staging(size)
        run = 1 << 20
        frames = [zero_frame(start, run) for start in range(0, staging.chunks, run)]
        store(staging, [data_frame(5_000_000, raw_chunk(1)), *frames])
        assert staging.complete
        staging.close()
        staging = open_staging(size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert staging.complete
    assert list(staging.data_bitmap().indices()) == [5_000_000]
    assert peak < 20 * staging.chunks // 8
    assert (pack.stat().st_blocks + index.stat().st_blocks) * 512 < 16 << 20


def test_one_fdatasync_serves_many_who_wait(open_staging: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = open_staging(64 * CHUNK)
    calls = []
    real = Pack.sync

    def slow_sync(pack: Pack) -> None:
        calls.append(pack)
        time.sleep(0.05)
        real(pack)

    monkeypatch.setattr(Pack, "sync", slow_sync)
    threads = [
        threading.Thread(target=store, args=(staging, [data_frame(chunk, raw_chunk(chunk, stored=9))]))
        for chunk in range(32)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert have(staging) == list(range(32))
    assert 1 <= len(calls) <= 16


def test_a_failed_fdatasync_is_told_to_everybody_and_leaves_only_what_was_durable(
    open_staging: Opener, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = open_staging(SIZE)
    store(staging, [data_frame(0, raw_chunk(0))])
    size = pack.stat().st_size
    bystander = staging.epoch
    staging.append(*data_frame(1, raw_chunk(1)))
    with monkeypatch.context() as patch:

        def failing(fd: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "fdatasync", failing)
        with pytest.raises(StagingFullError, match="fdatasync"):
            store(staging, [data_frame(2, raw_chunk(2))])
    with pytest.raises(StagingError, match="send again"):
        staging.commit(bystander)
    assert have(staging) == [0]
    assert pack.stat().st_size == size
    store(staging, [data_frame(2, raw_chunk(2)), data_frame(1, raw_chunk(1))])
    assert plain(staging, 1) == raw_chunk(1)


def test_a_write_that_meets_a_full_disk_half_way_leaves_no_half_record(
    open_staging: Opener, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = open_staging(SIZE)
    store(staging, [data_frame(0, raw_chunk(0))])
    size = pack.stat().st_size
    real = os.pwritev
    with monkeypatch.context() as patch:
        calls = []

        def half(fd: int, buffers: list[bytes], offset: int) -> int:
            calls.append(offset)
            if len(calls) == 1:
                return real(fd, [buffers[0], buffers[1][:1000]], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "pwritev", half)
        with pytest.raises(StagingFullError, match="No space left"):
            staging.append(*data_frame(1, raw_chunk(1)))
    assert len(calls) == 2
    assert pack.stat().st_size == size
    store(staging, [data_frame(1, raw_chunk(1))])
    assert plain(staging, 1) == raw_chunk(1)


def test_a_short_write_is_continued_where_it_stopped(open_staging: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = open_staging(SIZE)
    real = os.pwritev

    def few(fd: int, buffers: list[bytes], offset: int) -> int:
        return real(fd, [b"".join(buffers)[:40_000]], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", few)
        store(staging, [data_frame(1, raw_chunk(1))])
    assert plain(staging, 1) == raw_chunk(1)


@pytest.mark.parametrize("where", ["header", "payload", "slot"])
def test_a_stored_chunk_that_changed_is_noticed_when_it_is_read(
    open_staging: Opener, pack: Path, index: Path, where: str
) -> None:
    staging = open_staging(SIZE)
    store(staging, [data_frame(0, raw_chunk(0)), data_frame(1, raw_chunk(1))])
    offset = staging.slot(1).offset
    path, position = {
        "header": (pack, offset + 30),
        "payload": (pack, offset + 5000),
        "slot": (index, index.stat().st_size - 30),
    }[where]
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))
    assert plain(staging, 0) == raw_chunk(0)
    with pytest.raises(ChunkDamagedError, match="chunk 1"):
        staging.load(1)


def test_a_dropped_chunk_is_missing_for_good_until_it_is_sent_again(open_staging: Opener) -> None:
    staging = open_staging(SIZE)
    store(staging, [data_frame(0, raw_chunk(0)), data_frame(1, raw_chunk(1))])
    staging.drop([1])
    assert have(staging) == [0]
    staging.close()
    staging = open_staging(SIZE)
    assert have(staging) == [0]
    store(staging, [data_frame(1, raw_chunk(77))])
    assert plain(staging, 1) == raw_chunk(77)
