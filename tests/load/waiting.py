# SPDX-License-Identifier: GPL-3.0-or-later
"""Many machines that wait for their confirmation: each with the agent's own client, polling as the site tells it.

usage: python waiting.py SETTINGS.json COUNT   (prints one line when all are registered, then one line a second)
"""

from __future__ import annotations

import heapq
import json
import random
import socket
import sys
import threading
import time
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from coldmig_agent.api import ControlClient
from coldmig_agent.config import Config, load_config
from coldmig_agent.machine import Cpu, Disk, Guest, Machine
from coldmig_agent.site import Site, SiteError, UnreachableError

_THREADS = 24
_here = threading.local()
_connect = socket.create_connection


def _from_its_address(target: tuple[str, int], timeout: float | None = None, _source: object = None) -> socket.socket:
    """Every machine has an address of its own, and the site limits what one address may have open."""
    return _connect(target, timeout, (f"127.2.{_here.number // 250}.{_here.number % 250 + 1}", 0))


def machine(number: int) -> Machine:
    """A machine like many others."""
    disk = Disk(
        index=0, path="/dev/sda", size_bytes=64 << 30, logical_sector=512, serial=f"S{number}", model="disk", wwn="",
        rotational=False, table=None, partitions=(),
    )  # fmt: skip
    return Machine(
        agent_version="0", smbios_uuid=str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))), vendor="Acme", product="M",
        serial=f"M{number}", firmware="bios", secure_boot=None, live_boot_firmware="bios", cpu=Cpu(1, 4, 8, "CPU"),
        memory_bytes=16 << 30, nics=(), disks=(disk,), guest=Guest(), addresses=(f"10.0.{number // 250}.1",),
        name=f"machine-{number}",
    )  # fmt: skip


class Waiting:
    """One machine."""

    def __init__(self, site: Site, config: Config, number: int) -> None:
        self._client = ControlClient(site)
        self._credential = config.credential
        self._number = number
        self._token = ""

    def register(self) -> None:
        """As at the boot."""
        _here.number = self._number
        key = f"boot-of-machine-{self._number}"
        while not self._token:
            try:
                self._token = self._client.enrol(self._credential, machine(self._number), key).session_token
            except UnreachableError:
                continue  # as the agent does, with the same key; it is not what is measured

    def poll(self) -> float:
        """Ask once; the seconds until the next time."""
        _here.number = self._number
        return float(self._client.session(self._token).poll_seconds)


def main() -> int:
    """Registers all, then polls until it is ended."""
    socket.create_connection = _from_its_address  # type: ignore[assignment]
    config = load_config(Path(sys.argv[1]))
    count = int(sys.argv[2])
    site = Site(config.site)
    machines = [Waiting(site, config, number) for number in range(count)]
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(Waiting.register, machines))
    print(json.dumps({"registered": count}), flush=True)
    due: list[tuple[float, int]] = []
    lock = threading.Lock()
    taken: deque[float] = deque()
    failed: deque[str] = deque()
    # They were not all switched on in the same second.
    for number in range(count):
        heapq.heappush(due, (time.monotonic() + random.uniform(0, count / 50), number))

    def work() -> None:
        while True:
            with lock:
                at, number = heapq.heappop(due)
            time.sleep(max(0.0, at - time.monotonic()))
            began = time.monotonic()
            try:
                pause = machines[number].poll()
                taken.append(time.monotonic() - began)
            except SiteError as error:
                failed.append(str(error))
                pause = 5.0
            with lock:
                heapq.heappush(due, (time.monotonic() + pause, number))

    for _ in range(_THREADS):
        threading.Thread(target=work, daemon=True).start()
    while True:
        time.sleep(1)
        polls = [taken.popleft() for _ in range(len(taken))]
        errors = [failed.popleft() for _ in range(len(failed))]
        print(json.dumps({"polls": polls, "errors": errors}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
