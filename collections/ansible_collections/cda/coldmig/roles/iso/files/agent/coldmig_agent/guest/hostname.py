# SPDX-License-Identifier: GPL-3.0-or-later
"""The computer name of a Linux guest."""

from __future__ import annotations

import re

from coldmig_agent.guest.assignments import parse_assignments
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.text import clean

_NAME = re.compile(r"^[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?$")
_NOT_NAMES = frozenset({"(none)", "uninitialized", "unknown", "none"})


def usable(candidate: str) -> str | None:
    """The name if it says something: not ``localhost``, not empty, only characters of host names."""
    name = clean(candidate, 512).rstrip(".")
    if not _NAME.match(name) or name.lower() in _NOT_NAMES or name.lower().split(".")[0] == "localhost":
        return None
    return name


def _first_line(text: str) -> str:
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "")


def read_hostname(root: GuestRoot) -> str | None:
    """From the file that the guest's own init reads, in order of age; None where no file has a usable name."""
    for path in ("/etc/hostname", "/etc/HOSTNAME"):
        name = usable(_first_line(root.text(path, 4096) or ""))
        if name:
            return name
    for path, keys in (
        ("/etc/sysconfig/network", ("HOSTNAME",)),
        ("/etc/conf.d/hostname", ("hostname", "HOSTNAME")),
        ("/etc/rc.conf", ("HOSTNAME", "hostname")),
    ):
        values = parse_assignments(root.text(path) or "")
        for key in keys:
            name = usable(values.get(key, ""))
            if name:
                return name
    return None
