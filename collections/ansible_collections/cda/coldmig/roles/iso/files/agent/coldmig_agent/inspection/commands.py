# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the programs that put devices together: with a time limit, bounded memory and output, and without a network.

They need the privileges to do so, and read what a guest may have made up; so they get no others than those.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, cast

from coldmig_agent.inspection.errors import InspectionError, OutOfTimeError
from coldmig_agent.text import clean

#: For one program. All of them are quick where the disks are.
SECONDS = 30.0
MAX_OUTPUT = 1 << 20
_MEMORY_BYTES = 256 << 20
_KILLED_SECONDS = 5.0
#: No libudev hand-shakes: the inspection makes its own device nodes, and udev's rules leave these devices alone.
_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
    "DM_DISABLE_UDEV": "1",
    "MDADM_NO_UDEV": "1",
    "LVM_SUPPRESS_FD_WARNINGS": "1",
}
_CAGE = (
    "choom", "-n", "900", "--",
    "unshare", "--net", "--ipc", "--uts", "--",
    "prlimit", f"--as={_MEMORY_BYTES}", "--core=0", "--nofile=1024", "--",
    "setpriv", "--bounding-set=-all,+sys_admin,+mknod,+dac_override,+ipc_lock,+fowner,+chown", "--no-new-privs", "--",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Done:
    """A program that has ended: exit status, output, and the last line of its complaints."""

    status: int
    output: str
    complaint: str


def run(command: Sequence[str], seconds: float, *, caged: bool = True, more: Mapping[str, str] | None = None) -> Done:
    """Run a program; its exit status is the caller's business.

    Raises InspectionError when it cannot be run or says too much, OutOfTimeError after ``seconds``.
    """
    if seconds <= 0:
        raise OutOfTimeError(f"no time is left for {command[0]}")
    limit = min(seconds, SECONDS)
    try:
        process = subprocess.Popen(
            [*_CAGE, *command] if caged else list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**_ENVIRONMENT, **(more or {})},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise InspectionError(f"{command[0]} cannot be run: {error.strerror}") from error
    try:
        output, errors = _collect(process, command[0], time.monotonic() + limit)
    finally:
        end(process)
    said = [clean(line, 160) for line in errors.decode("utf-8", "replace").splitlines()]
    lines = [line for line in said if line and not line.startswith(("WARNING", "Udev is running"))]
    return Done(process.returncode or 0, output.decode("utf-8", "replace"), lines[-1] if lines else "")


def check(command: Sequence[str], seconds: float, *, caged: bool = True) -> str:
    """The output of a program that has to succeed. Raises InspectionError."""
    done = run(command, seconds, caged=caged)
    if done.status != 0:
        words = " ".join(word for word in command[:2] if not word.startswith("-"))
        raise InspectionError(f"{words} ended with {done.status}" + (f" ({done.complaint})" if done.complaint else ""))
    return done.output


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with all of its session, unless it has ended; it may be stuck in the kernel and stay."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_KILLED_SECONDS)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _collect(process: subprocess.Popen[bytes], name: str, deadline: float) -> tuple[bytes, bytes]:
    """Standard output and standard error until both end, and the process with them."""
    parts: dict[int, bytearray] = {}
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            stream = cast(BinaryIO, pipe)
            parts[stream.fileno()] = bytearray()
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise OutOfTimeError(f"{name} took too long")
            for key, _events in ready:
                part = os.read(key.fd, 1 << 16)
                if not part:
                    selector.unregister(key.fileobj)
                parts[key.fd] += part
                if len(parts[key.fd]) > MAX_OUTPUT:
                    raise InspectionError(f"{name} said too much")
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise OutOfTimeError(f"{name} took too long") from None
    output, errors = (bytes(part) for part in parts.values())
    return output, errors
