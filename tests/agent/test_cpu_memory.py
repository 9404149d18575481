# SPDX-License-Identifier: GPL-3.0-or-later
"""Processors and memory on trees as the kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_lab import write_tree

from coldmig_agent.discovery import cpu, memory

MIB, GIB = 1 << 20, 1 << 30


def cpu_tree(root: Path, places: list[tuple[int, int, int]], offline: frozenset[int] = frozenset()) -> Path:
    """One CPU for every (package, die, core)."""
    files: dict[str, str] = {}
    for number, (package, die, core) in enumerate(places):
        base = f"sys/devices/system/cpu/cpu{number}"
        if number in offline:
            files[f"{base}/online"] = "0\n"
            continue
        files[f"{base}/topology/physical_package_id"] = f"{package}\n"
        files[f"{base}/topology/die_id"] = f"{die}\n"
        files[f"{base}/topology/core_id"] = f"{core}\n"
        files[f"{base}/online"] = "1\n"
    files["sys/devices/system/cpu/cpufreq/policy"] = ""
    files["proc/cpuinfo"] = "processor\t: 0\nmodel name\t: Intel(R)  Xeon(R) CPU   E5-2680 v2\n"
    return write_tree(root, files)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)], (2, 2, 4)),
        ([(0, 0, 0), (0, 0, 0), (0, 0, 1), (0, 0, 1)], (1, 2, 4)),
        ([(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)], (2, 2, 4)),
        ([(-1, -1, 0), (-1, -1, 1)], (1, 2, 2)),
        ([(-1, -1, -1), (-1, -1, -1)], (1, 2, 2)),
        ([(0, 0, 0), (3, 0, 0), (3, 0, 1)], (2, 2, 3)),
    ],
    ids=["two sockets", "hyper-threading", "two dies each", "no package", "no topology", "uneven sockets"],
)
def test_sockets_cores_and_threads(
    tmp_path: Path, places: list[tuple[int, int, int]], expected: tuple[int, int, int]
) -> None:
    root = cpu_tree(tmp_path, places)
    found = cpu.read(root / "sys", root / "proc")
    assert (found.sockets, found.cores_per_socket, found.threads) == expected
    assert found.model == "Intel(R) Xeon(R) CPU E5-2680 v2"


def test_processors_that_are_offline_do_not_count(tmp_path: Path) -> None:
    root = cpu_tree(tmp_path, [(0, 0, 0), (0, 0, 1), (0, 0, 2)], offline=frozenset({2}))
    assert cpu.read(root / "sys", root / "proc").threads == 2


def test_this_machine_has_at_least_one_core() -> None:
    found = cpu.read(Path("/sys"), Path("/proc"))
    assert found.sockets >= 1
    assert found.cores_per_socket >= 1


@pytest.mark.parametrize(
    ("firmware", "blocks", "ram", "usable", "expected"),
    [
        (256 * GIB, 0, 0, 251 * GIB, 256 * GIB),
        (64 * GIB, 32 * GIB, 0, 31 * GIB, 32 * GIB),
        (16 * GIB, 32 * GIB, 0, 31 * GIB, 32 * GIB),
        (None, 24 * GIB, 0, int(23.54 * GIB), 24 * GIB),
        (None, 0, 768 * MIB - 4096, 729 * MIB, 768 * MIB),
        (None, 0, 0, 1900 * MIB, 1920 * MIB),
        (768 * MIB, 0, 0, 700 * MIB, 768 * MIB),
    ],
    ids=["firmware", "firmware too much", "firmware too little", "blocks", "iomem", "only MemTotal", "small VM"],
)
def test_the_most_trustworthy_figure_is_taken(
    firmware: int | None, blocks: int, ram: int, usable: int, expected: int
) -> None:
    assert memory.choose(firmware, blocks, ram, usable) == expected


def test_memory_blocks_are_counted_with_their_size(tmp_path: Path) -> None:
    files = {"sys/devices/system/memory/block_size_bytes": "8000000\n", "proc/meminfo": "MemTotal:     1000000 kB\n"}
    files |= {f"sys/devices/system/memory/memory{n}/online": "1\n" for n in range(8)}
    files["sys/devices/system/memory/memory8/online"] = "0\n"
    root = write_tree(tmp_path, files)
    assert memory.read(root / "sys", root / "proc", None) == GIB


def test_hidden_addresses_are_no_memory() -> None:
    assert memory.system_ram("00000000-00000000 : System RAM\n00000000-00000000 : Reserved\n") == 0
    assert memory.system_ram("00001000-0009ffff : System RAM\n  00001000-00002000 : Kernel code\n"
                             "00100000-3fffffff : System RAM\n") == 0x9F000 + 0x3FF00000  # fmt: skip
