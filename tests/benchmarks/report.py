# SPDX-License-Identifier: GPL-3.0-or-later
"""Results as tables, and their place in docs/performance.md.

Between the two markers everything is made here: one comment with JSON for each case, then the tables. A run of some
cases keeps what earlier runs say of the others; within a case everything comes from one run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks.meter import Measured

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
_GIB, _MIB = 1 << 30, 1 << 20
_LINE = re.compile(r"^<!-- case (\{.*\}) -->$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Row:
    """One tool in one case: medians. CPU in core-seconds per GiB and bytes on the wire per byte of disk, memory in MiB.

    ``boot_*``: seconds and core-seconds, see Measured. ``*_ratio``: ours divided by this tool, the median over the
    rounds of a run.
    """

    tool: str
    source_cpu: float
    site_cpu: float
    cpu: float
    wire: float
    wall: float
    peak_source: int
    peak_site: int
    cpu_ratio: float | None = None
    wire_ratio: float | None = None
    wall_ratio: float | None = None
    boot_wall: float = 0.0
    boot_cpu: float = 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """One disk on one link."""

    link: str
    disk: str
    size_mib: int
    runs: int
    rows: tuple[Row, ...]
    note: str = ""

    @property
    def key(self) -> str:
        """Its name on the command line."""
        return f"{self.link}/{self.disk}"


def summarise(link: str, disk: str, size: int, results: Mapping[str, Sequence[Measured]], ours: str) -> Case:
    """Medians and ratios; ``results`` has one list for each tool, whose n-th items were measured one after another."""
    gib = size / _GIB
    rows = []
    for tool, runs in results.items():
        own = results.get(ours, ()) if tool != ours else ()
        pairs = list(zip(own, runs, strict=False))
        rows.append(
            Row(
                tool,
                round(median(run.source_cpu for run in runs) / gib, 3),
                round(median(run.site_cpu for run in runs) / gib, 3),
                round(median(run.cpu for run in runs) / gib, 3),
                round(median(run.wire_bytes for run in runs) / size, 5),
                round(median(run.wall for run in runs), 3),
                int(median(run.peak_source for run in runs) / _MIB),
                int(median(run.peak_site for run in runs) / _MIB),
                round(median(own.cpu / run.cpu for own, run in pairs), 3) if pairs else None,
                round(median(own.wire_bytes / run.wire_bytes for own, run in pairs), 3) if pairs else None,
                round(median(own.wall / run.wall for own, run in pairs), 3) if pairs else None,
                round(median(run.boot_wall for run in runs), 3),
                round(median(run.boot_cpu for run in runs), 3),
            )
        )
    return Case(link, disk, size // _MIB, min(map(len, results.values())), tuple(rows))


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def escape(name: str) -> str:
    """A name in a cell of a table."""
    return name.replace("|", r"\|")


def table(case: Case) -> str:
    """One case in Markdown."""
    lines = [
        "| tool | CPU source | site | together | ours ÷ it | on the wire | ours ÷ it | wall s | ours ÷ it | memory |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in case.rows:
        ours = row.cpu_ratio is None
        name = escape(row.tool)
        tool = f"**{name}**" if ours else name
        cells = [
            f"{row.source_cpu:.2f}", f"{row.site_cpu:.2f}", f"{row.cpu:.2f}", _ratio(row.cpu_ratio),
            f"{row.wire:.4f}" if row.wire < 0.01 else f"{row.wire:.3f}", _ratio(row.wire_ratio),
            f"{row.wall:.1f}", _ratio(row.wall_ratio), f"{row.peak_source}, {row.peak_site} MiB",
        ]  # fmt: skip
        lines.append(f"| {tool} | {' | '.join(cells)} |")
    wall, cpu = case.rows[0].boot_wall, case.rows[0].boot_cpu
    if wall:
        lines += ["", f"Of ours, {wall:.1f} s and {cpu:.1f} core-seconds are the boot's, whatever the disk."]
    if case.note:
        lines += ["", case.note]
    return "\n".join(lines)


def block(cases: Iterable[Case]) -> str:
    """Everything between the markers."""
    parts = []
    for case in cases:
        document = json.dumps(asdict(case), separators=(",", ":"), ensure_ascii=False)
        runs = "one run" if case.runs == 1 else f"medians of {case.runs} runs"
        parts.append(
            f"<!-- case {document} -->\n**{case.link}, {case.disk}** ({case.size_mib} MiB, {runs})\n\n{table(case)}"
        )
    return f"{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}"


def parse(text: str) -> dict[str, Case]:
    """The cases that a page has, by their keys."""
    cases = {}
    for found in _LINE.finditer(text):
        document = json.loads(found[1])
        rows = tuple(Row(**row) for row in document.pop("rows"))
        case = Case(**document, rows=rows)
        cases[case.key] = case
    return cases


def write(page: Path, measured: Sequence[Case], order: Sequence[str]) -> None:
    """Put the cases into the page; what it has of others stays. Raises ValueError if it has no place for them."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: has no lines {BEGIN} and {END}")
    cases = parse(text) | {case.key: case for case in measured}
    known = [cases[key] for key in order if key in cases]
    page.write_text(before + block(known) + after, encoding="utf-8")
