# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry hive of the guest with its logs replayed, read through hivex.

A clean hive is read where it lies: hivex maps it, which costs no memory of its own. A dirty one is copied to a file of
its own first, and the pages of its logs are written there. Only for a process with one thread, because hivex wants a
path and the guest's files have none: the working directory is changed for the moment of opening.
"""

from __future__ import annotations

import logging
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Protocol, TypeVar, cast

from coldmig_agent.guest.windows.model import HiveFacts
from coldmig_agent.guest.windows.regf import RegfError
from coldmig_agent.guest.windows.replay import CLEAN, HEAD, MAX_LOG, STALE, Recovery, log_extent, plan
from coldmig_agent.guest.windows.tree import Tree
from coldmig_agent.text import clean

LOG = logging.getLogger(__name__)

#: A dirty hive larger than this is read without its logs: the copy is kept in memory, of which an inspection shall not
#: take more than 150 MiB. SYSTEM is far smaller; of a SOFTWARE only the numbers of the last update would be missed.
MAX_COPY = 96 << 20
MAX_KEYS = 4096
MAX_VALUE = 1 << 16
_COPY_AT_ONCE = 1 << 20
_LOGS = (".LOG1", ".LOG2", ".LOG")
REG_SZ, REG_EXPAND_SZ, REG_DWORD, REG_DWORD_BE, REG_MULTI_SZ, REG_QWORD = 1, 2, 4, 5, 7, 11
_T = TypeVar("_T")


class HiveError(RuntimeError):
    """The hive cannot be read; the text says why."""


class _Handle(Protocol):
    """What is used of a ``hivex.Hivex``."""

    def root(self) -> int: ...
    def node_get_child(self, node: int, name: str) -> int | None: ...
    def node_children(self, node: int) -> list[int]: ...
    def node_name(self, node: int) -> str: ...
    def node_values(self, node: int) -> list[int]: ...
    def node_get_value(self, node: int, key: str) -> int | None: ...
    def value_key(self, val: int) -> str: ...
    def value_type(self, val: int) -> tuple[int, int]: ...
    def value_value(self, val: int) -> tuple[int, bytes]: ...


class Hive:
    """Values of an open hive. Keys are paths with ``\\``, names are compared without case.

    What cannot be read (a damaged hive has such places) counts as absent; ``damage`` counts how often that happened.
    """

    def __init__(self, handle: _Handle) -> None:
        self._handle = handle
        self.damage = 0

    def _try(self, function: Callable[..., _T], *arguments: object) -> _T | None:
        try:
            return function(*arguments)
        except (RuntimeError, OSError, ValueError) as error:
            # hivex raises RuntimeError with the text of errno, also where errno is 0: no such value.
            if str(error) != os.strerror(0):
                LOG.debug("hive: %s", error)
                self.damage += 1
            return None

    def _node(self, key: str) -> int | None:
        node = self._try(self._handle.root)
        for name in key.split("\\"):
            if not node:
                return None
            node = self._try(self._handle.node_get_child, node, name)
        return node

    def has(self, key: str) -> bool:
        """Whether there is such a key."""
        return bool(self._node(key))

    def keys(self, key: str) -> list[str]:
        """Names of the keys below, at most :data:`MAX_KEYS`."""
        node = self._node(key)
        children = self._try(self._handle.node_children, node) if node else None
        names = (self._try(self._handle.node_name, child) for child in (children or [])[:MAX_KEYS])
        return [name for name in names if name is not None]

    def values(self, key: str) -> list[str]:
        """Names of the values of a key; the default one is the empty name."""
        node = self._node(key)
        found = self._try(self._handle.node_values, node) if node else None
        names = (self._try(self._handle.value_key, value) for value in (found or [])[:MAX_KEYS])
        return [name for name in names if name is not None]

    def raw(self, key: str, name: str) -> tuple[int, bytes] | None:
        """Type and bytes of a value; None also where it is longer than :data:`MAX_VALUE`."""
        node = self._node(key)
        value = self._try(self._handle.node_get_value, node, name) if node else None
        if not value:
            return None
        kind = self._try(self._handle.value_type, value)
        if kind is None or kind[1] > MAX_VALUE:
            return None
        return self._try(self._handle.value_value, value)

    def text(self, key: str, name: str, limit: int = 255) -> str | None:
        """A REG_SZ or REG_EXPAND_SZ on one line, or None."""
        found = self.raw(key, name)
        if found is None or found[0] not in {REG_SZ, REG_EXPAND_SZ}:
            return None
        return clean(_utf16(found[1]).split("\0", 1)[0], limit)

    def texts(self, key: str, name: str) -> list[str]:
        """The strings of a REG_MULTI_SZ (or the one of a REG_SZ); empty ones are left out."""
        found = self.raw(key, name)
        if found is None or found[0] not in {REG_SZ, REG_EXPAND_SZ, REG_MULTI_SZ}:
            return []
        parts = (clean(part) for part in _utf16(found[1]).split("\0"))
        return [part for part in parts if part][:MAX_KEYS]

    def number(self, key: str, name: str) -> int | None:
        """A REG_DWORD (either byte order) or REG_QWORD below 2**32, or None."""
        found = self.raw(key, name)
        if found is None:
            return None
        kind, data = found
        form = {REG_DWORD: "<I", REG_DWORD_BE: ">I", REG_QWORD: "<Q"}.get(kind)
        if form is None or len(data) != struct.calcsize(form):
            return None
        value = cast(int, struct.unpack(form, data)[0])
        return value if value < 1 << 32 else None


def _utf16(data: bytes) -> str:
    return data.decode("utf-16-le", "replace")


@contextmanager
def open_hive(tree: Tree, path: str) -> Iterator[tuple[Hive, HiveFacts]]:
    """A hive with its logs; what was found about its state comes with it. Raises HiveError."""
    actual = tree.find(path)
    if not actual:
        raise HiveError(f"{path} is not there")
    name = actual.rsplit("/", 1)[1]
    try:
        with tree.root.open(actual) as source:
            recovery, written = _plan(tree, actual, source)
            facts = HiveFacts(name, recovery.state, recovery.entries, recovery.problem, int(written))
            if recovery.state == CLEAN or (recovery.state == STALE and not recovery.base):
                handle = _open_there(tree, actual, source)
            else:
                handle = _open_copy(source, recovery)
            del recovery  # lets go of the logs
            yield Hive(handle), facts
    except RegfError as error:
        raise HiveError(f"{name}: {error}") from None
    except OSError as error:
        raise HiveError(f"{name}: {error.strerror or error}") from None
    except MemoryError:
        raise HiveError(f"{name}: there is not enough memory to read it") from None


def _plan(tree: Tree, path: str, source: int) -> tuple[Recovery, float]:
    status = os.fstat(source)
    written = status.st_mtime
    head = os.pread(source, HEAD, 0)
    recovery = plan(head, status.st_size, ())
    if recovery.state == CLEAN:
        return recovery, written
    logs = []
    for suffix in _LOGS:
        actual = tree.find(path + suffix)
        if actual is None:
            continue
        try:
            with tree.root.open(actual) as file:
                found = os.fstat(file)
                extent = log_extent(partial(_read_at, file), found.st_size)
                if extent <= MAX_LOG:
                    logs.append(_read(file, extent))
                written = max(written, found.st_mtime)
        except OSError as error:
            LOG.info("%s: %s", actual, error)
    recovery = plan(head, status.st_size, logs)
    if max(recovery.size, status.st_size) > MAX_COPY:
        problem = f"its changes in the logs were left out: it has {status.st_size >> 20} MiB, more than are copied"
        recovery = Recovery(STALE, status.st_size, problem=problem)
    return recovery, written


def _read_at(file: int, offset: int, size: int) -> bytes:
    return os.pread(file, size, offset)


def _read(file: int, size: int) -> bytearray:
    data = bytearray(size)
    offset = 0
    while offset < size and (count := os.preadv(file, [memoryview(data)[offset : offset + _COPY_AT_ONCE]], offset)):
        offset += count
    return data if offset == size else data[:offset]


def _open_there(tree: Tree, path: str, source: int) -> _Handle:
    # A part that cannot be read would end this process with SIGBUS when hivex comes to it in its mapping.
    offset = 0
    while part := os.pread(source, _COPY_AT_ONCE, offset):
        offset += len(part)
    directory, name = path.rsplit("/", 1)
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with tree.root.below(directory or "/") as place:
            os.fchdir(place.fileno())
        if not os.path.samestat(os.stat(name, follow_symlinks=False), os.fstat(source)):  # noqa: PTH116
            raise HiveError(f"{name} is a link")
        return _hivex(name)
    finally:
        os.fchdir(here)
        os.close(here)


def _open_copy(source: int, recovery: Recovery) -> _Handle:
    with tempfile.NamedTemporaryFile(prefix="hive-") as copy:
        offset = 0
        while offset < recovery.size and (part := os.pread(source, _COPY_AT_ONCE, offset)):
            copy.write(part[: recovery.size - offset])
            offset += len(part)
        copy.flush()
        copy.truncate(recovery.size)
        for place, page in recovery.pages:
            os.pwrite(copy.fileno(), page, place)
        os.pwrite(copy.fileno(), recovery.base, 0)
        return _hivex(copy.name)  # its mapping stays when the name is gone


def _hivex(path: str) -> _Handle:
    try:
        hivex = import_module("hivex")  # a package of the live system; without Windows nobody needs it
    except ImportError as error:
        raise HiveError(f"python3-hivex is not installed ({error})") from None
    try:
        return cast(_Handle, hivex.Hivex(path))
    except RuntimeError as error:
        LOG.info("%s: %s; trying it as a damaged hive", path, error)
    try:
        return cast(_Handle, hivex.Hivex(path, unsafe=True))
    except RuntimeError as error:
        raise HiveError(f"hivex cannot read it: {error}") from None
