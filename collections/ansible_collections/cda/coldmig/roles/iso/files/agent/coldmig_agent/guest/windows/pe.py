# SPDX-License-Identifier: GPL-3.0-or-later
"""What the header and the version resource of a Windows program say."""

from __future__ import annotations

import struct

_MACHINES = {0x014C: "i386", 0x8664: "x86_64", 0xAA64: "aarch64", 0x01C4: "arm", 0x0200: "ia64"}
_FIXED_INFO = struct.pack("<II", 0xFEEF04BD, 0x00010000)
#: How much of a file :func:`machine` wants to see.
HEAD = 4096


def machine(head: bytes) -> str | None:
    """The processor that a program is for, by the COFF header of its first :data:`HEAD` bytes."""
    if head[:2] != b"MZ" or len(head) < 64:
        return None
    start = struct.unpack_from("<I", head, 0x3C)[0]
    if start + 6 > len(head) or head[start : start + 4] != b"PE\0\0":
        return None
    return _MACHINES.get(struct.unpack_from("<H", head, start + 4)[0])


def product_version(data: bytes) -> tuple[int, int, int, int] | None:
    """The four numbers of the product's version (``10, 0, 20348, 2113``): VS_FIXEDFILEINFO, found by its signature."""
    at = data.find(_FIXED_INFO)
    if at < 0 or at + 24 > len(data):
        return None
    high, low = struct.unpack_from("<II", data, at + 16)
    return high >> 16, high & 0xFFFF, low >> 16, low & 0xFFFF
