# SPDX-License-Identifier: GPL-3.0-or-later
"""A small image with all of a base ISO that is patched or served, made by the program that makes the real one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from coldmig_iso.image import ARGS_SLOT_BYTES, ARGUMENTS, CONFIG_SLOT_BYTES, kernel_arguments

LIVE = {
    "vmlinuz": b"kernel" * 900,
    "initrd.img": b"initrd" * 700,
    "layer.cpio": b"layer" * 1000,
    "system.cpio": b"system" * 5000,
}


def make_iso(path: Path, volume: str, *, slots: bool = True) -> Path:
    """Write the image; ``slots=False`` leaves out what is patched."""
    tree = path.with_suffix(".tree")
    (tree / "live").mkdir(parents=True)
    (tree / "boot/grub").mkdir(parents=True)
    for name, content in LIVE.items():
        (tree / "live" / name).write_bytes(content)
    (tree / "live" / ARGUMENTS).write_text(kernel_arguments(volume) + "\n")
    if slots:
        (tree / "live/config.img").write_bytes(bytes(CONFIG_SLOT_BYTES))
        (tree / "boot/grub/custom.cfg").write_bytes(b"\n" * ARGS_SLOT_BYTES)
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-rational-rock", "-V", volume, "-o", path, tree],
        check=True,
        capture_output=True,
    )
    return path
