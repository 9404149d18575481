# SPDX-License-Identifier: GPL-3.0-or-later
"""Disk content for the tests, and the frames that carry it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from pathlib import Path

from coldmig_gateway.staging.disk import DiskStaging
from coldmig_gateway.staging.pack import PACK_HEADER, body_length
from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import CHUNK, HEADER, Codec, Frame, FrameType
from coldmig_wire.grains import encode_chunk


def raw_chunk(seed: int, length: int = CHUNK, stored: int | None = None) -> bytes:
    """``length`` bytes of which only the first ``stored`` are not zeros, different for each seed."""
    return random.Random(seed).randbytes(length if stored is None else stored).ljust(length, b"\0")


def data_frame(chunk: int, raw: bytes, disk: int = 0) -> tuple[Frame, bytes]:
    payload = encode_chunk(raw)
    return Frame(FrameType.DATA, Codec.GRAINS, disk, chunk, len(raw), len(payload), chunk_digest(raw)), payload


def zero_frame(chunk: int, run: int, disk: int = 0) -> tuple[Frame, bytes]:
    return Frame(FrameType.ZERO_RUN, Codec.RAW, disk, chunk, run, 0, bytes(32)), b""


def store(staging: DiskStaging, frames: Iterable[tuple[Frame, bytes]]) -> None:
    """Appends and commits."""
    epoch = staging.epoch
    for frame, payload in frames:
        staging.append(frame, payload)
    staging.commit(epoch)


def have(staging: DiskStaging) -> list[int]:
    bits = int.from_bytes(staging.have(), "little")
    return [chunk for chunk in range(staging.chunks) if bits >> chunk & 1]


def damage_chunk(pack: Path, chunk: int) -> None:
    """Changes three stored bytes of a chunk, wherever its record lies: several threads append."""
    with pack.open("r+b") as file:
        offset = PACK_HEADER
        while True:
            file.seek(offset)
            frame = Frame.unpack(file.read(HEADER))
            if frame.has_payload and frame.chunk == chunk:
                break
            offset += HEADER + body_length(frame)
        file.seek(offset + HEADER + frame.length // 3)
        before = file.read(3)
        file.seek(-3, os.SEEK_CUR)
        file.write(bytes(byte ^ 0x55 for byte in before))
