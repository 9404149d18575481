# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a whole disk back from staging and proves that it is what the source sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from coldmig_gateway.staging.disk import DiskStaging
from coldmig_gateway.staging.errors import ChunkDamagedError
from coldmig_gateway.vmdk.stream_optimized import ImageTooLargeError, image_length
from coldmig_wire.digest import zero_digest
from coldmig_wire.frames import HEADER, FrameType
from coldmig_wire.geometry import CHUNK, chunk_length
from coldmig_wire.merkle import MerkleTree

#: A disk with more damage than this is not searched to its end at once: what was found is sent again first.
MAX_DAMAGED = 4096
#: What is read before looking whether to stop.
STEP_BYTES = 64 << 20
_STEP_CHUNKS = STEP_BYTES // CHUNK


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found. If ``damaged`` is empty the rest describes the disk, else it means nothing.

    ``merkle_root`` is that of ``coldmig_wire.merkle``, ``vmdk_bytes`` the length of the streamOptimized image; 0 if
    there can be none because it would pass 2 TiB. ``stored_bytes`` counts linked chunks too.
    """

    damaged: tuple[ChunkDamagedError, ...]
    merkle_root: str = ""
    vmdk_bytes: int = 0
    data_chunks: int = 0
    stored_bytes: int = 0
    unreadable_chunks: int = 0


class VerificationStoppedError(RuntimeError):
    """Verification was told to stop before it had seen everything."""


def verify_disk(staging: DiskStaging, *, stopped: Callable[[], bool] = lambda: False) -> Verification:
    """Reads every chunk of a complete disk that was not checked yet from the device and compares its digest.

    Nothing is changed. Raises VerificationStoppedError if ``stopped`` turned true.
    """
    damaged: list[ChunkDamagedError] = []
    while staging.unchecked_bytes and len(damaged) < MAX_DAMAGED:
        if stopped():
            raise VerificationStoppedError
        damaged += staging.check_next(STEP_BYTES)
    if not damaged:
        # What the order of the pack did not lead to, because a record between was damaged.
        rest = staging.unchecked()
        while (chunks := list(islice(rest, _STEP_CHUNKS))) and len(damaged) < MAX_DAMAGED:
            if stopped():
                raise VerificationStoppedError
            damaged += staging.check(chunks)
    if damaged:
        return Verification(tuple(damaged))
    try:
        return _summary(staging, stopped)
    except ChunkDamagedError as error:
        return Verification((error,))


def _summary(staging: DiskStaging, stopped: Callable[[], bool]) -> Verification:
    """What the slots of a checked disk say of it. Raises ChunkDamagedError, VerificationStoppedError."""
    tree = MerkleTree()
    data_chunks = unreadable = linked = following = 0

    def zeros_until(chunk: int) -> None:
        if chunk > following:
            last = chunk_length(chunk - 1, staging.size_bytes)
            if chunk - following > 1:
                tree.add(zero_digest(CHUNK), chunk - following - 1)
            tree.add(zero_digest(last))

    def sectors() -> Iterator[tuple[int, int]]:
        nonlocal data_chunks, unreadable, linked, following
        for slot in staging.slots():
            if not data_chunks % _STEP_CHUNKS and stopped():
                raise VerificationStoppedError
            zeros_until(slot.chunk)
            tree.add(slot.digest)
            following = slot.chunk + 1
            data_chunks += 1
            unreadable += slot.type is FrameType.UNREADABLE
            linked += HEADER + slot.length if slot.base else 0
            yield slot.chunk, slot.sectors

    found = sectors()
    try:
        vmdk_bytes = image_length(staging.size_bytes, found)
    except ImageTooLargeError:
        vmdk_bytes = 0
    for _rest in found:
        pass
    zeros_until(staging.chunks)
    stored = staging.stored_bytes + linked
    return Verification((), tree.hexdigest(), vmdk_bytes, data_chunks, stored, unreadable)
