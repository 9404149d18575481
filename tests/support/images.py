# SPDX-License-Identifier: GPL-3.0-or-later
"""Disk images whose content says whether all of it arrived: every chunk is its own."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from pathlib import Path

MIB = 1 << 20


def sha256(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_chunk(number: int, seed: int = 0) -> bytes:
    """A mebibyte of text that deflates well and differs from chunk to chunk."""
    line = f"line of chunk {number} of disk {seed}, which deflates well: "
    return "".join(f"{line}{count:06d}\n" for count in range(MIB // (len(line) + 7) + 1)).encode()[:MIB]


def random_image(path: Path, megabytes: int, seed: int) -> Path:
    """Bytes that no compressor shrinks."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        for _chunk in range(megabytes):
            file.write(chance.randbytes(MIB))
    return path


def mixed_image(path: Path, megabytes: int, seed: int, tail: int = 0) -> Path:
    """In stretches of some chunks: data that deflates, data that does not, zeros; then ``tail`` random bytes."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(megabytes * MIB + tail)
        chunk = 0
        while chunk < megabytes:
            length = min(chance.randrange(1, 6), megabytes - chunk)
            kind = chance.choice(["zero", "text", "random"])
            for number in range(chunk, chunk + length):
                file.seek(number * MIB)
                if kind == "text":
                    file.write(text_chunk(number, seed))
                elif kind == "random":
                    file.write(chance.randbytes(MIB))
            chunk += length
        file.seek(megabytes * MIB)
        file.write(chance.randbytes(tail))
    return path


def overwrite(path: Path, chunks: Iterable[int], seed: int) -> None:
    """New random content for some chunks."""
    chance = random.Random(seed)
    with path.open("r+b") as file:
        for chunk in chunks:
            file.seek(chunk * MIB)
            file.write(chance.randbytes(MIB))
