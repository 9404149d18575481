# SPDX-License-Identifier: GPL-3.0-or-later
"""Processor time and memory of processes with all that they start."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_EVERY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Measured:
    """One copy. CPU in seconds, user and system; ``peak_*`` are the greatest sums of resident memory, in bytes.

    ``boot_*`` is the part of a boot that does not grow with the disk: what the agent took until it was registered.
    """

    wall: float
    source_cpu: float
    site_cpu: float
    wire_bytes: int
    peak_source: int = 0
    peak_site: int = 0
    boot_wall: float = 0.0
    boot_cpu: float = 0.0

    @property
    def cpu(self) -> float:
        """Both sides."""
        return self.source_cpu + self.site_cpu


def tree(pid: int) -> Iterator[int]:
    """A process and its living descendants."""
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                yield from tree(int(child))
    except OSError:
        return


def cpu_of(pid: int) -> float:
    """Seconds that a process, its descendants and those of them that have ended and were waited for have used."""
    total = 0
    for member in tree(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        except OSError:
            continue
        total += sum(int(field) for field in fields.split()[11:15])
    return total / _TICKS


def cpu_of_ended_children() -> float:
    """Seconds of all children of this process, and of theirs, that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def resident(pid: int) -> int:
    """Bytes of memory that a process and its descendants hold; what they share counts for each."""
    total = 0
    for member in tree(pid):
        try:
            total += int(Path(f"/proc/{member}/statm").read_text(encoding="ascii").split()[1])
        except (OSError, IndexError):
            continue
    return total * _PAGE


class PeakMemory:
    """Looks at the memory of some process trees, ten times a second, while its context is open."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = dict(roots)
        self.peaks = dict.fromkeys(roots, 0)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(_EVERY_SECONDS):
            for name, pid in self._roots.items():
                self.peaks[name] = max(self.peaks[name], resident(pid))
