# SPDX-License-Identifier: GPL-3.0-or-later
"""The streamOptimized image of a copied disk, as vCenter gets it: ours from the gateway over TLS, against qemu-img's.

qemu-img makes it from a local file, with no network and nothing checked. Ours is made from what was compressed at the
source, so its price is only a part of the copy's.
"""

from __future__ import annotations

import time
from pathlib import Path

from tests.benchmarks.disks import Disk, run
from tests.benchmarks.meter import Measured, cpu_of, cpu_of_ended_children
from tests.benchmarks.ours import Ours

QEMU = "qemu-img convert -O vmdk"
_PIECE = 1 << 20


def ours(site: Ours, disk: Disk, migration: str) -> Measured:
    """Fetch the image of a copied disk and throw it away; the "source" is who receives it."""
    before, begun = cpu_of(site.gateway.service.pid), time.monotonic()
    own = time.process_time()
    buffer = memoryview(bytearray(_PIECE))
    size = 0
    path = f"/data/v1/migrations/{migration}/disks/0/image.vmdk"
    with site.gateway.api().open("GET", path) as answer:
        while count := answer.readinto(buffer):
            size += count
    wall = time.monotonic() - begun
    return Measured(wall, time.process_time() - own, cpu_of(site.gateway.service.pid) - before, size)


def qemu_img(disk: Disk, directory: Path) -> Measured:
    """Make the image from the disk itself."""
    target = directory / "qemu.vmdk"
    disk.forget()
    before, begun = cpu_of_ended_children(), time.monotonic()
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", disk.image, target)
    wall = time.monotonic() - begun
    size = target.stat().st_size
    target.unlink()
    return Measured(wall, 0.0, cpu_of_ended_children() - before, size)
