# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import http.client
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from coldmig_gateway.dataplane.site import EarlierDisk
from coldmig_gateway.staging.disk import DiskStaging, StoredChunk
from coldmig_gateway.staging.errors import ChunkDamagedError
from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import CHUNK
from coldmig_wire.merkle import MerkleTree
from gateway.dataplane.front import Client, Front, wait_until
from gateway.dataplane.memory_site import ORGANIZATION
from gateway.staging.content import damage_chunk, data_frame, raw_chunk, zero_frame

ID = "11111111-2222-4333-8444-555555555555"
AGAIN = "22222222-2222-4333-8444-555555555555"
IMAGE = f"/data/v1/migrations/{ID}/disks/0/image.vmdk"
SIZE = 70 * CHUNK + 1536


def content() -> dict[int, bytes]:
    """Data at both ends and in the middle, in every kind of grain."""
    made = {chunk: raw_chunk(chunk, stored=300_000 * (chunk % 3 + 1)) for chunk in (0, 1, 33, 40, 69)}
    return made | {5: (b"compressible " * CHUNK)[:CHUNK], 70: raw_chunk(70, 1536)}


def copy(front: Front, chunks: dict[int, bytes]) -> Client:
    front.migration(ID, SIZE)
    session = front.session(ID)
    frames = [data_frame(chunk, chunks[chunk]) if chunk in chunks else zero_frame(chunk, 1) for chunk in range(71)]
    assert session.send(frames).json["durable"] == 71
    wait_until(lambda: front.site.migrations[ID].state == "copied", "the copy is verified")
    return session


def test_the_image_is_the_disk(front: Front, tmp_path: Path) -> None:
    copy(front, content())
    answer = front.client().request("GET", IMAGE)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-vnd.vmware-streamVmdk"
    assert int(answer.headers["content-length"]) == len(answer.body)
    raw = bytearray(71 * CHUNK)
    for chunk, data in content().items():
        raw[chunk * CHUNK : chunk * CHUNK + len(data)] = data
    (tmp_path / "image.vmdk").write_bytes(answer.body)
    (tmp_path / "plain.raw").write_bytes(raw)
    subprocess.run(["qemu-img", "check", "-f", "vmdk", tmp_path / "image.vmdk"], check=True, capture_output=True)
    compare: list[str | Path] = ["qemu-img", "compare", "-f", "vmdk", "-F", "raw"]
    result = subprocess.run(
        [*compare, tmp_path / "image.vmdk", tmp_path / "plain.raw"], check=False, capture_output=True, text=True
    )
    assert result.stdout == "Images are identical.\n", result.stderr


def test_what_verification_found_is_what_head_and_get_say(front: Front) -> None:
    chunks = content()
    copy(front, chunks)
    tree = MerkleTree()
    for chunk in range(71):
        tree.add(chunk_digest(chunks.get(chunk, bytes(CHUNK))))
    root, vmdk_bytes, data_chunks, stored_bytes, unreadable = front.site.migrations[ID].verified[0]
    assert (root, unreadable) == (tree.hexdigest(), 0)
    assert data_chunks == len(chunks)
    assert stored_bytes == (front.staging / ID / "disk-0.pack").stat().st_size
    connection = front.client().connect()
    head = front.client().request("HEAD", IMAGE, connection=connection)
    assert (head.status, head.body, int(head.headers["content-length"])) == (200, b"", vmdk_bytes)
    assert len(front.client().request("GET", IMAGE, connection=connection).body) == vmdk_bytes
    connection.close()


@pytest.mark.parametrize("state", ["waiting", "confirmed", "copying", "failed", "canceled"])
def test_before_everything_is_verified_there_is_no_image(front: Front, state: str) -> None:
    front.migration(ID, SIZE, state=state)
    answer = front.client().request("GET", IMAGE)
    assert (answer.status, answer.json["state"]) == (409, state)


def test_only_the_provider_gets_images(front: Front) -> None:
    copy(front, content())
    for token, status in ((ORGANIZATION, 403), (front.site.token(ID), 403), (None, 401), ("cm1_pro_x", 401)):
        assert front.client(token).request("GET", IMAGE).status == status


@pytest.mark.parametrize("path", [IMAGE.replace("disks/0", "disks/1"), IMAGE.replace("1111", "2222")])
def test_an_image_that_is_not_there_is_not_found(front: Front, path: str) -> None:
    copy(front, content())
    assert front.client().request("GET", path).status == 404


@pytest.mark.parametrize(("state", "after"), [("copied", "failed"), ("importing", "failed"), ("finished", "finished")])
def test_a_chunk_that_changed_in_staging_ends_the_image_and_fails_a_migration_that_needs_it(
    front: Front, state: str, after: str
) -> None:
    copy(front, content())
    migration = front.site.migrations[ID]
    migration.state = state
    front.stop()
    damage_chunk(front.staging / ID / "disk-0.pack", 0)
    front.start()
    with pytest.raises((http.client.IncompleteRead, OSError)):
        front.client().request("GET", IMAGE)
    wait_until(lambda: migration.records, "the damage is written down")
    ((event, detail),) = migration.records
    assert event == "image-damaged"
    assert "disk 0: chunk 0" in detail
    assert migration.state == after


def test_the_next_attempt_takes_over_all_but_the_chunk_that_an_image_failed_for(front: Front) -> None:
    chunks = content()
    copy(front, chunks)
    damage_chunk(front.staging / ID / "disk-0.pack", 0)
    with pytest.raises((http.client.IncompleteRead, OSError)):
        front.client().request("GET", IMAGE)
    wait_until(lambda: front.site.migrations[ID].state == "failed", "the migration has failed")
    again = front.migration(AGAIN, SIZE)
    again.disks = (replace(again.disks[0], earlier=(EarlierDisk(ID, 0),)),)
    known = front.session(AGAIN).request("GET", "/data/v1/disks/0/known?first=0&count=71").body
    held = [chunk for chunk in range(71) if any(known[8 * chunk : 8 * chunk + 8])]
    assert held == sorted(set(chunks) - {0})


def test_a_chunk_that_is_good_when_it_is_read_again_only_cuts_the_image_off(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(front, content())
    migration = front.site.migrations[ID]
    with monkeypatch.context() as patch:

        def flipped(staging: DiskStaging, chunk: int, buffer: memoryview | None = None) -> StoredChunk:
            raise ChunkDamagedError(chunk, "flipped in memory")

        patch.setattr(DiskStaging, "load", flipped)
        with pytest.raises((http.client.IncompleteRead, OSError)):
            front.client().request("GET", IMAGE)
        wait_until(lambda: migration.records, "it is written down")
    assert [event for event, _detail in migration.records] == ["image-cut-off"]
    assert migration.state == "copied"
    assert front.client().request("GET", IMAGE).status == 200


def test_a_receiver_that_leaves_in_the_middle_disturbs_nobody(front: Front) -> None:
    copy(front, content())
    client = front.client()
    with client.open_socket() as connection:
        connection.sendall(f"GET {IMAGE} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {client.token}\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
    assert client.request("GET", IMAGE).status == 200
    assert front.site.migrations[ID].records == []
