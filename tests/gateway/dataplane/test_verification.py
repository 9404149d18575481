# SPDX-License-Identifier: GPL-3.0-or-later
"""What arrived is read again from the device, while more comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from coldmig_gateway.dataplane.settings import Limits
from coldmig_gateway.dataplane.verifier import Verifier
from coldmig_gateway.staging.device import DeviceReader
from coldmig_gateway.staging.disk import DiskStaging
from coldmig_gateway.staging.errors import StagingBusyError
from coldmig_wire.frames import CHUNK, FrameType
from gateway.dataplane.front import Front, wait_until
from gateway.staging.content import damage_chunk, data_frame, raw_chunk, zero_frame

ID = "11111111-2222-4333-8444-555555555555"


def test_a_chunk_that_changed_before_verification_is_asked_for_again(front: Front) -> None:
    migration = front.migration(ID, 3 * CHUNK)
    session = front.session(ID)
    session.send([data_frame(0, raw_chunk(0)), data_frame(1, raw_chunk(1))])
    damage_chunk(front.staging / ID / "disk-0.pack", 0)
    session.send([data_frame(2, raw_chunk(2))])
    wait_until(lambda: migration.records, "the damage is written down")
    assert migration.state == "copying"
    assert migration.records[0][0] == "chunk-damaged"
    assert session.have() == [1, 2]
    session.send([data_frame(0, raw_chunk(0))])
    wait_until(lambda: migration.state == "copied", "the chunk that was sent again is verified")


def test_most_is_verified_before_the_last_chunk_comes_and_nothing_twice(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[DiskStaging] = []
    read = [0]
    real_check, real_fill = DiskStaging.check_next, DeviceReader._fill

    def check(staging: DiskStaging, most: int) -> object:
        opened.append(staging)
        return real_check(staging, most)

    def fill(reader: DeviceReader, target: memoryview) -> int:
        count = real_fill(reader, target)
        read[0] += count
        return count

    monkeypatch.setattr(DiskStaging, "check_next", check)
    monkeypatch.setattr(DeviceReader, "_fill", fill)
    migration = front.migration(ID, 60 * CHUNK)
    session = front.session(ID)
    for start in range(0, 60, 20):
        if start:
            wait_until(lambda: opened and not opened[-1].unchecked_bytes, "what is durable was read again")
            assert migration.state == "copying"
        session.send([data_frame(chunk, raw_chunk(chunk)) for chunk in range(start, start + 20)])
    wait_until(lambda: migration.state == "copied", "the rest is verified")
    assert 60 * CHUNK < read[0] < 70 * CHUNK


def test_after_a_restart_a_complete_copy_is_verified_without_any_agent(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = front.migration(ID, 3 * CHUNK)
    with monkeypatch.context() as patch:
        patch.setattr(Verifier, "consider", lambda self, migration_id: None)
        front.session(ID).send([data_frame(chunk, raw_chunk(chunk)) for chunk in range(3)])
        front.stop()
    assert migration.state == "copying"
    front.start()
    wait_until(lambda: migration.state == "copied", "the copy is verified")


def test_what_failed_is_tried_again_and_written_down_once(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    migration = front.migration(ID, CHUNK)
    calls = []
    real = front.site.disk_verified

    def failing(*found: object) -> None:
        calls.append(found)
        if len(calls) < 3:
            raise RuntimeError("the database is away")
        real(*found)  # type: ignore[arg-type]

    monkeypatch.setattr(front.site, "disk_verified", failing)
    monkeypatch.setattr("coldmig_gateway.dataplane.verifier._RETRY_SECONDS", 0.01)
    monkeypatch.setattr("coldmig_gateway.dataplane.server._HOUSEKEEPING_SECONDS", 0.05)
    front.stop()
    front.start()
    front.session(ID).send([data_frame(0, raw_chunk(0))])
    wait_until(lambda: migration.state == "copied", "the third try succeeds")
    assert [event for event, _detail in migration.records] == ["verification-failed"]


def test_unreadable_chunks_are_counted(front: Front) -> None:
    migration = front.migration(ID, 4 * CHUNK)
    lost, payload = data_frame(1, raw_chunk(1))
    front.session(ID).send(
        [(replace(lost, type=FrameType.UNREADABLE), payload), data_frame(0, raw_chunk(0)), zero_frame(2, 2)]
    )
    wait_until(lambda: migration.state == "copied", "the copy is verified")
    assert migration.verified[0].unreadable_chunks == 1
    assert migration.verified[0].data_chunks == 2


def test_a_copied_disk_is_let_go_for_whoever_wants_to_check_it(
    make_front: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coldmig_gateway.dataplane.server._HOUSEKEEPING_SECONDS", 0.05)
    front = make_front(Limits(staging_idle_seconds=3600))
    migration = front.migration(ID, CHUNK)
    front.session(ID).send([data_frame(0, raw_chunk(0))])
    wait_until(lambda: migration.state == "copied", "the copy is verified")

    def opens() -> bool:
        try:
            DiskStaging(front.staging, ID, 0, CHUNK).close()
        except StagingBusyError:
            return False
        return True

    wait_until(opens, "the disk is free")
    assert front.client().request("HEAD", f"/data/v1/migrations/{ID}/disks/0/image.vmdk").status == 200
