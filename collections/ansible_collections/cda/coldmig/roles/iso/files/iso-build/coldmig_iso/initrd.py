# SPDX-License-Identifier: GPL-3.0-or-later
"""Stage "initrd": busybox, our /init and the modules that find the medium, as a zstd-compressed newc archive."""

from __future__ import annotations

from pathlib import Path

from coldmig_iso import SOURCES
from coldmig_iso.cpio import Archive
from coldmig_iso.run import run
from coldmig_iso.system import BUSYBOX, INITRD_MODULES

INITRD = "initrd.img"


def build_initrd(system_result: Path, scratch: Path, result: Path) -> None:
    """Fill ``result`` with ``initrd.img``."""
    archive = Archive()
    for name in ("bin", "dev", "proc", "sys", "run", "newroot", "lib"):
        archive.directory(name)
    archive.device("dev/console", 0o600, 5, 1)
    archive.file("bin/busybox", (system_result / BUSYBOX).read_bytes(), 0o755)
    archive.link("bin/sh", "busybox")
    archive.file("init", (SOURCES / "boot/init").read_bytes(), 0o755)
    archive.directory("lib/modules")
    archive.tree(system_result / INITRD_MODULES / "usr/lib/modules", "lib/modules")
    plain = scratch / "initrd.cpio"
    plain.write_bytes(archive.finish())
    run(["zstd", "-q", "-19", "-o", result / INITRD, plain])
    # The kernel's EFI stub puts one initrd right behind the other, and archives must begin at whole words.
    with (result / INITRD).open("ab") as file:
        file.write(bytes(-file.tell() % 4))
