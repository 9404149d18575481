# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of screens: QEMU's PPM as a small PNG (ISO/IEC 15948) with a palette."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_from_ppm(ppm: Path, png: Path) -> None:
    """Write the picture of a text screen, which has few colours. Raises ValueError for more than 256."""
    magic, width_text, height_text, most, pixels = ppm.read_bytes().split(maxsplit=4)
    if magic != b"P6" or most != b"255":
        raise ValueError(f"{ppm}: not a PPM of 8 bits a colour")
    width, height = int(width_text), int(height_text)
    # split() may have taken white space that was the first pixels' colour: it is counted from the end.
    pixels = ppm.read_bytes()[-width * height * 3 :]
    colours = sorted({pixels[i : i + 3] for i in range(0, len(pixels), 3)})
    if len(colours) > 256:
        raise ValueError(f"{ppm}: {len(colours)} colours")
    index = {colour: number for number, colour in enumerate(colours)}
    bits = next(bits for bits in (1, 2, 4, 8) if len(colours) <= 1 << bits)
    rows = bytearray()
    for row in range(height):
        start = row * width * 3
        numbers = [index[pixels[i : i + 3]] for i in range(start, start + width * 3, 3)]
        per_byte = 8 // bits
        numbers += [0] * (-len(numbers) % per_byte)
        rows.append(0)
        for at in range(0, len(numbers), per_byte):
            value = 0
            for number in numbers[at : at + per_byte]:
                value = value << bits | number
            rows.append(value)
    header = struct.pack(">IIBBBBB", width, height, bits, 3, 0, 0, 0)
    png.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"PLTE", b"".join(colours))
        + _chunk(b"IDAT", zlib.compress(bytes(rows), 9))
        + _chunk(b"IEND", b"")
    )
