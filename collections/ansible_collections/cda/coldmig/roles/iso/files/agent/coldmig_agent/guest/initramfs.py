# SPDX-License-Identifier: GPL-3.0-or-later
"""Names in a Linux initramfs: any sequence of newc archives (kernel Documentation/driver-api/early-userspace/
buffer-format.rst), plain or compressed, zero-padded in between.

The image is the guest's: names, counts, output and nesting are bounded, and a damaged or truncated image is reported
as incomplete instead of passing for one that simply has no drivers.
"""

from __future__ import annotations

import bz2
import contextlib
import itertools
import lzma
import stat
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

MAX_NAME = 4096
MAX_ENTRIES = 500_000
MAX_OUTPUT = 4 << 30
MAX_DEPTH = 2
#: A file whose content is asked for.
MAX_KEPT = 8 << 20
_BLOCK = 1 << 18

#: Called with a path, and the content where it was asked for (else empty).
Visit = Callable[[str, bytes], None]
Keep = Callable[[str], bool]


class InitramfsError(ValueError):
    """The image cannot be read to its end."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What the visitor saw; ``complete`` only when every archive ended as it should."""

    complete: bool
    entries: int
    problem: str = ""


class _Zlib:
    """gzip member with zlib; output is handed out in pieces so that a bomb cannot fill memory."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while data:
            piece = self._inflater.decompress(data, _BLOCK)
            if piece:
                yield piece
            data = self._inflater.unconsumed_tail
            if self._inflater.eof:
                return


class _Bounded:
    """bz2 and lzma objects of the standard library, which take ``max_length``."""

    def __init__(self, inner: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._inner = inner

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def pieces(self, data: bytes) -> Iterator[bytes]:
        piece = self._inner.decompress(data, _BLOCK)
        while True:
            if piece:
                yield piece
            if self._inner.eof or self._inner.needs_input:
                return
            piece = self._inner.decompress(b"", _BLOCK)


_STDLIB: tuple[tuple[bytes, Callable[[], _Zlib | _Bounded]], ...] = (
    (b"\x1f\x8b", _Zlib),
    (b"\xfd7zXZ\0", lambda: _Bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20))),
    (b"BZh", lambda: _Bounded(bz2.BZ2Decompressor())),
    (b"\x5d\x00\x00", lambda: _Bounded(lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=256 << 20))),
)
# zstd passes what follows its last frame through unchanged (-f): archives after a compressed one are seen too.
_TOOLS: tuple[tuple[bytes, tuple[str, ...]], ...] = (
    (b"\x28\xb5\x2f\xfd", ("zstd", "-dcqf", "-M256MB")),
    (b"\x02\x21\x4c\x18", ("lz4", "-dcq")),
    (b"\x04\x22\x4d\x18", ("lz4", "-dcq")),
    (b"\x89LZO", ("lzop", "-dcq")),
)


class _Stream:
    """Bytes from an iterator, with a look ahead."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source = source
        self._buffer = b""
        self._at = 0

    def peek(self, size: int) -> bytes:
        while len(self._buffer) - self._at < size:
            more = next(self._source, b"")
            if not more:
                break
            self._buffer = self._buffer[self._at :] + more
            self._at = 0
        return self._buffer[self._at : self._at + size]

    def read(self, size: int) -> bytes:
        data = self.peek(size)
        self._at += len(data)
        return data

    def skip(self, size: int) -> int:
        """Drop up to ``size`` bytes; how many there were."""
        dropped = 0
        while dropped < size:
            if self._at >= len(self._buffer):
                self._buffer, self._at = next(self._source, b""), 0
                if not self._buffer:
                    break
            take = min(size - dropped, len(self._buffer) - self._at)
            self._at += take
            dropped += take
        return dropped

    def rest(self) -> Iterator[bytes]:
        """What is left, block by block. Leaving the iteration early loses only the blocks already given out."""
        if self._at < len(self._buffer):
            block = self._buffer[self._at :]
            self._buffer, self._at = b"", 0
            yield block
        # Through a chain, which has no close(): closing this generator must not close the source.
        yield from itertools.chain(self._source)

    def unread(self, data: bytes) -> None:
        """Put bytes back that :meth:`rest` had given out."""
        self._buffer, self._at = data + self._buffer[self._at :], 0


def _file_blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield block


class _Walker:
    def __init__(self, visit: Visit, keep: Keep | None) -> None:
        self._visit = visit
        self._keep = keep
        self.entries = 0
        self._output = 0

    def walk(self, stream: _Stream, depth: int) -> None:
        """Every archive of a stream. Raises InitramfsError for anything that does not end properly."""
        seen = False
        while head := self._next_archive(stream):
            if head[:6] in {b"070701", b"070702"}:
                self._cpio(stream)
            elif depth >= MAX_DEPTH:
                raise InitramfsError("compressed more than twice")
            else:
                self._compressed(stream, head, depth)
            seen = True
        if not seen:
            raise InitramfsError("empty")

    @staticmethod
    def _next_archive(stream: _Stream) -> bytes:
        """Skip zero padding and return the first bytes of what comes next."""
        while True:
            head = stream.peek(8)
            if not head:
                return b""
            if head[0] != 0:
                return head
            stream.skip(len(head) - len(head.lstrip(b"\0")))

    def _cpio(self, stream: _Stream) -> None:
        position = 0
        while True:
            header = stream.read(110)
            if len(header) < 110 or header[:6] not in {b"070701", b"070702"}:
                raise InitramfsError("an archive ends in the middle")
            try:
                mode, file_size, name_size = int(header[14:22], 16), int(header[54:62], 16), int(header[94:102], 16)
            except ValueError:
                raise InitramfsError("an archive header is damaged") from None
            if not 1 <= name_size <= MAX_NAME:
                raise InitramfsError("a name is too long")
            name = stream.read(name_size)
            position += 110 + name_size
            if len(name) < name_size:
                raise InitramfsError("an archive ends in the middle")
            padding = -position % 4
            text = name.rstrip(b"\0").decode("utf-8", "replace")
            if text == "TRAILER!!!":
                stream.skip(padding)
                return
            self.entries += 1
            if self.entries > MAX_ENTRIES:
                raise InitramfsError(f"more than {MAX_ENTRIES} files")
            skipped = stream.skip(padding)
            taken = b""
            if self._keep is not None and file_size <= MAX_KEPT and stat.S_ISREG(mode) and self._keep(text):
                taken = stream.read(file_size)
            rest = file_size - len(taken) + -file_size % 4
            skipped += len(taken) + stream.skip(rest)
            body = padding + file_size + -file_size % 4
            position += body
            if skipped < body:
                raise InitramfsError("an archive ends in the middle")
            self._visit(text, taken)

    def _compressed(self, stream: _Stream, head: bytes, depth: int) -> None:
        for magic, make in _STDLIB:
            if head.startswith(magic):
                stream.unread(self._inflate(stream, make(), depth))
                return
        for magic, command in _TOOLS:
            if head.startswith(magic):
                self._tool(stream, command, depth)
                return
        raise InitramfsError(f"unknown compression (begins with {head[:6].hex()})")

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._output += len(piece)
            if self._output > MAX_OUTPUT:
                raise InitramfsError(f"more than {MAX_OUTPUT >> 20} MiB decompressed")
            yield piece

    def _inflate(self, stream: _Stream, inflater: _Zlib | _Bounded, depth: int) -> bytes:
        """Walk one compressed member; returns the bytes that followed it."""

        def pieces() -> Iterator[bytes]:
            try:
                for block in stream.rest():
                    yield from inflater.pieces(block)
                    if inflater.eof:
                        return
            except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
                raise InitramfsError(f"compressed data is damaged ({error})") from None
            raise InitramfsError("compressed data ends in the middle")

        inner = _Stream(self._counted(pieces()))
        self.walk(inner, depth + 1)
        return inflater.unused_data

    def _tool(self, stream: _Stream, command: tuple[str, ...], depth: int) -> None:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError:
            raise InitramfsError(f"{command[0]} is not installed here") from None
        sink, output = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)

        def feed() -> None:
            with contextlib.suppress(BrokenPipeError):
                for block in stream.rest():
                    sink.write(block)
            with contextlib.suppress(BrokenPipeError):
                sink.close()

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        try:
            inner = _Stream(self._counted(iter(lambda: output.read(_BLOCK), b"")))
            self.walk(inner, depth + 1)
            feeder.join()
            if process.wait() != 0:
                raise InitramfsError(f"{command[0]} could not decompress it to its end")
        finally:
            process.kill()
            process.wait()
            output.close()
            feeder.join()


def read_image(file: BinaryIO, visit: Visit, keep: Keep | None = None) -> Listing:
    """Call ``visit`` with every path in the image, and the content of the files that ``keep`` says yes to.

    Never raises for what the image holds; InitramfsError from ``visit`` ends the reading.
    """
    walker = _Walker(visit, keep)
    try:
        walker.walk(_Stream(_file_blocks(file)), 0)
    except InitramfsError as error:
        return Listing(False, walker.entries, str(error))
    return Listing(True, walker.entries)
