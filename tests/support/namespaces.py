# SPDX-License-Identifier: GPL-3.0-or-later
"""Two network namespaces and the cable between them (root only): the gateway in one, agents in the other."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_GATEWAY_ADDRESS = "10.213.7.1"
_AGENT_ADDRESS = "10.213.7.2"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Cable:
    """A context manager. ``gateway`` and ``agent`` are prefixes for commands that shall run at one of the two ends."""

    address = _GATEWAY_ADDRESS

    def __init__(self) -> None:
        stem = f"cm{os.getpid()}"
        self._names = (f"{stem}g", f"{stem}a")
        self.gateway = ["ip", "netns", "exec", self._names[0]]
        self.agent = ["ip", "netns", "exec", self._names[1]]

    def __enter__(self) -> Cable:
        here, there = self._names
        try:
            for name in self._names:
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
            _ip("link", "add", "name", "cable", "netns", here, "type", "veth", "peer", "name", "cable", "netns", there)
            for name, address in ((here, _GATEWAY_ADDRESS), (there, _AGENT_ADDRESS)):
                _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
                _ip("-n", name, "link", "set", "cable", "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        for name in self._names:
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", name)

    def pull(self) -> None:
        """Pull it out at the gateway's end: nothing is told to anybody."""
        _ip("-n", self._names[0], "link", "set", "cable", "down")

    def plug(self) -> None:
        """Put it in again."""
        _ip("-n", self._names[0], "link", "set", "cable", "up")

    def limit(self, bytes_per_second: int) -> None:
        """Slow down what agents send."""
        rate = ["rate", f"{bytes_per_second * 8}bit", "burst", "64kb", "latency", "50ms"]
        argv = ["tc", "-n", self._names[1], "qdisc", "replace", "dev", "cable", "root", "tbf", *rate]
        subprocess.run(argv, check=True, capture_output=True)

    def connect(self, address: tuple[str, int]) -> socket.socket:
        """A TCP connection made at the gateway's end, for the test's own requests (see support.api.Connect)."""
        found: list[socket.socket | OSError] = []

        def enter() -> None:
            # Threads have network namespaces of their own, and a socket stays where it was made.
            with Path(f"/run/netns/{self._names[0]}").open("rb") as file:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(file.fileno(), _CLONE_NEWNET):
                    found.append(OSError(ctypes.get_errno(), "setns"))
                    return
            try:
                found.append(socket.create_connection(address, 60))
            except OSError as error:
                found.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if isinstance(found[0], OSError):
            raise found[0]
        return found[0]
