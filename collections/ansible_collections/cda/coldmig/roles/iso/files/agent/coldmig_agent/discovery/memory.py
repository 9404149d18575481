# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory is built in: firmware's account if it can be true, else the kernel's."""

from __future__ import annotations

import re
from pathlib import Path

from coldmig_agent.interfaces import read_text
from coldmig_agent.procfs import size_of

_GIB = 1 << 30
_BLOCK = 128 << 20
#: vSphere gives memory in multiples of this.
_STEP = 4 << 20
MAX_MEMORY_BLOCKS = 1 << 17


def system_ram(iomem: str) -> int:
    """Bytes of the top-level ``System RAM`` ranges of /proc/iomem; 0 when the addresses are hidden."""
    total = 0
    for start, end in re.findall(r"^([0-9a-f]+)-([0-9a-f]+) : System RAM$", iomem, re.MULTILINE):
        total += int(end, 16) - int(start, 16) + 1
    return total if total > 1 << 20 else 0


def _hotplug_blocks(sys: Path) -> int:
    root = sys / "devices/system/memory"
    try:
        size = int(read_text(root / "block_size_bytes") or "0", 16)
    except ValueError:
        return 0
    if size <= 0 or not root.is_dir():
        return 0
    online = 0
    for number, entry in enumerate(root.glob("memory[0-9]*")):
        if number >= MAX_MEMORY_BLOCKS:
            break
        online += read_text(entry / "online") != "0"
    return online * size


def choose(firmware: int | None, blocks: int, ram: int, usable: int) -> int:
    """The most trustworthy of four figures, in bytes.

    ``firmware`` counts only between what the kernel sees and 15 % + 1 GiB more (reserved areas, graphics, mirroring);
    beyond that the table is wrong or describes something else than this (virtual) machine.
    """
    if firmware is not None and usable <= firmware <= usable * 1.15 + _GIB:
        return firmware
    if blocks and usable <= blocks <= usable * 1.15 + _GIB:
        return blocks
    return -(-max(ram, usable) // _BLOCK) * _BLOCK


def read(sys: Path, proc: Path, firmware: int | None) -> int:
    """Memory in bytes, a multiple of 4 MiB; ``firmware`` is the sum of the DMI memory devices."""
    # What the kernel kept for itself is not in it.
    usable = size_of(proc / "meminfo", "MemTotal") or 0
    ram = system_ram(read_text(proc / "iomem", 1 << 20) or "")
    found = choose(firmware, _hotplug_blocks(sys), ram, usable)
    return max(_STEP, -(-found // _STEP) * _STEP)
