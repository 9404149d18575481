# SPDX-License-Identifier: GPL-3.0-or-later
"""Processors and memory on trees as the kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_lab import write_tree

from coldmig_agent.discovery import cpu, dmi, memory

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


def socket(cores: int, enabled: int | None = None) -> dmi.Socket:
    return dmi.Socket(cores, enabled or cores, 2 * cores)


@pytest.mark.parametrize(
    ("places", "sockets", "expected"),
    [
        ([(n, 0, 0) for n in range(8)], [socket(4), socket(4)], (2, 4)),
        ([(n, 0, 0) for n in range(8)], [socket(1)] * 8, (8, 1)),
        ([(n, 0, 0) for n in range(8)], [], (8, 1)),
        ([(n, 0, 0) for n in range(8)], [socket(16), socket(16)], (8, 1)),
        ([(-1, -1, n) for n in range(8)], [socket(8, 4), socket(8, 4)], (2, 4)),
        ([(n // 4, 0, n) for n in range(8)], [socket(2)] * 4, (2, 4)),
        ([(65535, 0, n) for n in range(4)], [dmi.Socket()], (1, 4)),
    ],
    ids=[
        "each in its own socket, firmware knows better",
        "each in its own socket, firmware too",
        "each in its own socket, no firmware",
        "firmware speaks of another machine",
        "no package, cores switched off in setup",
        "a plain topology is never corrected",
        "unknown package, firmware without counts",
    ],
)
def test_the_firmwares_sockets_only_check_a_strange_topology(
    tmp_path: Path, places: list[tuple[int, int, int]], sockets: list[dmi.Socket], expected: tuple[int, int]
) -> None:
    root = cpu_tree(tmp_path, places)
    found = cpu.read(root / "sys", root / "proc", sockets)
    assert (found.sockets, found.cores_per_socket) == expected


def test_without_packages_cores_with_equal_numbers_are_told_apart_by_their_threads(tmp_path: Path) -> None:
    root = cpu_tree(tmp_path, [(-1, -1, 0), (-1, -1, 1), (-1, -1, 0), (-1, -1, 1)])
    for number, siblings in enumerate(("0", "1", "2", "3")):
        write_tree(root, {f"sys/devices/system/cpu/cpu{number}/topology/core_cpus_list": f"{siblings}\n"})
    assert cpu.read(root / "sys", root / "proc").cores_per_socket == 4
    for number, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        write_tree(root, {f"sys/devices/system/cpu/cpu{number}/topology/core_cpus_list": f"{siblings}\n"})
    assert cpu.read(root / "sys", root / "proc").cores_per_socket == 2


def test_a_machine_without_topology_counts_its_processors(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {f"sys/devices/system/cpu/cpu{n}/uevent": "" for n in range(3)} | {"proc/": ""})
    found = cpu.read(root / "sys", root / "proc")
    assert (found.sockets, found.cores_per_socket, found.threads) == (1, 3, 3)


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


@pytest.mark.parametrize(("firmware", "expected"), [(None, 128 * MIB), (97 * MIB, 100 * MIB)])
def test_memory_comes_in_steps_of_four_mebibytes(tmp_path: Path, firmware: int | None, expected: int) -> None:
    root = write_tree(tmp_path, {"proc/meminfo": "MemTotal:       98000 kB\n", "sys/": ""})
    assert memory.read(root / "sys", root / "proc", firmware) == expected


def test_a_machine_that_tells_nothing_has_memory_that_the_site_takes(tmp_path: Path) -> None:
    assert memory.read(tmp_path, tmp_path, None) == 4 * MIB


@pytest.mark.parametrize("size", ["0", "-1", "nonsense", "ffffffffffffffff"])
def test_a_block_size_that_cannot_be_is_no_memory(tmp_path: Path, size: str) -> None:
    files = {"sys/devices/system/memory/block_size_bytes": size, "sys/devices/system/memory/memory0/online": "1"}
    root = write_tree(tmp_path, files | {"proc/meminfo": "MemTotal:     1000000 kB\n"})
    assert memory.read(root / "sys", root / "proc", None) == 1024 * MIB


def test_hidden_addresses_are_no_memory() -> None:
    assert memory.system_ram("00000000-00000000 : System RAM\n00000000-00000000 : Reserved\n") == 0
    assert memory.system_ram("00001000-0009ffff : System RAM\n  00001000-00002000 : Kernel code\n"
                             "00100000-3fffffff : System RAM\n") == 0x9F000 + 0x3FF00000  # fmt: skip
