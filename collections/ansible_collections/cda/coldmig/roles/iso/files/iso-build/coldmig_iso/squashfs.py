# SPDX-License-Identifier: GPL-3.0-or-later
"""Squashfs images inside a newc archive.

The image begins at byte 4096 of the archive. So one file serves two ways: ``losetup -o 4096`` mounts it from a medium,
and a boot loader can load the whole file as an initrd, where no driver for the medium is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from coldmig_iso.cpio import Archive, header, name_field
from coldmig_iso.run import BuildError, run

OFFSET = 4096
_COPY = 1 << 20


@dataclass(frozen=True)
class Compression:
    """Squashfs compressor with level and block size."""

    name: str
    arguments: tuple[str, ...]


def parse_compression(text: str) -> Compression:
    """``zstd-15`` (1..22), ``zstd-19-256K``, ``xz-1M``, ``gzip``: compressor, level, block size (default 128K).

    :raises BuildError: anything else.
    """
    found = re.fullmatch(r"(?:zstd-(\d{1,2})|xz|gzip)(?:-(128K|256K|512K|1M))?", text)
    if not found or (found[1] and not 1 <= int(found[1]) <= 22):
        raise BuildError(
            f"compression {text!r} is not known; allowed: zstd-1 to zstd-22, xz, gzip, each with an optional block size"
            " -128K, -256K, -512K or -1M (zstd-15, zstd-19-256K, xz-1M)"
        )
    arguments = ["-comp", text.split("-", maxsplit=1)[0], "-b", found[2] or "128K"]
    if found[1]:
        arguments += ["-Xcompression-level", found[1]]
    if text.startswith("xz"):
        arguments += ["-Xbcj", "x86"]
    return Compression(text, tuple(arguments))


def make_squashfs(tree: Path, target: Path, compression: Compression, *, exclude: tuple[str, ...] = ()) -> None:
    """Write a squashfs of a directory; everything belongs to root and has one fixed time."""
    run(
        [
            "mksquashfs",
            tree,
            target,
            *compression.arguments,
            *("-all-root", "-no-xattrs", "-noappend", "-no-progress", "-quiet"),
            *(word for pattern in exclude for word in ("-e", pattern)),
        ],
    )


def wrap(image: Path, target: Path, member: str) -> None:
    """Put a squashfs into an archive as ``member``, its content starting at :data:`OFFSET`."""
    size = image.stat().st_size
    head = header(member, 0o100444, size) + name_field(member)
    with target.open("wb") as out, image.open("rb") as source:
        # The kernel skips NUL bytes between archives, so leading ones are padding that costs nothing.
        out.write(head.rjust(OFFSET, b"\0"))
        while block := source.read(_COPY):
            out.write(block)
        out.write(bytes(-size % 4))
        out.write(Archive().finish())
