# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a whole disk back from staging and proves that it is what the source sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coldmig_gateway.staging.disk import DiskStaging
from coldmig_gateway.staging.errors import ChunkDamagedError
from coldmig_gateway.vmdk.stream_optimized import ImageTooLargeError, image_length
from coldmig_wire.digest import DiskDigest, zero_digest
from coldmig_wire.geometry import CHUNK, chunk_length

#: A disk with more damage than this is not searched to its end at once: what was found is sent again first.
MAX_DAMAGED = 4096


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found. If ``damaged`` is empty the rest describes the disk, else it means nothing.

    ``digest_hex`` is the ``DiskDigest``, ``vmdk_bytes`` the length of the streamOptimized image; 0 if there can be none
    because it would pass 2 TiB.
    """

    damaged: tuple[ChunkDamagedError, ...]
    digest_hex: str = ""
    vmdk_bytes: int = 0
    data_chunks: int = 0
    stored_bytes: int = 0


class VerificationStoppedError(RuntimeError):
    """Verification was told to stop before it had seen everything."""


def verify_disk(staging: DiskStaging, *, stopped: Callable[[], bool] = lambda: False) -> Verification:
    """Re-reads every chunk of a complete disk from the device and compares its digest. Nothing is changed.

    Raises VerificationStoppedError if ``stopped`` turned true.
    """
    digest = DiskDigest()
    damaged: list[ChunkDamagedError] = []
    following = 0

    def zeros_until(chunk: int) -> None:
        if chunk == following:
            return
        last = chunk_length(chunk - 1, staging.size_bytes)
        digest.add(zero_digest(CHUNK), chunk - following - 1)
        digest.add(zero_digest(last))

    data = staging.data_bitmap()
    for chunk in data.indices():
        if stopped():
            raise VerificationStoppedError
        zeros_until(chunk)
        try:
            digest.add(staging.load(chunk, from_device=True).frame.digest)
        except ChunkDamagedError as error:
            damaged.append(error)
            if len(damaged) == MAX_DAMAGED:
                break
        following = chunk + 1
    if damaged:
        return Verification(tuple(damaged))
    zeros_until(staging.chunks)
    try:
        vmdk_bytes = image_length(staging.size_bytes, staging.data_sectors())
    except ImageTooLargeError:
        vmdk_bytes = 0
    return Verification((), digest.hexdigest(), vmdk_bytes, data.count, staging.stored_bytes)
