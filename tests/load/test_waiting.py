# SPDX-License-Identifier: GPL-3.0-or-later
"""A thousand machines that wait for their confirmation do not make the API slow."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from load.lab import gateway_memory, started
from support.gateway import Gateway
from support.processes import AGENT_SOURCE, GATEWAY_SOURCE, python_path

MACHINES = 1000
#: Polls of this many seconds: every machine asks once, as the site tells a thousand to.
SECONDS = 24
_PROBES = 300


@contextmanager
def waiting(directory: Path, iso: dict[str, Any], count: int) -> Iterator[subprocess.Popen[str]]:
    """Machines that have registered and poll."""
    settings = directory / "iso.json"
    settings.write_text(json.dumps(iso))
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("waiting.py")), str(settings), str(count)],
        env=python_path(AGENT_SOURCE, GATEWAY_SOURCE),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"registered": count}
        yield process
    finally:
        process.kill()
        process.wait()


def polled(machines: subprocess.Popen[str]) -> tuple[list[float], list[str]]:
    """Times and errors of the polls of the last second."""
    assert machines.stdout is not None
    line = json.loads(machines.stdout.readline())
    return line["polls"], line["errors"]


def answer_time(gateway: Gateway) -> float:
    """Seconds of one request of a provider, with a connection of its own."""
    begun = time.perf_counter()
    gateway.call("GET", "/migrations?limit=20")
    return time.perf_counter() - begun


def percentile(values: list[float], part: float) -> float:
    """The value below which that part of the values lies."""
    return sorted(values)[int(part * (len(values) - 1))]


def test_the_api_answers_nearly_as_fast_as_that_of_an_idle_site(tmp_path: Path, in_memory: Path) -> None:
    with started(in_memory / "idle") as idle, started(in_memory / "busy") as busy:
        iso = busy.iso("waiting", auto_start=False)
        idle.iso("nobody", auto_start=False)
        with waiting(tmp_path, iso, MACHINES) as machines:
            times: dict[Gateway, list[float]] = {idle: [], busy: []}
            polls: list[float] = []
            errors: list[str] = []
            for _second in range(SECONDS):
                # In turns, so that whatever else the machine does happens to both.
                for _ in range(_PROBES // SECONDS):
                    for gateway, found in times.items():
                        found.append(answer_time(gateway))
                times_of_polls, refused = polled(machines)
                polls += times_of_polls
                errors += refused
            memory = gateway_memory(busy).now_mib()
    # One in a thousand may wait in vain on a machine that does much else.
    assert len(errors) * 1000 <= len(polls), errors[:3]
    # They ask when they are told to: not much more often than fifty times a second, once all have asked twice.
    assert MACHINES <= len(polls) <= 4 * 50 * SECONDS
    assert percentile(times[busy], 0.5) <= 4 * percentile(times[idle], 0.5)
    assert percentile(times[busy], 0.95) <= 5 * percentile(times[idle], 0.95)
    assert memory <= 512
