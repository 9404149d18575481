# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark itself works: tiny disks, one round, every kind of link, and tables that are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.benchmarks import disks, ours, peers, report
from tests.benchmarks.meter import Measured, cpu_of, cpu_of_ended_children

ROOT = Path(__file__).resolve().parents[2]
CASES = ("loopback/ext4", "1gbit/ntfs", "100mbit+50ms/half", "1gbit/ext4-reboot")


def measured(cpu: float, wire: int, wall: float = 2.0) -> Measured:
    return Measured(wall, cpu / 2, cpu / 2, wire, 10 << 20, 20 << 20)


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_a_quick_run_measures_every_tool_that_is_installed(tmp_path: Path) -> None:
    words = [word for case in CASES for word in ("--only", case)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--quick", *words],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for case in CASES:
        assert case.replace("/", ", ") in done.stdout
    assert done.stdout.count(f"**{ours.NAME}**") == 3
    assert "Sent again because of the reboot" in done.stdout
    assert done.stdout.count("are the boot's") == len(CASES)
    for peer in peers.PEERS:
        there = all(peers.which(program) for program in peer.programs)
        shown = done.stdout.count(f"| {report.escape(peer.name)} |")
        assert shown == ((2 if peer is peers.Partclone else 3) if there else 0)
        assert there or f"not measured: {peer.name}" in done.stdout


def test_ratios_are_of_the_same_round() -> None:
    results = {"ours": [measured(1, 100), measured(8, 100)], "it": [measured(2, 200), measured(16, 400)]}
    case = report.summarise("a", "b", 1 << 30, results, "ours")
    own, other = case.rows
    assert own.cpu_ratio is None
    assert (other.cpu_ratio, other.wire_ratio, other.wall_ratio) == (0.5, 0.375, 1.0)
    assert (own.cpu, own.source_cpu, own.peak_site) == (4.5, 2.25, 20)


def test_a_partial_run_keeps_the_other_cases_and_all_prose(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{report.BEGIN}\n\n{report.END}\n\nafter\n")
    first = report.summarise("x", "one", 1 << 30, {"ours": [measured(1, 1)]}, "ours")
    second = report.summarise("x", "two", 1 << 30, {"ours": [measured(2, 2)], "a | b": [measured(3, 3)]}, "ours")
    again = report.summarise("x", "one", 1 << 30, {"ours": [measured(5, 1)]}, "ours")
    report.write(page, [second], ["x/one", "x/two"])
    report.write(page, [first], ["x/one", "x/two"])
    report.write(page, [again], ["x/one", "x/two"])
    text = page.read_text()
    assert report.parse(text) == {"x/one": again, "x/two": second}
    assert text.startswith("before\n")
    assert text.endswith("\n\nafter\n")
    assert text.index("x, one") < text.index("x, two")
    assert r"a \| b" in text
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has no lines"):
        report.write(page, [first], [])


def test_a_wrong_block_is_found_and_zeros_in_free_ones_are_not(tmp_path: Path) -> None:
    image, used, arrived = (tmp_path / name for name in ("image", "used", "arrived"))
    image.write_bytes(b"a" * 4096 + b"stale" * 819 + b"!")
    used.write_bytes(b"a" * 4096 + bytes(4096))
    disk = disks.Disk("x", image, used_only=used)
    for content in (image.read_bytes(), used.read_bytes()):
        arrived.write_bytes(content)
        assert disks.difference(disk, arrived) is None
    arrived.write_bytes(bytes(8192))
    assert disks.difference(disk, arrived) == "byte 0: the block is not the source's"
    arrived.write_bytes(b"a" * 4096)
    assert "4096 bytes arrived of 8192" in (disks.difference(disk, arrived) or "")


def test_time_of_children_and_of_their_children_counts() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    before = cpu_of_ended_children()
    command = f"{sys.executable} -c '{burn}'; echo done; read line"
    with subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        assert cpu_of(shell.pid) >= 0.25
        shell.communicate(b"\n")
    assert cpu_of_ended_children() - before >= 0.25
