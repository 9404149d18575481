# SPDX-License-Identifier: GPL-3.0-or-later
"""What a disk's staging should hold: a second, simple account of every record, kept beside the real one."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from functools import cache

from coldmig_gateway.staging.pack import PACK_HEADER
from coldmig_wire.frames import CHUNK, HEADER, Codec, Frame, FrameError, FrameType
from coldmig_wire.geometry import chunk_count, chunk_length
from coldmig_wire.payload import PayloadError, verify_payload
from gateway.staging.content import data_frame, raw_chunk

#: The last chunk is short and ends in the middle of a grain.
SIZE = 12 * CHUNK - 70_000
CHUNKS = chunk_count(SIZE)
PAGE = 4096
_INDEX_HEADER = 388


@cache
def content_frame(chunk: int, variant: int, kind: FrameType, codec: Codec) -> tuple[Frame, bytes]:
    """A frame of one of a chunk's possible contents; with little to store, for speed."""
    raw = raw_chunk(chunk * 100 + variant, chunk_length(chunk, SIZE), stored=40 + chunk + variant)
    frame, payload = data_frame(chunk, raw)
    if codec is Codec.RAW:
        frame, payload = replace(frame, codec=codec, length=len(raw)), raw
    return replace(frame, type=kind), payload


@dataclass(frozen=True)
class Record:
    """A record of the pack as it was written; ``digest`` is None for a run of zeros."""

    offset: int
    content: bytes
    first: int
    end: int
    digest: bytes | None

    @property
    def stop(self) -> int:
        """The offset after it."""
        return self.offset + len(self.content)

    @property
    def is_link(self) -> bool:
        """Whether it leads to an earlier attempt's pack."""
        return Frame.unpack(self.content).type is FrameType.REF

    def header_is_whole(self, pack: bytes) -> bool:
        """Whether a reader of the pack sees this header, and a payload of this length."""
        header = self.content[:HEADER]
        return pack[self.offset : self.offset + HEADER] == header and self.stop <= len(pack)

    def is_whole(self, pack: bytes) -> bool:
        """Whether nothing of it is damaged."""
        return pack[self.offset : self.stop] == self.content

    def as_in(self, pack: bytes) -> Record | None:
        """What lies there now, if it still holds its chunk: deflate has bits that do not matter."""
        found = replace(self, content=pack[self.offset : self.stop])
        if found.content != self.content:
            if self.is_link:
                return None
            try:
                verify_payload(Frame.unpack(found.content), found.content[HEADER:])
            except (FrameError, PayloadError):
                return None
        return found


@dataclass
class Model:
    """The records of the pack, and which of them counts for a chunk.

    ``durable`` are the chunks that were acknowledged, ``written`` those that wait for a commit too. ``source`` is what
    was ever acknowledged of a chunk: the digest of data, None for zeros.
    """

    records: list[Record] = field(default_factory=list)
    durable: dict[int, Record] = field(default_factory=dict)
    written: dict[int, Record] = field(default_factory=dict)
    source: dict[int, bytes | None] = field(default_factory=dict)
    committed_end: int = PACK_HEADER

    @property
    def end(self) -> int:
        """Bytes of the pack."""
        return self.records[-1].stop if self.records else PACK_HEADER

    def append(self, frame: Frame, payload: bytes) -> bool:
        """Notes a record; False if nothing in it is new."""
        chunks = range(frame.chunk, frame.end_chunk)
        new = [chunk for chunk in chunks if chunk not in self.written]
        if not new:
            return False
        digest = frame.digest if frame.has_payload else None
        record = Record(self.end, frame.pack() + payload, frame.chunk, frame.end_chunk, digest)
        self.records.append(record)
        for chunk in new:
            self.written[chunk] = record
        return True

    def append_link(self, frame: Frame, content: bytes) -> None:
        """Notes a link to a chunk of an earlier attempt as it was written."""
        self.records.append(Record(self.end, content, frame.chunk, frame.chunk + 1, frame.digest))
        self.written[frame.chunk] = self.records[-1]

    def commit(self) -> None:
        """Everything that was written counts."""
        self.durable = dict(self.written)
        self.committed_end = self.end
        self.source |= {chunk: record.digest for chunk, record in self.durable.items()}

    def roll_back(self) -> None:
        """What was not committed is gone."""
        self.records = [record for record in self.records if record.stop <= self.committed_end]
        self.written = dict(self.durable)

    @property
    def data(self) -> dict[int, Record]:
        """The durable chunks that are not zeros."""
        return {chunk: record for chunk, record in self.durable.items() if record.digest is not None}

    def drop(self, chunk: int) -> None:
        """A chunk counts no more."""
        self.durable.pop(chunk, None)
        self.written.pop(chunk, None)

    def recovered(self, pack: bytes, *, known: dict[int, Record], watermark: int) -> Model:
        """What has to be there when this pack is opened with an index that knows these chunks up to the watermark."""
        found = dict(known)
        kept = [record for record in self.records if record.stop <= watermark]
        for record in self.records[len(kept) :]:
            if not record.header_is_whole(pack):
                break
            whole = record.as_in(pack)
            kept.append(whole or record)
            for chunk in range(record.first, record.end) if whole else ():
                # A run is also written when some of its chunks have data already; those keep it.
                if record.digest is not None or chunk not in found:
                    found[chunk] = kept[-1]
        after = Model(kept, written=found, source=self.source)
        after.commit()
        return after


@dataclass
class IndexModel:
    """Every checkpoint that was written, found again by its header."""

    checkpoints: dict[bytes, tuple[bytes, dict[int, Record], int]] = field(default_factory=dict)

    def note(self, index: bytes, model: Model) -> bool:
        """Remembers the checkpoint that is new in these bytes, if there is one."""
        for turn in (0, 1):
            header = _header(index, turn)
            whole = zlib.crc32(header[:-4]).to_bytes(4, "little") == header[-4:]
            if whole and header not in self.checkpoints:
                self.checkpoints[header] = (_area(index, turn), dict(model.durable), model.committed_end)
                return True
        return False

    def newest(self, index: bytes) -> tuple[dict[int, Record], int]:
        """The chunks that these bytes speak of and the watermark; nothing if no checkpoint in them is whole."""
        best, chosen = -1, (dict[int, Record](), PACK_HEADER)
        for turn in (0, 1):
            header = _header(index, turn)
            area, known, watermark = self.checkpoints.get(header, (None, {}, 0))
            generation = int.from_bytes(header[40:48], "little")
            if area == _area(index, turn) and generation > best:
                best, chosen = generation, (dict(known), watermark)
        return chosen


def _header(index: bytes, turn: int) -> bytes:
    return index[turn * PAGE : turn * PAGE + _INDEX_HEADER]


def _area(index: bytes, turn: int) -> bytes:
    start = (2 + turn) * PAGE
    return index[start : start + 2 * -(-CHUNKS // 8)]
