# SPDX-License-Identifier: GPL-3.0-or-later
"""The pack: the append-only file that holds what was acknowledged for one disk, and the truth about it.

4 KiB header, then records back to back, each a frame header exactly as on the wire and its payload. Header, little
endian: magic "CMPACK1\\0", version u32 = 1, chunk size u32, migration UUID 16 bytes, disk u32, 0 u32, size u64,
crc32 u32 of the 48 bytes before; zeros to 4096.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from coldmig_gateway.staging.errors import PackDamagedError, StagingBusyError, storage_error
from coldmig_wire.frames import HEADER, Frame, FrameError
from coldmig_wire.geometry import CHUNK

PACK_HEADER = 4096
_MAGIC = b"CMPACK1\0"
_VERSION = 1
_FIELDS = struct.Struct("<8sII16sIIQ")
_CRC = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class DiskIdentity:
    """Which disk a pack or an index belongs to."""

    migration: UUID
    disk: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record as a scan finds it: its header, where it begins, and its payload."""

    frame: Frame
    offset: int
    payload: bytes

    @property
    def end(self) -> int:
        """The offset after the record."""
        return self.offset + HEADER + self.frame.length


class Pack:
    """One open pack. Locked against other processes; its owner serialises appends."""

    def __init__(self, path: Path, identity: DiskIdentity) -> None:
        """Opens the pack, or creates it. Raises PackDamagedError, StagingBusyError, StagingFullError."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error(f"{path}: open", error) from error
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
        expected = self._header(identity)
        try:
            found = os.pread(self._fd, PACK_HEADER, 0)
            if found != expected:
                # Records follow only after the header is durable, so a file without any may be started over.
                if os.fstat(self._fd).st_size > PACK_HEADER:
                    raise PackDamagedError(f"{self.path}: the header is damaged, or it is the pack of another disk")
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, expected, 0)
                os.fdatasync(self._fd)
                _sync_directory(self.path.parent)
        except OSError as error:
            raise storage_error(f"{self.path}: create", error) from error

    @staticmethod
    def _header(identity: DiskIdentity) -> bytes:
        fields = _FIELDS.pack(_MAGIC, _VERSION, CHUNK, identity.migration.bytes, identity.disk, 0, identity.size_bytes)
        return (fields + _CRC.pack(zlib.crc32(fields))).ljust(PACK_HEADER, b"\0")

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._fd).st_size

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

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes at ``offset``; fewer at the end of the file."""
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise storage_error(f"{self.path}: read at {offset}", error) from error

    def forget_cache(self, offset: int, length: int) -> None:
        """Asks the kernel to drop its copy of a durable range, so that the next read comes from the device."""
        os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_DONTNEED)

    def scan(self, offset: int) -> Iterator[Record]:
        """The records from ``offset`` on, up to the first that is cut short or whose header is damaged."""
        size = self.size
        while offset + HEADER <= size:
            try:
                frame = Frame.unpack(self.read(offset, HEADER))
            except FrameError:
                return
            if offset + HEADER + frame.length > size:
                return
            record = Record(frame, offset, self.read(offset + HEADER, frame.length))
            yield record
            offset = record.end

    def close(self) -> None:
        """Closes the file and frees its lock. What was not synced is left to the kernel."""
        os.close(self._fd)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
