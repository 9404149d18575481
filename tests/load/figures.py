# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints what the load tests only compare: absolute times, rates and memory on this machine. Takes root.

usage: PYTHONPATH=tests:agent:gateway/src python -m load.figures [fifty] [waiting] [large]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from load.lab import (
    GIB,
    MIB,
    TIB,
    Fleet,
    Memory,
    cpu_seconds,
    gateway_memory,
    processes_of,
    random_file,
    shares,
    sparse_file,
    staged,
    started,
)  # fmt: skip
from load.test_waiting import MACHINES, SECONDS, answer_time, polled, waiting
from support.memory_disk import huge_memory_disk


def milliseconds(values: list[float]) -> str:
    """Median and 95th percentile."""
    ordered = sorted(values)
    return (
        f"median {ordered[len(ordered) // 2] * 1e3:.1f} ms, p95 {ordered[int(0.95 * (len(ordered) - 1))] * 1e3:.1f} ms"
    )


def fifty(memory: Path, directory: Path) -> None:
    """Fifty copies of random data at once."""
    count, megabytes = 50, 96
    disk = random_file(memory / "disk.img", megabytes)
    with started(memory / "site") as gateway:
        isos = [gateway.iso(f"machine-{number}", auto_start=False) for number in range(count)]
        with Fleet(directory, [(iso, [disk]) for iso in isos]) as fleet:
            migrations = fleet.migrations()
            pids = processes_of(gateway.service.pid)
            with gateway_memory(gateway) as site, Memory(*fleet.pids, together=False) as agents:
                before, begun = cpu_seconds(*pids), time.monotonic()
                arrived = shares(gateway, migrations, megabytes * MIB, until=0.8)
                total = sum(staged(gateway, migration) for migration in migrations)
                cpu, seconds = cpu_seconds(*pids) - before, time.monotonic() - begun
    mean = sum(arrived) / count
    print(f"{count} copies: slowest {min(arrived) / mean:.2f}, fastest {max(arrived) / mean:.2f} of the mean")
    print(f"  gateway {cpu / total * GIB:.2f} core-s/GiB, {total / MIB / seconds:.0f} MiB/s with the limited start")
    print(f"  gateway {site.first_mib:.0f} MiB, at most {site.peak_mib:.0f}; largest agent {agents.peak_mib:.0f} MiB")


def many_waiting(memory: Path, directory: Path) -> None:
    """A thousand machines that wait."""
    with started(memory / "site") as gateway:
        idle = [answer_time(gateway) for _ in range(200)]
        print(f"idle site: a provider's request (with its TLS handshake) {milliseconds(idle)}")
        with waiting(directory, gateway.iso("waiting", auto_start=False), MACHINES) as machines:
            pids = processes_of(gateway.service.pid)
            # The first round is asked for faster than a thousand are told to.
            for _ in range(SECONDS):
                polled(machines)
            before, begun, polls, answers = cpu_seconds(*pids), time.monotonic(), list[float](), list[float]()
            for _ in range(SECONDS):
                answers += [answer_time(gateway) for _ in range(10)]
                polls += polled(machines)[0]
            load = (cpu_seconds(*pids) - before) / (time.monotonic() - begun)
            print(f"{MACHINES} waiting: polls {milliseconds(polls)} ({len(polls) / SECONDS:.0f}/s), {load:.2f} cores")
            print(f"  a provider's request {milliseconds(answers)}; {gateway_memory(gateway).now_mib():.0f} MiB")


def large(memory: Path, directory: Path) -> None:
    """A sparse disk of 16 TiB."""
    disk = sparse_file(memory / "disk.img", 16 * TIB - 512, [0, 5 * TIB, 16 * TIB - 4096])
    with started(memory / "site") as gateway, gateway_memory(gateway) as site:
        begun = time.monotonic()
        with Fleet(directory, [(gateway.iso("large"), [disk])]) as fleet, Memory(*fleet.pids) as agent:
            (migration,) = fleet.migrations()
            fleet.finish()
            gateway.wait_for(migration, "copied")
    print(f"16 TiB sparse: {time.monotonic() - begun:.1f} s from boot to verified, agent {agent.peak_mib:.0f} MiB,")
    print(f"  gateway {site.first_mib:.0f} MiB, at most {site.peak_mib:.0f}")


def main() -> int:
    """All of them, or those that are named."""
    parts = {"fifty": fifty, "waiting": many_waiting, "large": large}
    for name in sys.argv[1:] or parts:
        with huge_memory_disk() as memory, tempfile.TemporaryDirectory(prefix="coldmig-figures-") as directory:
            parts[name](memory, Path(directory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
