# SPDX-License-Identifier: GPL-3.0-or-later
"""What the ISO's /init said of the medium that the live system came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from coldmig_agent.interfaces import read_text
from coldmig_agent.machine import Notice
from coldmig_agent.text import clean
from coldmig_agent.warnings import notice

#: ``{"device": "/dev/sda"|null, "in_ram": true|false, "volume_id": "…"}``, below /run.
LIVE_MEDIUM = "coldmig/medium.json"


def read(run: Path) -> Mapping[str, object]:
    """The document; empty outside of the ISO, and where it is not as it should be."""
    try:
        document = json.loads(read_text(run / LIVE_MEDIUM, 1 << 16) or "null")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def notices(run: Path) -> list[Notice]:
    """What a person must know of the medium: that it must stay where it is, if the live system runs from it."""
    document = read(run)
    if document.get("in_ram") is not False:
        return []
    device = document.get("device")
    return [notice("runs-from-medium", device=clean(device, 64) if isinstance(device, str) else "its drive")]
