# SPDX-License-Identifier: GPL-3.0-or-later
"""Sockets and cores from the kernel's topology: what is in use, not what the board could hold."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from coldmig_agent.discovery.dmi import Socket
from coldmig_agent.interfaces import read_text
from coldmig_agent.machine import Cpu
from coldmig_agent.text import clean

MAX_CPUS = 8192
#: The kernel's 16-bit "unknown" on some architectures; real numbers are far below.
_UNKNOWN = 65535


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


def _core(topology: Path, *, placed: bool, number: int) -> tuple[object, ...]:
    """What tells a core from the others of its package.

    Core numbers repeat in every package, so where the package is not known the list of its threads does.
    """
    core = _number(topology / "core_id")
    if not placed and (siblings := read_text(topology / "core_cpus_list")):
        return ("threads", siblings)
    return (_number(topology / "die_id"), core) if 0 <= core < _UNKNOWN else ("thread", number)


def _packages(sys: Path) -> tuple[dict[int, set[tuple[object, ...]]], int, int]:
    """Cores by package, the number of threads that are online, and that of all CPUs."""
    packages: dict[int, set[tuple[object, ...]]] = defaultdict(set)
    threads = 0
    root = sys / "devices/system/cpu"
    entries = sorted(root.glob("cpu[0-9]*"))[:MAX_CPUS] if root.is_dir() else []
    for entry in entries:
        topology = entry / "topology"
        if read_text(entry / "online") == "0" or not topology.is_dir():
            continue
        threads += 1
        package = _number(topology / "physical_package_id")
        placed = 0 <= package < _UNKNOWN
        packages[package if placed else 0].add(_core(topology, placed=placed, number=threads))
    return packages, threads, len(entries)


def read(sys: Path, proc: Path, sockets: Sequence[Socket] = ()) -> Cpu:
    """Count online CPUs by (package, die, core); die numbers repeat in every package.

    Where a hypervisor gives no topology (package −1) everything counts as one socket. With packages of different sizes
    the result is rounded up, so that the new machine has no core less. ``sockets`` are the firmware's: they decide only
    where the kernel's view cannot be that of a board, with every core in a socket of its own or all in none, and only
    if the cores can be shared out evenly among them.
    """
    packages, threads, count = _packages(sys)
    model = model_name(read_text(proc / "cpuinfo", 1 << 16) or "")
    if not packages:
        return Cpu(sockets=1, cores_per_socket=max(1, count), threads=max(1, count), model=model)
    cores = sum(len(found) for found in packages.values())
    found = len(packages)
    strange = cores > 1 and found in {1, cores}
    if strange and _firmware_fits(sockets, cores):
        found = len(sockets)
    return Cpu(sockets=found, cores_per_socket=-(-cores // found), threads=threads, model=model)


def _firmware_fits(sockets: Sequence[Socket], cores: int) -> bool:
    """Whether the firmware's sockets have exactly the cores that the kernel sees."""
    return bool(sockets) and sum(socket.enabled or socket.cores or 0 for socket in sockets) == cores
