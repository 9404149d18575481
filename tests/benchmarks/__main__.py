# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m tests.benchmarks``: ours against the others, on disks and links of its own; prints and keeps the tables.

Needs root (network namespaces, loop devices). Each round of a case measures every tool once, one after another, on the
same image; what arrives is compared with it every time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Protocol

from tests.benchmarks import disks, image, network, ours, peers, report
from tests.benchmarks.disks import Disk
from tests.benchmarks.meter import Measured
from tests.benchmarks.network import Link

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = _ROOT / "docs/performance.md"
_REBOOT, _IMAGE = "reboot", "image"


class _Tool(Protocol):
    """Ours or a peer."""

    name: str

    def copy(self, disk: Disk) -> Measured: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """One case: a link, a disk, and the disk's size as a share of what --size-mib says."""

    link: Link
    disk: str
    share: float = 1.0
    special: str = ""

    @property
    def key(self) -> str:
        """Its name for --only."""
        return f"{self.link.name}/{self.disk}{self.special and '-' + self.special}"


def plans() -> list[Plan]:
    """All cases, in the order of the tables."""
    # A boot costs up to a second whatever the disk, and has nothing to tell of the copy: no disk is small.
    shares = {
        "loopback": {"random": 4.0, "half": 4.0, "ext4": 8.0, "ntfs": 4.0},
        "1gbit": {"random": 4.0, "half": 4.0, "ext4": 8.0, "ntfs": 4.0},
        "1gbit+50ms": {"half": 2.0, "ext4": 4.0},
        "100mbit": {"half": 1.5, "ext4": 3.0},
        "100mbit+50ms": {"half": 1.5, "ext4": 3.0},
    }
    found = [Plan(network.LINKS[link], disk, share) for link, of in shares.items() for disk, share in of.items()]
    found += [Plan(network.LINKS["1gbit"], disk, special=_REBOOT) for disk in ("random", "ext4")]
    return [*found, *(Plan(network.LINKS["loopback"], disk, 0.25, _IMAGE) for disk in ("random", "half"))]


def _is_slow(link: Link) -> bool:
    return link.rate_mbit is not None and link.rate_mbit <= 100


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-mib", type=int, default=512, help="size of the disks (default %(default)s)")
    parser.add_argument(
        "--runs", type=int, default=3, help="rounds of each case (default %(default)s; one at 100 Mbit/s)"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="CASE",
        help="cases whose name begins so, e.g. loopback, 1gbit/ext4; may be repeated",
    )  # fmt: skip
    parser.add_argument("--peers", action="append", metavar="WORD", help="only peers whose name has this word; or none")
    parser.add_argument("--quick", action="store_true", help="every case once with tiny disks, to see that all works")
    parser.add_argument("--checkout", type=Path, default=_ROOT, help="measure the product of another checkout")
    parser.add_argument("--page", type=Path, default=_PAGE, help="where the tables go (default docs/performance.md)")
    parser.add_argument("--no-page", action="store_true", help="only print the tables")
    parser.add_argument("--list", action="store_true", help="list the cases")
    return parser


def _peers(words: Sequence[str] | None) -> list[type[peers.Peer]]:
    if words is None:
        return list(peers.PEERS)
    return [peer for peer in peers.PEERS if any(word in peer.name for word in words)]


class _Bench:
    """One run of the benchmark."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self._options = options
        self._directory = directory
        self._disks: dict[tuple[str, int], Disk] = {}
        self._runs = 1 if options.quick else options.runs
        self._told: set[str] = set()

    def _disk(self, plan: Plan) -> Disk:
        mebibytes = 48 if self._options.quick else max(48, int(self._options.size_mib * plan.share))
        key = (plan.disk, mebibytes)
        if key not in self._disks:
            place = self._directory / f"{plan.disk}-{mebibytes}"
            place.mkdir()
            self._disks[key] = disks.MAKERS[plan.disk](place, mebibytes)
        return self._disks[key]

    def measure(self, link: Link, cases: Sequence[Plan]) -> list[report.Case]:
        """All cases of a link."""
        place = self._directory / link.name
        place.mkdir()
        level = 3 if _is_slow(link) else 1
        measured = []
        with network.connect(link) as ends, ours.site(ends, place, self._options.checkout) as site:
            others = self._available([peer(ends, place, level) for peer in _peers(self._options.peers)])
            for plan in cases:
                if plan.special == _REBOOT:
                    case = self._reboot(plan, site)
                elif plan.special == _IMAGE:
                    case = self._image(plan, site, place)
                else:
                    case = self._compare(plan, site, others)
                print(
                    f"\n{case.link}, {case.disk} ({case.size_mib} MiB, {case.runs} rounds)\n{report.table(case)}",
                    flush=True,
                )
                measured.append(case)
        return measured

    def _available(self, others: Sequence[peers.Peer]) -> list[peers.Peer]:
        for peer in others:
            if peer.missing and peer.name not in self._told:
                self._told.add(peer.name)
                print(f"not measured: {peer.name}; it needs: apt-get install {' '.join(sorted(set(peer.missing)))}")
        return [peer for peer in others if not peer.missing]

    def _compare(self, plan: Plan, site: ours.Ours, others: Sequence[peers.Peer]) -> report.Case:
        disk = self._disk(plan)
        tools: list[_Tool] = [site, *(peer for peer in others if peer.takes(disk))]
        results: dict[str, list[Measured]] = {tool.name: [] for tool in tools}
        for number in range(1 if _is_slow(plan.link) else self._runs):
            # Whoever is first in a round is not always the same.
            for tool in tools[number % len(tools) :] + tools[: number % len(tools)]:
                results[tool.name].append(tool.copy(disk))
        return report.summarise(plan.link.name, plan.disk, disk.size, results, ours.NAME)

    def _image(self, plan: Plan, site: ours.Ours, place: Path) -> report.Case:
        disk = self._disk(plan)
        results: dict[str, list[Measured]] = {ours.NAME: [], image.QEMU: []}
        for _ in range(self._runs):
            migration = site.copy_and_keep(disk)[1]
            results[ours.NAME].append(image.ours(site, disk, migration))
            results[image.QEMU].append(image.qemu_img(disk, place))
            site.remove(migration)
        return report.summarise(plan.link.name, f"{plan.disk}-{_IMAGE}", disk.size, results, ours.NAME)

    def _reboot(self, plan: Plan, site: ours.Ours) -> report.Case:
        disk = self._disk(plan)
        results: dict[str, list[Measured]] = {"whole": [], "cut at 90 %": [], "after the reboot": []}
        for _ in range(self._runs):
            whole = site.copy(disk)
            first, second = site.copy_after_reboot(disk, whole.wire_bytes)
            for name, found in zip(results, (whole, first, second), strict=True):
                results[name].append(found)
        again = median(
            (first.wire_bytes + second.wire_bytes) / whole.wire_bytes - 1
            for whole, first, second in zip(*results.values(), strict=True)
        )
        case = report.summarise(plan.link.name, f"{plan.disk}-{_REBOOT}", disk.size, results, "")
        return replace(
            case, note=f"Sent again because of the reboot: {max(0.0, again):.2%} of the bytes of the whole copy."
        )


def main() -> int:
    """Run the cases."""
    options = _parser().parse_args()
    chosen = [plan for plan in plans() if not options.only or any(plan.key.startswith(word) for word in options.only)]
    if options.list or not chosen:
        print("\n".join(plan.key for plan in plans()))
        return 0 if options.list else 2
    if os.geteuid() != 0:
        print("the benchmark makes network namespaces and loop devices of its own: run it as root", file=sys.stderr)
        return 2
    network.enter()
    # Not /tmp: where that is memory, the copies would not be durable.
    with tempfile.TemporaryDirectory(prefix="coldmig-bench-", dir="/var/tmp") as directory:
        bench = _Bench(options, Path(directory))
        for link in network.LINKS.values():
            cases = [plan for plan in chosen if plan.link == link]
            if cases:
                found = bench.measure(link, cases)
                # After each link: what comes later may fail, and takes long.
                if not options.no_page and not options.quick:
                    report.write(options.page, found, [plan.key for plan in plans()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
