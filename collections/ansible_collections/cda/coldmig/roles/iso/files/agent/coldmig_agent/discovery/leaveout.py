# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks are not copied because the settings leave them out.

What the kernel tells of a disk is asked first: a disk that is left out by it is never opened. Labels lie on the disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from coldmig_agent.config import DiskRule
from coldmig_agent.discovery.blockdevices import BlockDevice

#: What a size with a unit may be off: disks hold a little more than what is printed on them.
_TOLERANCE = 0.01


def _size_fits(rule: DiskRule, size: int) -> bool:
    if rule.size_bytes is not None:
        slack = 0 if rule.exact else int(rule.size_bytes * _TOLERANCE)
        if abs(size - rule.size_bytes) > slack:
            return False
    if rule.larger_than is not None and size <= rule.larger_than:
        return False
    return rule.smaller_than is None or size < rule.smaller_than


def fits(rule: DiskRule, device: BlockDevice, labels: Iterable[str] | None) -> bool:
    """Whether all of the rule is true of the disk. ``labels`` None: nobody has looked into it yet."""
    if rule.label is not None and rule.label not in (labels or ()):
        return False
    if rule.serial is not None and rule.serial.strip() != device.serial.strip():
        return False
    if rule.path is not None:
        names = (str(device.path), *device.links)
        if not any(fnmatchcase(name, rule.path) for name in names):
            return False
    return _size_fits(rule, device.size_bytes)


def reason(rules: Sequence[DiskRule], device: BlockDevice, labels: Iterable[str] | None = None) -> str:
    """Why the disk is left out, for a person; empty where it is not."""
    known = None if labels is None else tuple(labels)
    found = next((rule for rule in rules if fits(rule, device, known)), None)
    return f"left out by the settings ({found.text})" if found is not None else ""
