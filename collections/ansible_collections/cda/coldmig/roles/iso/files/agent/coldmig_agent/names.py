# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine is called: by its own system if that can be read, else by what its disks and its network know."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from coldmig_agent.discovery.disks import Source
from coldmig_agent.encryption import Encryption
from coldmig_agent.encryption.verdict import computer_name
from coldmig_agent.interfaces import read_text
from coldmig_agent.machine import Guest, Nic
from coldmig_agent.text import clean

_MAX_LEASES = 16
_HOSTNAME = re.compile(r"^HOSTNAME=(\S{1,253})$", re.MULTILINE)
_NAME = re.compile(r"^[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?$")
#: Names that many computers have, and the live system's own.
_NOBODYS = frozenset({"localhost", "localhost.localdomain", "coldmig", "debian", "live", "none", "unknown"})


def usable(name: str | None) -> str | None:
    """The name, if a computer can be called so and not every second one is."""
    text = clean(name or "", 253).rstrip(".")
    return text if _NAME.match(text) and text.lower() not in _NOBODYS else None


def of_leases(run: Path) -> str | None:
    """The name that a DHCP server gave to this machine together with its address."""
    leases = run / "systemd/netif/leases"
    for lease in sorted(leases.iterdir())[:_MAX_LEASES] if leases.is_dir() else []:
        found = _HOSTNAME.search(read_text(lease, 1 << 16) or "")
        if found and (name := usable(found[1])):
            return name
    return None


def of_disks(sources: Sequence[Source]) -> str | None:
    """The name in a Windows disk group or in the label of a ZFS pool."""
    groups = [source.dynamic.computer for source in sources if source.dynamic is not None]
    owners = [volume.content.owner for source in sources for volume in source.volumes]
    return next((name for item in (*groups, *owners) if (name := usable(item))), None)


def machine_name(
    guests: Sequence[Guest],
    encrypted: Sequence[Encryption],
    sources: Sequence[Source],
    run: Path,
    *,
    addresses: Sequence[str],
    cards: Sequence[Nic],
) -> str:
    """The first of: host name of the first system that has one; computer name in BitLocker's metadata, in a disk group
    or pool, in the DHCP lease; the machine's address; its first card's."""
    systems = next((name for guest in guests if (name := guest.hostname or guest.computer_name)), None)
    known = systems or usable(computer_name(encrypted)) or of_disks(sources) or of_leases(run)
    if known:
        return known
    if addresses:
        return addresses[0]
    return cards[0].permanent_mac if cards else "unknown"
