# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that end with the tests, ports, and waiting for conditions."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = ROOT / "collections/ansible_collections/cda/coldmig"
GATEWAY_SOURCE = COLLECTION / "roles/gateway/files/gateway/src"
AGENT_SOURCE = COLLECTION / "roles/iso/files/agent"
#: Long enough for a loaded machine; nothing waits longer for something that takes a second on an idle one.
PATIENCE = 120.0

_T = TypeVar("_T")


class SupportError(RuntimeError):
    """A part of the laboratory did not do what the test needs; the text ends with its log."""


def tail(path: Path, lines: int = 40) -> str:
    """The last lines of a log."""
    if not path.exists():
        return "(no log)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that is free now. Somebody else may take it before it is used; then the user of it says so."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(
    condition: Callable[[], _T], what: str | Callable[[], str], seconds: float = PATIENCE, step: float = 0.05
) -> _T:
    """The first value of ``condition`` that is true. Raises SupportError, naming ``what`` was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise SupportError(f"waited {seconds:.0f} s in vain: {what if isinstance(what, str) else what()}")
        time.sleep(step)


def python_path(*parts: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment in which Python finds the packages below ``parts`` first."""
    base = dict(os.environ if env is None else env)
    return {**base, "PYTHONPATH": os.pathsep.join([*map(str, parts), *filter(None, [base.get("PYTHONPATH")])])}


class Service:
    """A process in the background, leader of a process group of its own, with one log for both of its outputs."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        # The kernel ends it when our thread ends, so only the main thread may ask for that.
        guard = ["setpriv", "--pdeathsig", "TERM"] if threading.current_thread() is threading.main_thread() else []
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*guard, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit status. Raises SupportError when it does not end."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise SupportError(f"{self.name} has not ended after {seconds:.0f} s:\n{tail(self.log)}") from None

    def wait_until(self, ready: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait until the service is ready; SupportError with its log when it ends or takes too long."""

        def done() -> bool:
            if not self.alive:
                raise SupportError(f"{self.name} ended with status {self._process.returncode}:\n{tail(self.log)}")
            return ready()

        wait_until(done, lambda: f"{self.name} is not ready:\n{tail(self.log)}", seconds)

    def signal(self, number: int) -> None:
        """Send a signal to it alone."""
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it, gently first."""
        if self.alive:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End its whole group at once, as loss of power would."""
        if self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
