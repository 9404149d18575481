# SPDX-License-Identifier: GPL-3.0-or-later
"""What earlier attempts of the same machine left: their packs, taken over by hard links instead of copying.

``disk-<n>.base-<k>.pack`` and ``.index`` beside the disk's own pack are further names of an earlier attempt's files.
The file system counts the references, so the earlier attempt may be deleted at any time. Which pack it is stands in its
own header; k only orders them, newest first. What cannot be linked is read where it lies, as long as it is there.
"""

from __future__ import annotations

import contextlib
import logging
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from coldmig_gateway.staging.bitmap import Bitmap
from coldmig_gateway.staging.errors import ChunkDamagedError, StagingError
from coldmig_gateway.staging.index import Index, Slot
from coldmig_gateway.staging.pack import DiskIdentity, ForeignPack, PackId
from coldmig_wire.frames import HEADER, Frame
from coldmig_wire.geometry import chunk_count

_log = logging.getLogger(__name__)

#: More would be linked for nothing: each attempt links what the one before had.
MAX_LINKED = 8

Earlier = tuple[str, int]
"""An earlier attempt of a disk: its migration and its index there."""


class Base:
    """One earlier attempt's pack, and its index if that can be used."""

    def __init__(self, path: Path, *, linked: bool) -> None:
        """``path`` ends in ``.pack``. Raises PackDamagedError, StagingError."""
        self.pack = ForeignPack(path)
        self.linked = linked
        self.id: PackId = self.pack.identity.pack
        self._index: Index | None = None
        self._data: Bitmap | None = None
        self._watermark = 0
        self._bases: Sequence[PackId] = ()
        with contextlib.suppress(StagingError):
            chunks = chunk_count(self.pack.identity.size_bytes)
            self._index = Index(path.with_suffix(".index"), self.pack.identity, chunks, read_only=True)
            found = self._index.load(self.pack.size)
            if found is not None:
                self._data, self._watermark, self._bases = found.data, found.watermark, found.bases

    def find(self, frame: Frame) -> tuple[PackId, Slot] | None:
        """The chunk that a REF frame means, if it is here: the pack that holds it, and its slot."""
        if self._index is None or self._data is None or not self._data[frame.chunk]:
            return None
        try:
            slot = self._index.read_slot(frame.chunk)
        except ChunkDamagedError:
            return None
        if (slot.digest, slot.raw_length) != (frame.digest, frame.run):
            return None
        if slot.base == 0:
            # The earlier attempt may still be written: what its last checkpoint does not cover may go again.
            durable = slot.offset + HEADER + slot.length <= self._watermark
            return (self.id, slot) if durable else None
        if slot.base > len(self._bases):
            return None
        return self._bases[slot.base - 1], slot

    def digest_prefixes(self, first: int, count: int) -> array[int] | None:
        """For ``count`` chunks the first 8 bytes of the digest as a number, 0 where there is no data; None if all 0."""
        if self._index is None or self._data is None:
            return None
        held = self._data.window(first, count)
        if not any(held):
            return None
        prefixes = self._index.digest_prefixes(first, count)
        for at, is_held in enumerate(held):
            if not is_held:
                prefixes[at] = 0
        return prefixes

    def close(self) -> None:
        """Closes both files."""
        self.pack.close()
        if self._index is not None:
            self._index.close()


def link_earlier(root: Path, identity: DiskIdentity, earlier: Sequence[Earlier]) -> None:
    """Gives the packs of earlier attempts a second name beside the disk's own, which must not exist yet.

    What cannot be linked is left out. Durable when the directory is.
    """
    directory = root / str(identity.migration)
    for stale in _base_files(directory, identity.disk):
        stale.unlink()
    count = 0
    for pack in _packs_of(root, earlier, identity):
        if count == MAX_LINKED:
            break
        target = directory / f"disk-{identity.disk}.base-{count + 1}.pack"
        try:
            target.hardlink_to(pack)
        except OSError as error:  # deleted meanwhile, another file system, too many links
            _log.info("%s: cannot be linked: %s", pack, error)
            continue
        with contextlib.suppress(OSError):
            target.with_suffix(".index").hardlink_to(pack.with_suffix(".index"))
        count += 1


def open_bases(root: Path, identity: DiskIdentity, earlier: Sequence[Earlier]) -> list[Base]:
    """The linked bases, newest first, and after them what of ``earlier`` could not be linked."""
    directory = root / str(identity.migration)
    bases: list[Base] = []
    for path in _linked_packs(directory, identity.disk):
        _open(path, identity, bases, linked=True)
    known = {base.id for base in bases}
    for path in _packs_of(root, earlier, identity, without=known):
        _open(path, identity, bases, linked=False)
    return bases


def digest_prefixes(bases: Iterable[Base], first: int, count: int) -> bytes:
    """The first 8 bytes of the digests of ``count`` chunks as the newest base that has each knows it; else zeros."""
    merged: array[int] | None = None
    for base in bases:
        found = base.digest_prefixes(first, count)
        if merged is None or found is None:
            merged = found if merged is None else merged
            continue
        for at, prefix in enumerate(merged):
            if not prefix:
                merged[at] = found[at]
    return bytes(8 * count) if merged is None else merged.tobytes()


def _open(path: Path, identity: DiskIdentity, bases: list[Base], *, linked: bool) -> None:
    try:
        base = Base(path, linked=linked)
    except StagingError as error:
        _log.warning("%s", error)
        return
    if base.pack.identity.size_bytes != identity.size_bytes or base.id in {other.id for other in bases}:
        base.close()
        return
    bases.append(base)


def _packs_of(
    root: Path, earlier: Sequence[Earlier], identity: DiskIdentity, without: Iterable[PackId] = ()
) -> Iterator[Path]:
    """The packs of earlier attempts and those that these have linked, each once."""
    seen = {identity.pack, *without}
    for migration, disk in earlier:
        directory = root / migration
        for path in (directory / f"disk-{disk}.pack", *_linked_packs(directory, disk)):
            try:
                pack = ForeignPack(path)
            except StagingError:
                continue
            found = pack.identity
            pack.close()
            if found.pack not in seen and found.size_bytes == identity.size_bytes:
                seen.add(found.pack)
                yield path


def _linked_packs(directory: Path, disk: int) -> list[Path]:
    packs = [path for path in _base_files(directory, disk) if path.suffix == ".pack"]
    return sorted(packs, key=lambda path: int(path.stem.rpartition("-")[2]))


def _base_files(directory: Path, disk: int) -> list[Path]:
    prefix = f"disk-{disk}.base-"
    try:
        names = os.listdir(directory)  # noqa: PTH208 - names are enough
    except OSError:
        return []
    found = []
    for name in names:
        number, _dot, kind = name.removeprefix(prefix).partition(".")
        if name.startswith(prefix) and number.isdecimal() and kind in ("pack", "index"):
            found.append(directory / name)
    return found
