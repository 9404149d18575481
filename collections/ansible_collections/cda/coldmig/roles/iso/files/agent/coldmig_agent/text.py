# SPDX-License-Identifier: GPL-3.0-or-later
"""Text that comes from firmware, disks and the network, made safe to show and to send."""

from __future__ import annotations

import re

# Control characters (C0, DEL, C1) would let a guest's host name drive the operator's terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")

_PCI_ADDRESS = re.compile(r"^(?:pci)?[0-9a-f]{4}:[0-9a-f]{2}(?::[0-9a-f]{2}\.[0-7])?$")


def clean(value: str, limit: int = 255) -> str:
    """Return ``value`` on one line, without control characters, at most ``limit`` characters long."""
    return _CONTROL.sub(" ", value).strip()[:limit].rstrip()


def clean_bytes(value: bytes, limit: int = 255) -> str:
    """Decode bytes of unknown origin as UTF-8 (NUL ends the text) and clean the result."""
    return clean(value.split(b"\0", 1)[0].decode("utf-8", "replace"), limit)


def human_bytes(count: float) -> str:
    """1536 → ``1.5 KiB``. Binary units, because disks are compared with what partition tools show."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    value = float(max(0, count))
    for unit in units:
        if value < 1024 or unit == units[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def human_duration(seconds: float) -> str:
    """3725 → ``1 h 02 min``; short spans in seconds."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def natural_key(value: str) -> list[tuple[int, int, str]]:
    """Sort key in which numbers count as numbers: ``host2`` before ``host10``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"[0-9]+|[^0-9]+", value)]


def bus_key(path: str) -> list[tuple[int, int, str]]:
    """Sort key for places in ``/sys/devices``: PCI addresses are hexadecimal of fixed width, other numbers decimal."""
    key: list[tuple[int, int, str]] = []
    for part in path.split("/"):
        key += [(1, 0, part)] if _PCI_ADDRESS.match(part) else natural_key(part)
    return key
