# SPDX-License-Identifier: GPL-3.0-or-later
"""Earlier attempts of the same machine: taken over by links, never copied where a link is possible."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from coldmig_gateway.staging.disk import DiskStaging
from coldmig_gateway.staging.verify import verify_disk
from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import CHUNK, HEADER, Codec, Frame, FrameType
from coldmig_wire.payload import PayloadError, payload_grains
from gateway.staging.content import data_frame, have, raw_chunk, store, zero_frame

SIZE = 12 * CHUNK - 512
CONTENT = {chunk: raw_chunk(chunk, min(CHUNK, SIZE - chunk * CHUNK)) for chunk in (0, 3, 7, 11)}

Attempt = Callable[..., DiskStaging]


def name(number: int) -> str:
    return str(UUID(int=number))


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Attempt]:
    """Opens attempt ``number`` after ``earlier`` ones, newest first; ``disk`` is the index that the disk has in it."""
    opened: list[DiskStaging] = []

    def opener(number: int, *earlier: int, disk: int = 0, root: Path = tmp_path) -> DiskStaging:
        staging = DiskStaging(root, name(number), disk, SIZE, [(name(other), 0) for other in earlier])
        opened.append(staging)
        original = staging.close

        def close() -> None:
            opened.remove(staging)
            original()

        staging.close = close  # type: ignore[method-assign]
        return staging

    yield opener
    for staging in tuple(opened):
        staging.close()


def ref(chunk: int, raw: bytes, disk: int = 0) -> tuple[Frame, bytes]:
    return Frame(FrameType.REF, Codec.RAW, disk, chunk, len(raw), 0, chunk_digest(raw)), b""


def refs(*chunks: int, disk: int = 0) -> list[tuple[Frame, bytes]]:
    return [ref(chunk, CONTENT[chunk], disk) for chunk in chunks]


def first(attempt: Attempt, *chunks: int) -> None:
    """The first attempt, with some chunks of the content."""
    staging = attempt(1)
    store(staging, [data_frame(chunk, CONTENT[chunk]) for chunk in chunks or CONTENT])
    staging.close()


def plain(staging: DiskStaging, chunk: int) -> bytes:
    stored = staging.load(chunk)
    return b"".join(bytes(g.plain()) for g in payload_grains(stored.frame.codec, stored.payload, stored.frame.run))


def test_a_link_costs_a_record_and_reads_as_the_chunk(attempt: Attempt, tmp_path: Path) -> None:
    first(attempt)
    staging = attempt(2, 1)
    store(staging, refs(*CONTENT))
    assert (tmp_path / name(2) / "disk-0.pack").stat().st_size < 4096 + len(CONTENT) * 200
    for _again in range(2):
        assert have(staging) == sorted(CONTENT)
        assert {chunk: plain(staging, chunk) for chunk in CONTENT} == CONTENT
        staging.close()
        staging = attempt(2)


def test_the_earlier_attempt_may_go_while_its_chunks_are_used(attempt: Attempt, tmp_path: Path) -> None:
    first(attempt)
    staging = attempt(2, 1)
    store(staging, refs(0, 3))
    shutil.rmtree(tmp_path / name(1))
    store(staging, [*refs(7, 11), *(zero_frame(at, run) for at, run in ((1, 2), (4, 3), (8, 3)))])
    found = verify_disk(staging)
    assert (found.damaged, found.data_chunks) == ((), 4)
    assert found.stored_bytes > 3 * CHUNK
    staging.close()
    assert {chunk: plain(attempt(2), chunk) for chunk in (0,)} == {0: CONTENT[0]}


def test_a_chain_of_attempts_keeps_what_each_had(attempt: Attempt, tmp_path: Path) -> None:
    first(attempt, 0, 3)
    second = attempt(2, 1)
    store(second, [*refs(0), data_frame(7, CONTENT[7])])
    second.close()
    third = attempt(3, 2, 1)
    for number in (1, 2):
        shutil.rmtree(tmp_path / name(number))
    # 0 by way of the second's link, 3 from the first although the second never took it, 7 from the second.
    store(third, refs(0, 3, 7))
    third.close()
    fourth = attempt(4, 3)
    shutil.rmtree(tmp_path / name(3))
    store(fourth, refs(0, 3, 7))
    assert {chunk: plain(fourth, chunk) for chunk in (0, 3, 7)} == {chunk: CONTENT[chunk] for chunk in (0, 3, 7)}


def test_without_its_index_the_links_are_found_in_the_pack(attempt: Attempt, tmp_path: Path) -> None:
    first(attempt)
    staging = attempt(2, 1)
    store(staging, refs(0, 7))
    staging.close()
    (tmp_path / name(2) / "disk-0.index").unlink()
    staging = attempt(2)
    assert have(staging) == [0, 7]
    assert plain(staging, 7) == CONTENT[7]
    store(staging, refs(3))
    assert plain(staging, 3) == CONTENT[3]


@pytest.mark.parametrize("cut", [0, 1, 63, 64, 65, 100, 139])
def test_a_link_that_was_cut_short_does_not_count(attempt: Attempt, tmp_path: Path, cut: int) -> None:
    first(attempt)
    staging = attempt(2, 1)
    store(staging, refs(0))
    size = staging.stored_bytes
    store(staging, refs(3))
    staging.close()
    (tmp_path / name(2) / "disk-0.index").unlink()
    os.truncate(tmp_path / name(2) / "disk-0.pack", size + cut)
    staging = attempt(2)
    assert have(staging) == [0]
    assert staging.stored_bytes == size


def test_a_damaged_link_is_passed_over(attempt: Attempt, tmp_path: Path) -> None:
    first(attempt)
    staging = attempt(2, 1)
    store(staging, refs(0))
    at = staging.stored_bytes
    store(staging, refs(3, 7))
    staging.close()
    (tmp_path / name(2) / "disk-0.index").unlink()
    with (tmp_path / name(2) / "disk-0.pack").open("r+b") as pack:
        pack.seek(at + HEADER + 30)
        pack.write(b"\xff")
    assert have(attempt(2)) == [0, 7]


def test_chunks_whose_holder_is_gone_are_asked_for_again(attempt: Attempt, tmp_path: Path) -> None:
    first(attempt)
    staging = attempt(2, 1)
    store(staging, [*refs(0, 3), data_frame(7, CONTENT[7]), data_frame(11, CONTENT[11])])
    store(staging, [zero_frame(at, run) for at, run in ((1, 2), (4, 3), (8, 3))])
    staging.close()
    for file in (tmp_path / name(2)).glob("*.base-*"):
        file.unlink()
    staging = attempt(2)
    damaged = verify_disk(staging).damaged
    assert [error.chunk for error in damaged] == [0, 3]
    assert "gone" in str(damaged[0])
    staging.drop(error.chunk for error in damaged)
    store(staging, [data_frame(chunk, CONTENT[chunk]) for chunk in (0, 3)])
    assert verify_disk(staging).damaged == ()


@pytest.mark.parametrize("error", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_where_no_link_is_possible_chunks_are_copied(
    attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*_names: object) -> None:
        raise OSError(error, os.strerror(error))

    first(attempt, 0)
    second = attempt(2, 1)
    store(second, [*refs(0), data_frame(3, CONTENT[3])])
    second.close()
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    third = attempt(3, 2, 1)
    assert not list((tmp_path / name(3)).glob("*.base-*"))
    store(third, refs(0, 3))
    for number in (1, 2):
        shutil.rmtree(tmp_path / name(number))
    third.close()
    assert {chunk: plain(attempt(3), chunk) for chunk in (3,)} == {3: CONTENT[3]}
    assert (tmp_path / name(3) / "disk-0.pack").stat().st_size > 2 * CHUNK


def test_more_than_eight_earlier_packs_are_not_linked_but_used(attempt: Attempt, tmp_path: Path) -> None:
    for number in range(1, 11):
        staging = attempt(number)
        store(staging, [data_frame(0, raw_chunk(100 + number))])
        staging.close()
    staging = attempt(20, *range(10, 0, -1))
    assert len(list((tmp_path / name(20)).glob("*.base-*.pack"))) == 8
    store(staging, [ref(0, raw_chunk(101))])
    assert plain(staging, 0) == raw_chunk(101)


def test_prefixes_are_those_of_the_newest_attempt_that_has_the_chunk(attempt: Attempt) -> None:
    first(attempt, 0, 3)
    second = attempt(2)
    store(second, [data_frame(3, raw_chunk(99)), data_frame(7, CONTENT[7]), zero_frame(8, 2)])
    second.close()
    third = attempt(3, 2, 1)
    found = third.digest_prefixes(0, 12)
    assert found is not None
    expected = {0: CONTENT[0], 3: raw_chunk(99), 7: CONTENT[7]}
    assert {at: found[8 * at : 8 * at + 8] for at in range(12)} == {
        at: chunk_digest(expected[at])[:8] if at in expected else bytes(8) for at in range(12)
    }
    assert third.digest_prefixes(3, 1) == chunk_digest(raw_chunk(99))[:8]
    assert attempt(4).digest_prefixes(0, 12) is None
    # Both contents of chunk 3 are there.
    store(third, refs(3))
    assert plain(third, 3) == CONTENT[3]


def test_dropped_chunks_of_an_earlier_attempt_are_not_offered(attempt: Attempt) -> None:
    staging = attempt(1)
    store(staging, [data_frame(chunk, CONTENT[chunk]) for chunk in (0, 3)])
    staging.drop([3])
    staging.close()
    second = attempt(2, 1)
    assert second.digest_prefixes(3, 1) == bytes(8)
    with pytest.raises(PayloadError) as refused:
        second.append(*refs(3)[0])
    assert refused.value.reason == "unknown-ref"


def test_what_an_active_attempt_has_not_made_durable_is_not_linked(attempt: Attempt) -> None:
    active = attempt(1)
    store(active, [data_frame(0, CONTENT[0])])
    active.checkpoint()
    active.append(*data_frame(3, CONTENT[3]))
    second = attempt(2, 1)
    store(second, refs(0))
    with pytest.raises(PayloadError):
        second.append(*refs(3)[0])
    # It goes on beside, and nothing that is linked changes.
    store(active, [data_frame(7, CONTENT[7])])
    assert plain(second, 0) == CONTENT[0]


def test_a_disk_that_had_another_index_is_taken_over_too(attempt: Attempt) -> None:
    first(attempt)
    staging = attempt(2, 1, disk=1)
    store(staging, refs(0, 3, disk=1))
    assert plain(staging, 3) == CONTENT[3]


def test_the_pack_of_a_disk_of_another_size_is_not_taken_over(tmp_path: Path, attempt: Attempt) -> None:
    other = DiskStaging(tmp_path, name(1), 0, SIZE + 512)
    store(other, [data_frame(0, CONTENT[0])])
    other.close()
    assert attempt(2, 1).digest_prefixes(0, 12) is None


def test_what_was_left_of_an_interrupted_creation_is_made_anew(attempt: Attempt, tmp_path: Path) -> None:
    first(attempt)
    directory = tmp_path / name(2)
    directory.mkdir()
    (directory / "disk-0.base-1.pack").write_bytes(b"half")
    (directory / "disk-0.base-5.index").write_bytes(b"half")
    staging = attempt(2, 1)
    assert sorted(path.name for path in directory.glob("*.base-*")) == ["disk-0.base-1.index", "disk-0.base-1.pack"]
    store(staging, refs(0))
    assert plain(staging, 0) == CONTENT[0]


def test_staging_that_must_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="does not exist"):
        DiskStaging(tmp_path, name(1), 0, SIZE, must_exist=True)
    assert list(tmp_path.iterdir()) == []


def test_files_of_the_version_before_links_are_read_as_they_are(
    attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first(attempt)
    pack, index = tmp_path / name(1) / "disk-0.pack", tmp_path / name(1) / "disk-0.index"
    for path, at, covered in ((pack, 0, 48), (index, 0, 60), (index, 4096, 60)):
        with path.open("r+b") as file:
            file.seek(at)
            fields = bytearray(file.read(covered))
            if not any(fields):
                continue
            fields[8:12] = struct.pack("<I", 1)
            file.seek(at)
            file.write(fields + struct.pack("<I", zlib.crc32(fields)) + bytes(4096 - covered - 4))
    monkeypatch.setattr(DiskStaging, "_adopt", lambda self, record: pytest.fail("the index was not used"))
    staging = attempt(1)
    assert have(staging) == sorted(CONTENT)
    assert plain(staging, 3) == CONTENT[3]
    store(staging, [data_frame(1, raw_chunk(1))])
    staging.close()
    second = attempt(2, 1)
    store(second, [*refs(0), ref(1, raw_chunk(1))])
    assert plain(second, 1) == raw_chunk(1)


def test_two_file_systems_are_no_obstacle(attempt: Attempt, tmp_path: Path) -> None:
    first(attempt, 0)
    elsewhere = tmp_path / name(2)
    elsewhere.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", elsewhere], check=True)
    try:
        staging = attempt(2, 1)
        store(staging, refs(0))
        shutil.rmtree(tmp_path / name(1))
        assert plain(staging, 0) == CONTENT[0]
        staging.close()
    finally:
        subprocess.run(["umount", elsewhere], check=True)
