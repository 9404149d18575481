# SPDX-License-Identifier: GPL-3.0-or-later
"""What the load tests share: a fleet of agents, the memory of processes, and how much of each copy has arrived."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.gateway import Gateway
from support.processes import AGENT_SOURCE, GATEWAY_SOURCE, PATIENCE, SupportError, python_path, wait_until

MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40
#: The front asks for the limits every two seconds.
LIMITS_SECONDS = 3.0
_FLEET = Path(__file__).with_name("fleet.py")


class Fleet:
    """Real agents, each with its own settings and disks. A context manager: leaving it ends those that still run."""

    def __init__(self, directory: Path, jobs: Sequence[tuple[Mapping[str, Any], Sequence[Path]]]) -> None:
        """Starts one agent for each pair of ISO settings and images."""
        self._directories = [directory / f"agent-{number}" for number in range(len(jobs))]
        listed = []
        for path, (iso, images) in zip(self._directories, jobs, strict=True):
            path.mkdir(parents=True)
            (path / "config.json").write_text(json.dumps(iso))
            names = [str(image) for image in images]
            listed.append({"directory": str(path), "config": str(path / "config.json"), "images": names})
        (directory / "jobs.json").write_text(json.dumps(listed))
        self._process = subprocess.Popen(
            [sys.executable, str(_FLEET), str(directory / "jobs.json")],
            env=python_path(AGENT_SOURCE, GATEWAY_SOURCE) | {"MALLOC_ARENA_MAX": "2"},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.pids: list[int] = json.loads(self._process.stdout.readline())

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, 9)
        self._process.wait()

    def migrations(self) -> list[str]:
        """The migrations that the agents have become, in their order; waits for the registrations."""

        def found() -> list[str]:
            seen = [re.search(r"registered as migration ([0-9a-f-]{36})", self.text(n)) for n in range(len(self.pids))]
            return [match[1] for match in seen if match is not None]

        wait_until(lambda: len(found()) == len(self.pids), lambda: f"registrations:\n{self.text(0)}")
        return found()

    def text(self, number: int) -> str:
        """What stands on the console of one agent."""
        path = self._directories[number] / "console.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def finish(self, seconds: float = PATIENCE) -> None:
        """Wait until all have done their work. Raises SupportError if one has not, or has failed."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise SupportError(f"the agents have not ended after {seconds:.0f} s:\n{self.text(0)}") from None
        if status:
            bad = [n for n in range(len(self.pids)) if "You can power off" not in self.text(n)]
            raise SupportError(f"{len(bad)} agents failed:\n{self.text(bad[0]) if bad else ''}")


def status_kib(pid: int, field: str) -> int:
    """A field of ``/proc/PID/status`` in KiB; 0 when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def processes_of(pid: int) -> list[int]:
    """A process and its children."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(grandchild for child in children for grandchild in processes_of(int(child)))]


class Memory:
    """The greatest resident size of some processes together, looked at all the time while the context lasts."""

    def __init__(self, *pids: int, together: bool = True) -> None:
        """With ``together`` the sum counts, without it the greatest single one."""
        self._pids = pids
        self._fold = sum if together else max
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.first_mib = self.now_mib()
        self.peak_mib = self.first_mib

    def now_mib(self) -> float:
        """Mebibytes now."""
        return self._fold([status_kib(pid, "VmRSS") for pid in self._pids]) / 1024

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.peak_mib = max(self.peak_mib, self.now_mib())


def gateway_memory(gateway: Gateway) -> Memory:
    """The memory of both processes of the gateway."""
    return Memory(*processes_of(gateway.service.pid))


def staged(gateway: Gateway, migration: str) -> int:
    """Bytes of a migration that have arrived."""
    return sum(path.stat().st_size for path in (gateway.staging / migration).glob("disk-*.pack"))


def cpu_seconds(*pids: int) -> float:
    """User and system time of processes so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def random_file(path: Path, megabytes: int, seed: int = 1) -> Path:
    """Bytes that no codec shrinks; a chunk returns after 64 others, which nothing here makes use of."""
    chance = random.Random(seed)
    chunks = [chance.randbytes(MIB) for _ in range(min(megabytes, 64))]
    with path.open("wb") as file:
        for number in range(megabytes):
            file.write(chunks[number % len(chunks)])
    return path


def sparse_file(path: Path, size: int, data_at: Sequence[int] = ()) -> Path:
    """A file of ``size`` bytes with 4 KiB of data at some offsets."""
    chance = random.Random(size)
    with path.open("wb") as file:
        file.truncate(size)
        for offset in data_at:
            file.seek(offset)
            file.write(chance.randbytes(min(4096, size - offset)))
    return path


@contextmanager
def started(directory: Path, **options: Any) -> Iterator[Gateway]:
    """A running gateway that lets everybody register."""
    with Gateway(directory, **options).init().start() as gateway:
        gateway.activate()
        yield gateway


def confirm_all(gateway: Gateway, migrations: Sequence[str]) -> None:
    """Confirm waiting migrations at about the same moment."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda migration: gateway.call("POST", f"/migrations/{migration}/confirm"), migrations))


def shares(gateway: Gateway, migrations: Sequence[str], size: int, *, until: float) -> list[int]:
    """What arrived of each copy from the moment when all ran until the first was nearly done.

    ``size`` is what arrives of a whole copy, ``until`` the part of it that ends the measurement. The site is held back
    until all have begun, for they do not begin at the same moment.
    """

    def sizes() -> list[int]:
        return [staged(gateway, migration) for migration in migrations]

    gateway.call("PATCH", "/site/limits", {"bandwidth_limit": 32 * MIB})
    time.sleep(LIMITS_SECONDS)
    confirm_all(gateway, migrations)
    wait_until(lambda: min(sizes()) > 64 << 10, "the first bytes of every copy")
    gateway.call("PATCH", "/site/limits", {"bandwidth_limit": None})
    time.sleep(LIMITS_SECONDS)
    before = sizes()
    wait_until(lambda: max(sizes()) >= until * size, "the first copy to be nearly done")
    return [late - early for late, early in zip(sizes(), before, strict=True)]
