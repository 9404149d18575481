# SPDX-License-Identifier: GPL-3.0-or-later
"""The pack: the append-only file that holds what was acknowledged for one disk, and the truth about it.

4 KiB header, then records back to back, each a frame header exactly as on the wire and its payload. Header, little
endian: magic "CMPACK1\\0", version u32 = 2, chunk size u32, migration UUID 16 bytes, disk u32, 0 u32, size u64,
crc32 u32 of the 48 bytes before; zeros to 4096.

A REF header is followed by a link: which pack holds the chunk, and where in it. That pack is that of an earlier attempt
of the same machine, kept beside this one by a hard link. Packs of version 1 have no links.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from coldmig_gateway.staging.device import DeviceReader
from coldmig_gateway.staging.errors import PackDamagedError, StagingBusyError, storage_error
from coldmig_wire.frames import HEADER, Codec, Frame, FrameError, FrameType
from coldmig_wire.geometry import CHUNK

PACK_HEADER = 4096
_MAGIC = b"CMPACK1\0"
_VERSION = 2
_READABLE = (1, 2)
_FIELDS = struct.Struct("<8sII16sIIQ")
_LINK = struct.Struct("<16sIBBHQII32s")
_CRC = struct.Struct("<I")
LINK_BODY = _LINK.size + _CRC.size


class PackId(NamedTuple):
    """Which pack: the migration that it was written for, and the disk's index in it."""

    migration: UUID
    disk: int


@dataclass(frozen=True, slots=True)
class DiskIdentity:
    """Which disk a pack or an index belongs to."""

    migration: UUID
    disk: int
    size_bytes: int

    @property
    def pack(self) -> PackId:
        """The disk's own pack."""
        return PackId(self.migration, self.disk)


@dataclass(frozen=True, slots=True)
class Link:
    """What a REF record says beyond its header: where the chunk lies, and what its slot says of it there."""

    holder: PackId
    codec: Codec
    offset: int
    length: int
    sectors: int
    stored_digest: bytes

    def pack(self) -> bytes:
        """The bytes that follow the header."""
        fields = _LINK.pack(
            self.holder.migration.bytes, self.holder.disk, self.codec, 0, 0, self.offset, self.length, self.sectors,
            self.stored_digest,
        )  # fmt: skip
        return fields + _CRC.pack(zlib.crc32(fields))

    @classmethod
    def unpack(cls, buf: bytes | memoryview) -> Link | None:
        """Reads the bytes that follow the header; None if they are damaged."""
        if len(buf) != LINK_BODY or _CRC.unpack_from(buf, _LINK.size)[0] != zlib.crc32(buf[: _LINK.size]):
            return None
        migration, disk, codec, _unused, _padding, offset, length, sectors, stored_digest = _LINK.unpack_from(buf)
        try:
            return cls(PackId(UUID(bytes=migration), disk), Codec(codec), offset, length, sectors, stored_digest)
        except ValueError:
            return None


def body_length(frame: Frame) -> int:
    """Bytes that follow a header in a pack."""
    return LINK_BODY if frame.type is FrameType.REF else frame.length


@dataclass(frozen=True, slots=True)
class Record:
    """One record as a scan finds it: its header, where it begins, and what follows the header."""

    frame: Frame
    offset: int
    payload: bytes | memoryview

    @property
    def end(self) -> int:
        """The offset after the record."""
        return self.offset + HEADER + body_length(self.frame)


class PackFile:
    """One open pack, for reading."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._fd).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes at ``offset``; fewer at the end of the file. Raises StagingError."""
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise storage_error(f"{self.path}: read at {offset}", error) from error

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """The same into a buffer; gives how many bytes there were. Raises StagingError."""
        try:
            return os.preadv(self._fd, [buffer], offset)
        except OSError as error:
            raise storage_error(f"{self.path}: read at {offset}", error) from error

    def device(self) -> DeviceReader:
        """For reading what is on the device instead of what the kernel remembers. Close it."""
        return DeviceReader(self.path, self._fd)

    def close(self) -> None:
        """Closes the file and frees its lock, if it has one. What was not synced is left to the kernel."""
        os.close(self._fd)


class ForeignPack(PackFile):
    """The pack of another migration, which may be written to meanwhile: only what is durable in it may be used."""

    def __init__(self, path: Path) -> None:
        """Raises PackDamagedError, StagingError."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise storage_error(f"{path}: open", error) from error
        super().__init__(path, fd)
        try:
            found = _read_header(self.read(0, PACK_HEADER))
        except BaseException:
            self.close()
            raise
        if found is None:
            self.close()
            raise PackDamagedError(f"{path}: the header is damaged")
        self.identity = found


class Pack(PackFile):
    """The pack that is written. Locked against other processes; its owner serialises appends."""

    def __init__(self, path: Path, identity: DiskIdentity, *, create: bool = True) -> None:
        """Opens the pack, or creates it. Raises PackDamagedError, StagingBusyError, StagingFullError."""
        try:
            fd = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0) | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error(f"{path}: open", error) from error
        super().__init__(path, fd)
        try:
            self._open(identity)
        except BaseException:
            os.close(self._fd)
            raise

    def _open(self, identity: DiskIdentity) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StagingBusyError(f"{self.path}: in use by another process") from None
        try:
            if _read_header(os.pread(self._fd, PACK_HEADER, 0)) != identity:
                # Records follow only after the header is durable, so a file without any may be started over.
                if os.fstat(self._fd).st_size > PACK_HEADER:
                    raise PackDamagedError(f"{self.path}: the header is damaged, or it is the pack of another disk")
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, _header(identity), 0)
                os.fdatasync(self._fd)
                _sync_directory(self.path.parent)
        except OSError as error:
            raise storage_error(f"{self.path}: create", error) from error

    def write(self, offset: int, header: bytes, payload: bytes | bytearray | memoryview) -> None:
        """Writes a record at ``offset``, whole or not at all. Not durable before ``sync``. Raises StagingFullError."""
        total = len(header) + len(payload)
        try:
            written = os.pwritev(self._fd, [header, payload], offset)
            while written < total:
                rest = memoryview(payload)[written - len(header) :] if written >= len(header) else payload
                head = header[written:]
                written += os.pwritev(self._fd, [head, rest], offset + written)
        except OSError as error:
            self.truncate(offset)
            raise storage_error(f"{self.path}: append", error) from error

    def truncate(self, size: int) -> None:
        """Drops everything from ``size`` on."""
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        """Makes everything that was written durable. Raises StagingFullError, StagingError."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise storage_error(f"{self.path}: fdatasync", error) from error

    def scan(self, offset: int, end: int | None = None) -> Iterator[Record]:
        """The records from ``offset`` on, up to the first that is cut short or whose header is damaged."""
        size = self.size if end is None else end
        while offset + HEADER <= size:
            try:
                frame = Frame.unpack(self.read(offset, HEADER))
            except FrameError:
                return
            if offset + HEADER + body_length(frame) > size:
                return
            record = Record(frame, offset, self.read(offset + HEADER, body_length(frame)))
            yield record
            offset = record.end


def _header(identity: DiskIdentity) -> bytes:
    fields = _FIELDS.pack(_MAGIC, _VERSION, CHUNK, identity.migration.bytes, identity.disk, 0, identity.size_bytes)
    return (fields + _CRC.pack(zlib.crc32(fields))).ljust(PACK_HEADER, b"\0")


def _read_header(buf: bytes) -> DiskIdentity | None:
    """Whose pack begins like this; None if it is no pack, or damaged."""
    if len(buf) != PACK_HEADER or _CRC.unpack_from(buf, _FIELDS.size)[0] != zlib.crc32(buf[: _FIELDS.size]):
        return None
    magic, version, chunk, migration, disk, _zero, size_bytes = _FIELDS.unpack_from(buf)
    if magic != _MAGIC or version not in _READABLE or chunk != CHUNK or any(buf[_FIELDS.size + _CRC.size :]):
        return None
    return DiskIdentity(UUID(bytes=migration), disk, size_bytes)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
