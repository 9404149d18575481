# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the file system tools on what belongs to somebody else.

A tool parses bytes that a guest could have made up. It therefore runs without privileges, without a network, bounded
in memory, CPU, time and output, and gets nothing but a device node of its own: a read-only loop device over the one
partition in question. Some tools (xfs_logprint) insist on opening it for writing; the loop device refuses the writes.
"""

from __future__ import annotations

import itertools
import os
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from coldmig_agent.inspection.devices import read_only_loop
from coldmig_agent.inspection.errors import InspectionError
from coldmig_agent.procfs import available_memory
from coldmig_agent.text import clean

#: For one tool on one file system: a 16 TiB ext4 on a slow disk takes minutes.
TOOL_SECONDS = 600.0
#: Free ranges of a badly fragmented file system of many TiB; they are streamed, so this bounds time only.
MAX_OUTPUT = 1 << 30
#: dumpe2fs writes the free ranges of a block group in one line.
MAX_LINE = 8 << 20
_MAX_STDERR = 4 << 20
_KEEP_STDERR = 64 << 10
#: For tools that hold a whole bitmap, as partclone does; less where the machine has little memory.
_MEMORY_BYTES = 384 << 20
_LEAST_MEMORY_BYTES = 64 << 20
_NOBODY = 65534
_READ_BYTES = 1 << 16

#: When memory runs out, a tool goes, not the agent.
_OOM_SCORE = "900"
_CAGE = (
    "choom", "-n", _OOM_SCORE, "--",
    "unshare", "--net", "--ipc", "--uts", "--",
    "prlimit", f"--cpu={int(TOOL_SECONDS)}", "--core=0", "--fsize=0", "--nofile=32",
)  # fmt: skip
_UNPRIVILEGED = (
    "setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all",
    "--no-new-privs", "--",
)  # fmt: skip
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TERM": "dumb"}
_numbers = itertools.count()


def memory_limit(proc: Path = Path("/proc")) -> int:
    """Bytes of address space for a tool: half of what is available, within bounds."""
    return min(_MEMORY_BYTES, max(_LEAST_MEMORY_BYTES, (available_memory(proc) or 0) // 2))


class ToolError(RuntimeError):
    """A tool is missing, failed, took too long or said too much."""


class ToolRun:
    """A running tool. Use it in a ``with`` block: it does not outlive it."""

    def __init__(self, command: Sequence[str], deadline: float) -> None:
        self.name = command[0]
        self.stderr = b""
        self.returncode: int | None = None
        self._deadline = min(deadline, time.monotonic() + TOOL_SECONDS)
        try:
            self._process = subprocess.Popen(
                [*_CAGE, f"--as={memory_limit()}", "--", *_UNPRIVILEGED, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise ToolError(f"{self.name} cannot be run: {error.strerror}") from error

    def __enter__(self) -> ToolRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            cast(BinaryIO, pipe).close()

    def lines(self) -> Iterator[bytes]:
        """Lines of the standard output as they come, without their ends. Raises ToolError, a bad end included."""
        rest = bytearray()
        for part in self._parts():
            rest += part
            if b"\n" in part:
                *whole, tail = bytes(rest).split(b"\n")
                yield from whole
                rest = bytearray(tail)
            if len(rest) > MAX_LINE:
                raise ToolError(f"{self.name} wrote a line of more than {MAX_LINE} bytes")
        if rest:
            yield bytes(rest)
        if self.returncode != 0:
            raise ToolError(self.failure())

    def output(self, limit: int = 1 << 20) -> bytes:
        """The whole standard output, up to ``limit`` bytes; see ``returncode`` then. Raises ToolError."""
        parts: list[bytes] = []
        for part in self._parts():
            parts.append(part)
            if sum(map(len, parts)) > limit:
                raise ToolError(f"{self.name} wrote more than {limit} bytes")
        return b"".join(parts)

    def failure(self) -> str:
        """What went wrong, in a few words."""
        said = [clean(line.decode("utf-8", "replace"), 160) for line in self.stderr.splitlines()]
        last = next((line for line in reversed(said) if line), "")
        return f"{self.name} ended with {self.returncode}" + (f" ({last})" if last else "")

    def _parts(self) -> Iterator[bytes]:
        """Pieces of the standard output; keeps the beginning of the standard error and, at the end, the exit code."""
        stdout = cast(BinaryIO, self._process.stdout)
        stderr = cast(BinaryIO, self._process.stderr)
        sizes = {stdout.fileno(): 0, stderr.fileno(): 0}
        with selectors.DefaultSelector() as selector:
            for pipe in (stdout, stderr):
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0.0, self._deadline - time.monotonic()))
                if not ready:
                    raise ToolError(f"{self.name} took too long")
                for key, _events in ready:
                    part = os.read(key.fd, _READ_BYTES)
                    if not part:
                        selector.unregister(key.fileobj)
                        continue
                    sizes[key.fd] += len(part)
                    if key.fd == stderr.fileno():
                        self.stderr += part[: max(0, _KEEP_STDERR - len(self.stderr))]
                    else:
                        yield part
                if sizes[stdout.fileno()] > MAX_OUTPUT or sizes[stderr.fileno()] > _MAX_STDERR:
                    raise ToolError(f"{self.name} said too much")
        try:
            self.returncode = self._process.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise ToolError(f"{self.name} took too long") from None


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where tools run: ``device`` is all that they can open; after ``deadline`` (monotonic seconds) they are killed."""

    device: Path
    deadline: float

    def run(self, *command: str) -> ToolRun:
        """Start a tool; ``{}`` in its arguments stands for the device. Raises ToolError."""
        return ToolRun([str(self.device) if word == "{}" else word for word in command], self.deadline)


@contextmanager
def sandbox(path: Path, start_bytes: int, size_bytes: int, deadline: float) -> Iterator[Sandbox]:
    """A sandbox for a part of a disk or image, gone when the block is left. Raises ToolError."""
    try:
        with read_only_loop(path, start_bytes, size_bytes) as loop:
            node = loop.with_name(f".coldmig-survey-{os.getpid()}-{next(_numbers)}")
            try:
                _make_node(node, loop)
                yield Sandbox(node, deadline)
            finally:
                node.unlink(missing_ok=True)
    except InspectionError as error:
        raise ToolError(f"the tools cannot be given a device: {error}") from error


def _make_node(node: Path, device: Path) -> None:
    """A second node of ``device`` for the tools' user, whom udev's rules for the first one do not concern."""
    try:
        os.mknod(node, stat.S_IFBLK | 0o600, device.stat().st_rdev)
        os.chown(node, _NOBODY, _NOBODY)
    except OSError as error:
        raise ToolError(f"the tools cannot be given a device: {error}") from error
