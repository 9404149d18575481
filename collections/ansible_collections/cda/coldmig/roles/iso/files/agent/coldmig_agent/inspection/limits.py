# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the look into the disks may take, how much memory it may use, and whether it is wanted at all.

Kernel argument ``coldmig.inspect=no`` leaves it out, ``coldmig.inspect=120`` gives it another number of seconds.
"""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from coldmig_agent.interfaces import read_text
from coldmig_agent.procfs import available_memory

SECONDS = 60.0
#: A machine that is emulated instruction by instruction does everything about eight times slower.
EMULATED_FACTOR = 8.0
#: One file system gets this share of the time: a hostile one must not cost all others theirs.
SHARE_OF_ONE = 0.4
#: For looking once more without assembly, and for taking everything down, beyond the limit.
MORE = 0.5
#: Changes on all overlays together. With the reading process that is what the inspection needs of the memory.
OVERLAY_BYTES = 64 << 20
_LEAST_OVERLAY_BYTES = 16 << 20
_ARGUMENT = re.compile(r"(?:^|\s)coldmig\.inspect=(\S*)")


@dataclass(frozen=True, slots=True)
class Limits:
    """``seconds`` for everything; ``overlay_bytes`` of memory for changes."""

    seconds: float = SECONDS
    overlay_bytes: int = OVERLAY_BYTES

    @property
    def one_file_system(self) -> float:
        """Seconds for a single file system."""
        return self.seconds * SHARE_OF_ONE


def is_emulated() -> bool:
    """Whether the processor is QEMU's translator."""
    try:
        done = subprocess.run(
            ["systemd-detect-virt", "--vm"], capture_output=True, text=True, timeout=10, check=False
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "qemu"


def read_limits(proc: Path) -> Limits | None:
    """From the kernel's command line and the free memory; None where the inspection is switched off."""
    found = _ARGUMENT.findall(read_text(proc / "cmdline", 1 << 16) or "")
    word = found[-1] if found else ""
    if word in {"no", "off", "0"}:
        return None
    if word.isascii() and word.isdigit() and len(word) < 6:
        seconds = float(word)
    else:
        seconds = SECONDS * (EMULATED_FACTOR if is_emulated() else 1.0)
    available = available_memory(proc)
    quarter = OVERLAY_BYTES if available is None else available // 4
    return Limits(seconds, max(_LEAST_OVERLAY_BYTES, min(OVERLAY_BYTES, quarter)))


class Clock:
    """What is left of a number of seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left, not below 0."""
        return max(0.0, self._end - time.monotonic())
