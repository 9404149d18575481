# SPDX-License-Identifier: GPL-3.0-or-later
"""Sockets and cores from the kernel's topology: what is in use, not what the board could hold."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from coldmig_agent.interfaces import read_text
from coldmig_agent.machine import Cpu
from coldmig_agent.text import clean

MAX_CPUS = 8192


def _number(path: Path) -> int:
    text = read_text(path)
    try:
        return int(text) if text else -1
    except ValueError:
        return -1


def model_name(cpuinfo: str) -> str:
    """First ``model name`` of /proc/cpuinfo."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return clean(re.sub(r"\s+", " ", found[1]), 128) if found else ""


def read(sys: Path, proc: Path) -> Cpu:
    """Count online CPUs by (package, die, core); die numbers repeat in every package.

    Where hypervisors give no topology (package −1) everything counts as one socket. With packages of different sizes
    the result is rounded up, so that the new machine has no core less.
    """
    packages: dict[int, set[tuple[int, int]]] = defaultdict(set)
    threads = 0
    root = sys / "devices/system/cpu"
    entries = sorted(root.glob("cpu[0-9]*"))[:MAX_CPUS] if root.is_dir() else []
    for entry in entries:
        topology = entry / "topology"
        if read_text(entry / "online") == "0" or not topology.is_dir():
            continue
        threads += 1
        package = max(0, _number(topology / "physical_package_id"))
        core = _number(topology / "core_id")
        packages[package].add((_number(topology / "die_id"), core if core >= 0 else -threads))
    model = model_name(read_text(proc / "cpuinfo", 1 << 16) or "")
    if not packages:
        count = max(1, len(entries))
        return Cpu(sockets=1, cores_per_socket=count, threads=count, model=model)
    cores = sum(len(found) for found in packages.values())
    return Cpu(sockets=len(packages), cores_per_socket=-(-cores // len(packages)), threads=threads, model=model)
