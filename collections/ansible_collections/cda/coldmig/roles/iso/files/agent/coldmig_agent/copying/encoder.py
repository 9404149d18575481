# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes frames out of what was read: digest, what the site has already, and the form that costs least."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from coldmig_agent.copying.items import DataChunk, Item
from coldmig_agent.copying.sample import Reservoir
from coldmig_wire.digest import DIGEST_SIZE, chunk_digest
from coldmig_wire.frames import HEADER, Codec, Frame, FrameType
from coldmig_wire.grains import GrainEncoder
from coldmig_wire.zstd import encode_zstd

_NO_DIGEST = bytes(DIGEST_SIZE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One frame ready to be sent. ``buffer`` is the pool's where the chunk is sent plain, straight out of it."""

    disk: int
    chunk: int
    chunks: int
    type: FrameType
    #: Bytes of the disk in a DATA or UNREADABLE frame, else 0.
    content: int
    header: bytes
    payload: bytes | memoryview = b""
    buffer: memoryview | None = None

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return HEADER + len(self.payload)

    @property
    def parts(self) -> tuple[bytes | memoryview, ...]:
        """What is sent."""
        return (self.header, self.payload) if self.payload else (self.header,)


class Encoder:
    """One sender's; not for use by two threads at once."""

    def __init__(
        self, level: Callable[[], int], samples: Mapping[int, Reservoir], give: Callable[[memoryview], None]
    ) -> None:
        """``level()``: 0 for grains, else zstd's. ``give`` takes back the buffers that the entry does not keep."""
        self._level = level
        self._samples = samples
        self._give = give
        self._grains = GrainEncoder()

    def encode(self, item: Item) -> Entry:
        """The frame of an item."""
        if not isinstance(item, DataChunk):
            kind = FrameType.FREE_RUN if item.free else FrameType.ZERO_RUN
            frame = Frame(kind, Codec.RAW, item.disk, item.chunk, item.run, 0, _NO_DIGEST)
            return Entry(item.disk, item.chunk, item.run, kind, 0, frame.pack())
        raw = item.raw
        digest = chunk_digest(raw)
        self._samples[item.disk].offer(item.chunk, digest, usable=not item.unreadable)
        if item.known is not None and not item.unreadable and digest.startswith(item.known):
            frame = Frame(FrameType.REF, Codec.RAW, item.disk, item.chunk, item.length, 0, digest)
            self._give(item.buffer)
            return Entry(item.disk, item.chunk, 1, FrameType.REF, 0, frame.pack())
        kind = FrameType.UNREADABLE if item.unreadable else FrameType.DATA
        level = self._level()
        codec = Codec.ZSTD if level else Codec.GRAINS
        payload = self._zstd(raw, level) if level else self._grains.encode(raw)
        if payload is None:
            frame = Frame(kind, Codec.RAW, item.disk, item.chunk, item.length, item.length, digest)
            return Entry(item.disk, item.chunk, 1, kind, item.length, frame.pack(), raw, item.buffer)
        frame = Frame(kind, codec, item.disk, item.chunk, item.length, len(payload), digest)
        self._give(item.buffer)
        return Entry(item.disk, item.chunk, 1, kind, item.length, frame.pack(), payload)

    def _zstd(self, raw: memoryview, level: int) -> bytes | None:
        if not self._grains.may_shrink(raw):
            return None
        payload = encode_zstd(raw, level)
        self._grains.shrank(payload is not None)
        return payload
